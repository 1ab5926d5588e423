"""The flow's process sleeps, its server starts again, or it is killed beside another one: in real time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import distributed
import psutil
import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.variables import Variable

from prefect_coiled.task_runner.recording import wait_until_recorded
from tests.lost_work.machines import Server

from .conftest import FAST, eventually, flow_run_state, shown, states_of
from .relaying import logs_of, run

ROOT = Path(__file__).parents[2]
# Seconds that a laptop's lid is closed for.
ASLEEP = 30.0

FLOW = """
import sys, time
from pathlib import Path
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.runtime import flow_run
from prefect.variables import Variable
from prefect_coiled import CoiledTaskRunner
from prefect_coiled.task_runner.recording import wait_until_recorded

address, folder, count, ca, cert, key = sys.argv[1:]
folder = Path(folder)
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)

@task
def works(n):
    (folder / f"began-{n}").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    Variable.get("relayed_nothing", default=None)
    get_run_logger().info("worked %d", n)
    (folder / f"ended-{n}").touch()
    return n

@flow(task_runner=CoiledTaskRunner(address=address, client_kwargs={"security": security}, api_relay="always"))
def working():
    print(flow_run.id, flush=True)
    return works.map(range(int(count))).result()

assert working() == list(range(int(count)))
wait_until_recorded()
print("RIGHT")
"""


class Flow:
    """A flow run in a process of its own, whose tasks wait for a file."""

    def __init__(self, cluster: LocalCluster, security: Security, folder: Path, tasks: int) -> None:
        self.folder, files = folder, []
        for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
            files.append(folder / f"{name}.pem")
            files[-1].write_text(str(getattr(security, name)))
        script = folder / "script.py"
        script.write_text(FLOW)
        environ = {**os.environ, **FAST, "PYTHONPATH": str(ROOT)}
        environ["PREFECT_API_URL"] = str(get_current_settings().api.url)
        command = [sys.executable, str(script), cluster.scheduler_address, str(folder), str(tasks)]
        self.process = subprocess.Popen(
            [*command, *map(str, files)], stdout=subprocess.PIPE, text=True, env=environ
        )

    @property
    def id(self) -> UUID:
        """The flow run, once it runs."""
        assert self.process.stdout is not None
        return UUID(self.process.stdout.readline().strip())

    def count(self, what: str) -> int:
        """How many of its tasks have "began" or "ended"."""
        return len(list(self.folder.glob(f"{what}-*")))

    def go(self) -> None:
        """Let its tasks go on."""
        (self.folder / "go").touch()


@pytest.fixture
def start(dask_cluster: LocalCluster, security: Security, tmp_path: Path) -> Iterator[Any]:
    started: list[Flow] = []

    def start(tasks: int) -> Flow:
        dask_cluster.sync(dask_cluster._correct_state)
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Flow(dask_cluster, security, folder, tasks))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_a_flows_process_that_sleeps_for_a_while_has_all_recorded_when_it_wakes(
    start: Any, client: Any
) -> None:
    a_flow = start(8)
    id_ = a_flow.id
    eventually(lambda: a_flow.count("began") == 4)
    asleep = psutil.Process(a_flow.process.pid)
    asleep.suspend()
    eventually(lambda: asleep.status() == psutil.STATUS_STOPPED)
    wakes = time.monotonic() + ASLEEP
    a_flow.go()
    while time.monotonic() < wakes:
        # What tasks ask meanwhile waits; none of them fails, and none goes on without an answer.
        assert (asleep.status(), a_flow.count("ended")) == (psutil.STATUS_STOPPED, 0)
        time.sleep(0.5)
    asleep.resume()
    output, _ = a_flow.process.communicate(timeout=300)
    assert "RIGHT" in output
    eventually(lambda: flow_run_state(id_) == "Completed")
    assert states_of(id_) == {"works": ["Completed"] * 8}
    eventually(lambda: {f"worked {n}" for n in range(8)} <= set(logs_of(client, id_)))


def test_a_server_that_is_killed_and_started_again_has_all_of_it(relayed: Any, tmp_path: Path) -> None:
    began = tmp_path / "began"
    began.mkdir()
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")

    @task
    def works(n: int) -> int:
        (began / str(n)).touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.05)
        Variable.get("relayed_nothing", default=None)
        get_run_logger().info("worked %d", n)
        return n

    def is_started_again() -> None:
        eventually(lambda: len(list(began.iterdir())) >= 4)
        server.kill()
        (tmp_path / "go").touch()
        server.start()

    @flow(task_runner=relayed())
    def working() -> list[int]:
        thread = threading.Thread(target=is_started_again, daemon=True)
        thread.start()
        try:
            return works.map(range(8)).result()
        finally:
            thread.join()

    server.start()
    try:
        with temporary_settings({PREFECT_API_URL: server.url}):
            value, id_ = run(working)
            wait_until_recorded()
            assert value == list(range(8))
            assert flow_run_state(id_) == "Completed"
            assert states_of(id_) == {"works": ["Completed"] * 8}
    finally:
        server.kill()


def test_a_flow_run_goes_on_where_the_process_of_another_one_on_the_cluster_is_killed(
    start: Any, relayed: Any, dask_cluster: LocalCluster, security: Security
) -> None:
    other = start(2)
    theirs = other.id
    eventually(lambda: other.count("began") == 2)

    @task
    def asks(n: int) -> int:
        Variable.get("relayed_nothing", default=None)
        return n

    @flow(task_runner=relayed())
    def goes_on() -> list[int]:
        before = asks.map(range(8)).result()
        other.process.send_signal(signal.SIGKILL)
        other.process.wait(30)
        other.go()
        return before + asks.map(range(8)).result()

    value, id_ = run(goes_on)
    assert value == [*range(8), *range(8)]
    shown(id_, asks=["Completed"] * 16)
    # Tasks of the other one are told that nobody asks for them, and give the workers back.
    with distributed.Client(dask_cluster.scheduler_address, security=security) as asker:
        eventually(lambda: not any(asker.processing().values()))
        eventually(lambda: not any(asker.run(_busy).values()), 120.0)
    # Nobody says that they completed: their process, which alone reaches the API, is gone.
    assert "Completed" not in states_of(theirs).get("works", [])


def _busy(dask_worker: Any) -> int:
    return len(dask_worker.state.executing)
