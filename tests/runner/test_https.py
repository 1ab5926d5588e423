"""A Prefect API whose certificate is signed by an authority that nobody but its users knows."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from distributed import LocalCluster
from distributed.security import Security

from prefect_coiled.task_runner.worker_settings import settings_here

FLOW = """
import os, sys
from distributed.security import Security
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect_coiled import CoiledTaskRunner
from prefect_coiled.task_runner.recording import wait_until_recorded
from tests.runner.conftest import task_runs

@task(log_prints=True)
def double(x):
    from prefect.settings import get_current_settings
    from prefect.variables import Variable
    print("doubling")
    return 2 * x, Variable.get("factor", default=1), get_current_settings().api.ssl_cert_file

address, ca, cert, key = sys.argv[1:]
theirs = os.environ.get("PREFECT_API_SSL_CERT_FILE") or os.environ["SSL_CERT_FILE"]
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)

@flow(task_runner=CoiledTaskRunner(address=address, client_kwargs={"security": security}))
def doubles():
    found = double.map([1, 2, 3]).result()
    assert [(a, b) for a, b, _ in found] == [(2, 1), (4, 1), (6, 1)], found
    assert all(c and c != theirs for _, _, c in found), found
    return flow_run.id

run_id = doubles()
wait_until_recorded()
assert {r.state_name for r in task_runs(run_id)} == {"Completed"}
print("RIGHT")
"""


class Https(NamedTuple):
    url: str
    authority: Path


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory, until: Callable[..., Any]) -> Iterator[Https]:
    """A Prefect server behind https; its certificate is for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("https")
    made = certificates_for_loopback(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {**os.environ, "PREFECT_HOME": str(folder / "home")}
    environ.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "uvicorn", "prefect.server.api.server:create_app", "--factory"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    command += ["--ssl-certfile", str(made.cert), "--ssl-keyfile", str(made.key)]
    with subprocess.Popen(command, env=environ) as server:
        context = ssl.create_default_context(cafile=str(made.authority))

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"https://127.0.0.1:{port}/api/health", context=context):
                    return True
            except OSError:
                assert server.poll() is None
                return False

        try:
            until(answers, 120.0)
            yield Https(f"https://127.0.0.1:{port}/api", made.authority)
        finally:
            server.terminate()


class Files(NamedTuple):
    authority: Path
    cert: Path
    key: Path


def certificates_for_loopback(folder: Path) -> Files:
    """An authority of its own, and a certificate for 127.0.0.1 that it signed."""
    now, day = datetime.now(timezone.utc), timedelta(days=1)

    def builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
        )

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    ca = builder("an office", "an office", ca_key).add_extension(constraints, critical=True)
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    of_server = builder("server", "an office", key).add_extension(here, critical=False)
    files = Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    files.authority.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    files.cert.write_bytes(of_server.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return files


@pytest.mark.parametrize("variable", ["PREFECT_API_SSL_CERT_FILE", "SSL_CERT_FILE"])
def test_workers_trust_the_authority_that_the_client_trusts(
    https: Https, dask_cluster: LocalCluster, security: Security, tmp_path: Path, variable: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(FLOW)
    environ = {**os.environ, "PREFECT_API_URL": https.url, variable: str(https.authority)}
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    dask = (security.tls_ca_file, security.tls_client_cert, security.tls_client_key)
    files = []
    for number, text in enumerate(dask):  # a temporary security holds them as texts
        files.append(tmp_path / f"{number}.pem")
        files[-1].write_text(str(text))
    command = [sys.executable, str(program), dask_cluster.scheduler_address, *map(str, files)]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180)
    assert ran.stdout.endswith("RIGHT\n"), ran.stdout + ran.stderr[-4000:]


def test_places_that_a_machine_has_not_are_left_to_it(tmp_path: Path) -> None:
    settings = {
        "profile": {},
        "settings": {"home": str(tmp_path / "nowhere"), "api": {"url": "http://a/api"}},
    }
    assert settings_here(settings, "")["settings"] == {"api": {"url": "http://a/api"}}
    settings["settings"]["home"] = str(tmp_path)
    assert settings_here(settings, "")["settings"]["home"] == str(tmp_path)
