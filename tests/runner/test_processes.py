"""Flows in processes of their own: signals, and a server that Prefect starts for the process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import get_current_settings

from .conftest import FAST, eventually, flow_run_state, states_of
from .test_cluster_life import subflows

ROOT = Path(__file__).parents[2]

STANDIN = """
import os, sys, threading, time
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, task
from prefect.context import get_run_context
from prefect_coiled.task_runner import CoiledTaskRunner

class Provisioned(LocalCluster):
    delay = 0.0
    def __init__(self, stop=None):
        @flow(name="provision", persist_result=False)
        def provision():
            print("PROVISIONING", flush=True)
            if stop.wait(self.delay):
                raise RuntimeError("told to stop")
        provision()
        super().__init__(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None,
                         protocol="tls://", security=Security.temporary())
    def close(self, timeout=None):
        @flow(name="teardown", persist_result=False)
        def teardown():
            print("CLOSING", flush=True)
        if self.status.name == "running":
            teardown()
        return super().close(timeout)
"""

SLOW = (
    STANDIN
    + """
Provisioned.delay = float(sys.argv[1])

@task
def slow():
    print("TASK", flush=True)
    time.sleep(60)

@flow(task_runner=CoiledTaskRunner(cluster_class=Provisioned))
def sync_flow():
    print("RUN", get_run_context().flow_run.id, flush=True)
    slow.submit().result()

@flow(task_runner=CoiledTaskRunner(cluster_class=Provisioned))
async def async_flow():
    import asyncio
    print("RUN", get_run_context().flow_run.id, flush=True)
    future = slow.submit()
    while not future.done:
        await asyncio.sleep(0.1)

if __name__ == "__main__":
    if sys.argv[2] == "async":
        import asyncio
        asyncio.run(async_flow())
    else:
        sync_flow()
"""
)

FIFTY = (
    STANDIN
    + """
@task
def double(n):
    return 2 * n

@flow(task_runner=CoiledTaskRunner(cluster_class=Provisioned))
def doubles():
    double.map(range(50))
    print("RUN", get_run_context().flow_run.id, flush=True)

if __name__ == "__main__":
    doubles()
"""
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def run(source: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        script.write_text(source)
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **FAST, **environment},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_until(process: subprocess.Popen[str], word: str) -> dict[str, str]:
    """Read a process's output up to a line that starts with a word; the lines by their first word."""
    assert process.stdout is not None
    lines: dict[str, str] = {}
    for line in process.stdout:
        first, _, rest = line.strip().partition(" ")
        lines[first] = rest
        if first == word:
            break
    return lines


def others_of(session: int) -> list[int]:
    """Processes of a session that are still alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("when", ["while provisioning", "while a task runs"])
def test_sigterm_tears_the_cluster_down(start: Any, kind: str, when: str) -> None:
    provisioning = when == "while provisioning"
    process = start(
        SLOW, "60" if provisioning else "0", kind, PREFECT_API_URL=str(get_current_settings().api.url)
    )
    flow_run_id = read_until(process, "PROVISIONING" if provisioning else "TASK")["RUN"]
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert time.monotonic() - signalled < 20
    assert process.returncode != 0
    eventually(lambda: not others_of(process.pid))
    assert flow_run_state(flow_run_id) in ("Crashed", "Cancelled")
    if provisioning:
        assert subflows(flow_run_id) == {"provision": "Failed"}
    else:
        assert "CLOSING" in output
        assert subflows(flow_run_id) == {"provision": "Completed", "teardown": "Completed"}
        eventually(lambda: states_of(flow_run_id).get("slow") == ["Cancelled"])


def test_a_server_that_prefect_starts_for_the_process_loses_no_task(start: Any, tmp_path: Path) -> None:
    home = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90"}
    saved = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("PREFECT_") and k not in FAST}
    try:
        process = start(FIFTY, **home)
        process.communicate(timeout=300)
        assert process.returncode == 0
        query = """
import sys, collections
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print("STATES", dict(collections.Counter(run.state.name for run in client.read_task_runs())))
    print("FLOWS", sorted(run.state.name for run in client.read_flow_runs()))
"""
        process = start(query, **home)
        answer, _ = process.communicate(timeout=300)
    finally:
        os.environ.update(saved)
    # 50 tasks, and one task run for each of the two subflows.
    assert "STATES {'Completed': 52}" in answer
    assert "FLOWS ['Completed', 'Completed', 'Completed']" in answer
