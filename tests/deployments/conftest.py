"""A real Prefect server with all of its services, a real worker, and a sandbox: each a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_coiled.sandbox import SandboxInfo, start, stop
from prefect_coiled.sandbox.control import state_folder

POOL = "dask-ec2"
# What makes a minute of a schedule's life a few seconds of a test's.
_QUICK = {
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
}


@pytest.fixture(scope="package")
def environ(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the server, the worker and its flow runs; nothing of the suite's own server."""
    return own_environ(tmp_path_factory)


@pytest.fixture(scope="module")
def another_environ(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a server of one file's own."""
    return own_environ(tmp_path_factory)


def own_environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a server with a home, a database and a port of its own, and of its clients."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_SERVER_SERVICES_")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        **kept,
        **_QUICK,
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
    }


@contextmanager
def serving(environ: dict[str, str]) -> Iterator[subprocess.Popen[Any]]:
    """A Prefect server that answers; started again in the same environment, it has the same database."""
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--port",
        environ["PREFECT_SERVER_API_PORT"],
    ]
    log = Path(environ["PREFECT_HOME"], "server.log")
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{environ['PREFECT_API_URL']}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.1)
        yield process
    finally:
        end_session(process)


@pytest.fixture(scope="session")
def serve() -> Callable[[dict[str, str]], AbstractContextManager[Any]]:
    return serving


@pytest.fixture(scope="package")
def server(environ: dict[str, str]) -> Iterator[str]:
    """The API's address; in this process's settings too."""
    url = environ["PREFECT_API_URL"]
    with serving(environ), temporary_settings({PREFECT_API_URL: url}):
        # Prefect's way for events is made once in a process, to the API of that moment.
        EventsWorker.drain_all(timeout=60)
        yield url
        EventsWorker.drain_all(timeout=60)


@pytest.fixture(autouse=True)
def asked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test asks the package's server, also where files of other packages came in between."""
    if "server" not in request.fixturenames:
        yield
        return
    with temporary_settings({PREFECT_API_URL: request.getfixturevalue("server")}):
        yield


@pytest.fixture(scope="package")
def client(server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture(scope="package")
def sandbox(environ: dict[str, str]) -> Iterator[SandboxInfo]:
    """The sandbox that the flow runs of the worker find as their default account."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", environ["XDG_STATE_HOME"])
        info = start(detach=False, settings={"grace": 3})
        folder = state_folder()
    yield info
    stop(folder)


@pytest.fixture(scope="package")
def live(sandbox: SandboxInfo) -> Callable[[], list[str]]:
    """The ids of the instances that are not terminated, as EC2 tells them."""
    ec2 = boto3.client(
        "ec2",
        region_name="us-east-1",
        endpoint_url=sandbox.endpoint,
        aws_access_key_id="sandbox",
        aws_secret_access_key=sandbox.secret_access_key,
    )

    def ask() -> list[str]:
        states = ["pending", "running", "shutting-down", "stopping", "stopped"]
        found = ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": states}])
        return [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]]

    return ask


class Worker:
    """A Prefect worker of the pool.

    Attributes:
        process: Its process, first of a session of its own.
        log: What it wrote, and its flow runs.
    """

    def __init__(self, environ: dict[str, str]) -> None:
        self.log = Path(environ["PREFECT_HOME"], f"worker-{time.monotonic_ns()}.log")
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--limit", "1"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=environ,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=environ["HOME"],
            )

    def kill(self) -> None:
        """As when its machine goes down: the worker and all flow runs of it, without a word."""
        kill_tree(self.process)

    def end(self) -> None:
        """End it in good order."""
        end_session(self.process)


@pytest.fixture
def worker(server: str, sandbox: SandboxInfo, environ: dict[str, str]) -> Iterator[Worker]:
    started = Worker(environ)
    yield started
    started.end()


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """SIGKILL for a process and everything below it."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        one.kill()
    psutil.wait_procs(tree, timeout=10)
    process.wait()


def end_session(process: subprocess.Popen[Any], seconds: float = 40.0) -> None:
    """SIGTERM, and SIGKILL for what is left."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_tree(process)
