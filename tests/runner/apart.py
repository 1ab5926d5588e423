"""Workers that have no way to the Prefect API, as machines of a cluster have none to a laptop's server.

Each is in a network namespace of its own, whose one network leads to the scheduler and to the other workers.
Where namespaces are refused, connections to the API's port fail in the workers' processes instead.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed.deploy.spec import SpecCluster
from distributed.deploy.subprocess import Subprocess
from distributed.scheduler import Scheduler
from distributed.security import Security

NAMES = ("a", "b")
NETWORK = "10.78.77"
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
# What a worker and its nanny run first, where they share the network of the API.
_WALL = """
import sys
def refuse(event, arguments):
    if event == "socket.connect" and arguments[1][1:2] == ({port},):
        raise ConnectionRefusedError(111, "this worker has no way to the Prefect API")
sys.addaudithook(refuse)
"""


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, env={"PATH": _PATH})


class Apart(Subprocess):
    """A worker and its nanny.

    Args:
        before: What the command begins with.
        files: The certificate authority, certificate and key.
        host: The address that it listens at.
        wall: A file that its processes run first, if any.
    """

    def __init__(
        self, scheduler: str, name: str, before: list[str], files: list[str], host: str, wall: str = ""
    ) -> None:
        super().__init__()
        authority, certificate, key = files
        self._command = [
            *before,
            *(sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--name", name),
            *("--nthreads", "2", "--host", host, "--no-dashboard"),
            *("--tls-ca-file", authority, "--tls-cert", certificate, "--tls-key", key),
            *(("--preload", wall) if wall else ()),
        ]
        # As workers of the folder's other cluster have it.
        tls = "DASK_DISTRIBUTED__COMM__TLS__"
        self._environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **dict(zip((f"{tls}CA_FILE", f"{tls}CLIENT__CERT", f"{tls}CLIENT__KEY"), files, strict=True)),
        }

    async def _start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(*self._command, env=self._environ)


@contextmanager
def _namespaces() -> Iterator[dict[str, str]]:
    """Two namespaces on one network with this process; by its name, the process that holds each."""
    bridge = f"apart{os.getpid()}"
    with ExitStack() as stack:
        _do("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(_do, "ip", "link", "del", bridge)
        _do("ip", "address", "add", f"{NETWORK}.1/24", "dev", bridge)
        _do("ip", "link", "set", bridge, "up")
        held = {}
        for number, name in enumerate(NAMES):
            # It ends with this process, whose end of its input goes then.
            command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
            holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(_end, holder)
            assert holder.stdout is not None
            holder.stdout.readline()  # it is in the namespace by now
            held[name] = pid = str(holder.pid)
            link, inside = f"apart{name}{os.getpid()}", ["nsenter", "--net", "--target", pid]
            _do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pid)
            _do("ip", "link", "set", link, "master", bridge, "up")
            _do(*inside, "ip", "address", "add", f"{NETWORK}.{number + 2}/24", "dev", "eth0")
            _do(*inside, "ip", "link", "set", "eth0", "up")
            _do(*inside, "ip", "link", "set", "lo", "up")
        yield held


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@contextmanager
def cluster(security: Security, api: str, folder: Path, namespaces: bool = True) -> Iterator[SpecCluster]:
    """Two worker processes of two threads, TLS, neither with a way to the API.

    Args:
        api: The API's address.
        folder: Where keys may lie.
        namespaces: Whether to make namespaces, if that can be had here.
    """
    files = []
    for number, text in enumerate((security.tls_ca_file, security.tls_client_cert, security.tls_client_key)):
        file = folder / f"{number}.pem"
        file.write_text(str(text))
        files.append(str(file))
    with ExitStack() as stack:
        held: dict[str, str] = {}
        if namespaces and shutil.which("ip", path=_PATH) and shutil.which("nsenter", path=_PATH):
            try:
                held = stack.enter_context(_namespaces())
            except subprocess.CalledProcessError as refused:
                print(f"network namespaces are refused here: {refused.stderr.strip()}")
        wall = folder / "wall.py"
        wall.write_text(_WALL.format(port=urlsplit(api).port))
        workers: dict[str, Any] = {}
        for number, name in enumerate(NAMES):
            options = {"before": [], "host": "127.0.0.1", "wall": str(wall)}
            if held:
                before = ["nsenter", "--net", "--target", held[name]]
                options = {"before": before, "host": f"{NETWORK}.{number + 2}"}
            workers[name] = {"cls": Apart, "options": {**options, "files": files}}
        host = f"{NETWORK}.1" if held else "127.0.0.1"
        scheduler = {
            "cls": Scheduler,
            "options": {"host": host, "protocol": "tls://", "security": security, "dashboard": False},
        }
        with SpecCluster(workers=workers, scheduler=scheduler, security=security) as running:
            yield running
