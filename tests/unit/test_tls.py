"""Who has a certificate of the cluster, in time and in a present TLS, is served; nobody else is."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from distributed.comm import listen
from distributed.security import Security

from prefect_coiled.node.anteroom import Anteroom, guard_dask
from prefect_coiled.plan.certificates import ClusterCertificates, KeyPair

NOW = datetime.now(timezone.utc)
OURS = ClusterCertificates.make("c", NOW)
OTHERS = ClusterCertificates.make("c", NOW)  # of the same name
OLD = ClusterCertificates.make("c", NOW - timedelta(days=8))
YOUNG = ClusterCertificates.make("c", NOW + timedelta(days=1))


def written(folder: Path, text: str) -> str:
    path = folder / f"{abs(hash(text))}.pem"
    path.write_text(text)
    return str(path)


@asynccontextmanager
async def listener(folder: Path, certificates: ClusterCertificates, role: str) -> AsyncIterator[int]:
    """What a scheduler or a worker listens with; gives its port."""
    pair = certificates.scheduler if role == "scheduler" else certificates.worker
    names = {
        f"tls_{role}_cert": written(folder, pair.cert),
        f"tls_{role}_key": written(folder, pair.key),
        "tls_ca_file": written(folder, certificates.ca),
    }

    async def hear(comm: Any) -> None:
        await comm.close()

    security = Security(require_encryption=True, **names)
    made = await listen("tls://127.0.0.1:0", hear, **security.get_listen_args(role))
    guard_dask(made, Anteroom(patience_s=5.0))
    try:
        yield int(made.contact_address.rpartition(":")[2])
    finally:
        made.stop()


def client(folder: Path, pair: KeyPair | None, **bounds: ssl.TLSVersion) -> ssl.SSLContext:
    """Who comes: it believes everybody, and speaks whatever it is let."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, value in bounds.items():
            setattr(context, name, value)
    if pair is not None:
        context.load_cert_chain(written(folder, pair.cert), written(folder, pair.key))
    return context


async def is_served(port: int, context: ssl.SSLContext | None) -> bool:
    """Whether the other side says anything: Dask's does at once, to who has got through TLS."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, ssl=context), 10)
        writer.write(b"\0" * 8)
        said = await asyncio.wait_for(reader.read(8), 10)
        writer.close()
    except OSError:  # an error of TLS is one
        return False
    return bool(said)


def old(version: ssl.TLSVersion) -> dict[str, ssl.TLSVersion]:
    return {"minimum_version": version, "maximum_version": version}


VISITORS: dict[str, tuple[KeyPair | None, dict[str, ssl.TLSVersion]]] = {
    "no certificate": (None, {}),
    "one of another cluster": (OTHERS.client, {}),
    "the worker's of another cluster": (OTHERS.worker, {}),
    "one that is over": (OLD.client, {}),
    "one that is not yet": (YOUNG.client, {}),
    "one signed by itself": (KeyPair(OTHERS.ca, OTHERS.ca_key), {}),
    "TLS 1.0": (OURS.client, old(ssl.TLSVersion.TLSv1)),
    "TLS 1.1": (OURS.client, old(ssl.TLSVersion.TLSv1_1)),
}


@pytest.mark.parametrize("role", ["scheduler", "worker"])
@pytest.mark.parametrize("visitor", VISITORS)
async def test_who_has_no_certificate_of_the_cluster_is_not_heard(
    tmp_path: Path, role: str, visitor: str
) -> None:
    pair, bounds = VISITORS[visitor]
    async with listener(tmp_path, OURS, role) as port:
        assert not await is_served(port, client(tmp_path, pair, **bounds))
        assert not await is_served(port, None)  # without TLS
        assert await is_served(port, client(tmp_path, OURS.client))


async def test_a_certificate_of_the_clusters_own_authority_that_is_over_is_refused(tmp_path: Path) -> None:
    # Both sides of it are over: whoever kept the keys of a cluster opens nothing that still runs with them.
    async with listener(tmp_path, OLD, "scheduler") as port:
        assert not await is_served(port, client(tmp_path, OLD.client))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_the_visitor_of_these_tests_speaks_old_versions(tmp_path: Path, version: Any) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.minimum_version = ssl.TLSVersion.TLSv1
    server.load_cert_chain(written(tmp_path, OURS.worker.cert), written(tmp_path, OURS.worker.key))
    heard: list[str] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(writer.get_extra_info("ssl_object").version())
        writer.write(b"x")
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0, ssl=server) as served:
        port = served.sockets[0].getsockname()[1]
        assert await is_served(port, client(tmp_path, None, **old(version)))
    assert heard == [version.name.replace("_", ".")]


A_NODE = """
import asyncio, sys
from distributed.comm import connect, listen
from distributed.security import Security
from prefect_coiled.node.dask_process import settle

file = sys.argv[1]
settle({
    "files": {"ca": file, "cert": file, "key": file}, "config": {
        "region": "us-east-1", "account": "a", "scheduler_lost_timeout": 30.0},
    "environ": {}, "dask_config": {"distributed": {"comm": {"require-encryption": False}}}, "scratch": "/tmp",
})

async def refused(make):
    try:
        await make()
    except RuntimeError as error:
        return "encryption required" in str(error)
    return False

async def main():
    security = Security()
    to = security.get_connection_args("worker")
    assert await refused(lambda: connect("tcp://127.0.0.1:9", timeout=1, **to))
    args = security.get_listen_args("worker")
    assert await refused(lambda: listen("tcp://127.0.0.1:0", lambda comm: None, **args))

asyncio.run(main())
print("refused")
"""


def test_a_machine_speaks_to_nobody_without_tls_whatever_its_configuration_says(tmp_path: Path) -> None:
    file = written(tmp_path, OURS.worker.cert + OURS.worker.key + OURS.ca)
    done = subprocess.run([sys.executable, "-c", A_NODE, file], capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n", done.stderr
