"""A task that ends its program: it is Crashed, as with threads, and its worker and all others go on."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from prefect import flow, task

from prefect_coiled.errors import TaskLostError
from prefect_coiled.task_runner import CoiledTaskRunner

from .conftest import shown

SAID = {
    "exit": "aborted by Python system exit call",
    "async": "aborted by Python system exit call",
    "limited": "aborted by Python system exit call",
    "interrupt": "aborted by an interrupt signal",
    "cancelled": "cancelled by the runtime environment",
}


def workers(cluster: LocalCluster, security: Security) -> set[int]:
    with Client(cluster.scheduler_address, security=security) as client:
        return set(client.run(os.getpid).values())


@pytest.mark.parametrize("kind", SAID)
def test_a_task_that_ends_its_program_is_crashed_and_no_neighbour_is_touched(
    kind: str, runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security, tmp_path: Path
) -> None:
    def leave() -> None:
        with open(tmp_path / "left", "a") as file:
            file.write("x")
        raise {"interrupt": KeyboardInterrupt, "cancelled": asyncio.CancelledError}.get(kind, SystemExit)

    @task(timeout_seconds=60 if kind == "limited" else None)
    def ends() -> None:
        leave()

    @task(name="ends")
    async def ends_its_loop() -> None:
        await asyncio.sleep(0)
        leave()

    @task
    def lasts(n: int) -> int:
        with open(tmp_path / f"began-{n}", "a") as file:
            file.write("x")
        deadline = time.monotonic() + 60
        while not (tmp_path / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return n

    which: Any = ends_its_loop if kind in ("async", "cancelled") else ends

    @flow(task_runner=runner)
    def program() -> str:
        neighbours = [lasts.submit(n) for n in range(3)]
        ended = which.submit()
        ended.wait()
        (tmp_path / "go").touch()
        assert [each.result() for each in neighbours] == [0, 1, 2]
        details = ended.state.state_details
        assert (details.task_run_id, bool(details.flow_run_id)) == (ended.task_run_id, True)
        return f"{ended.state.name}: {ended.state.message}"

    before = workers(dask_cluster, security)
    state = program(return_state=True)
    assert state.result() == f"Crashed: Execution was {SAID[kind]}."
    shown(state.state_details.flow_run_id, ends=["Crashed"], lasts=["Completed"] * 3)
    assert workers(dask_cluster, security) == before
    once = {file.name: file.read_text() for file in tmp_path.iterdir() if file.name != "go"}
    assert once == dict.fromkeys(("left", "began-0", "began-1", "began-2"), "x")


def test_a_module_that_ends_its_program_on_a_worker_ends_no_worker(
    runner: CoiledTaskRunner,
    dask_cluster: LocalCluster,
    security: Security,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "licensed_here.py").write_text(
        "import os, sys\n"
        f"if os.getpid() != {os.getpid()}:\n"
        "    sys.exit('no licence')\n"
        "from prefect import task\n\n"
        "@task\n"
        "def reads():\n"
        "    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import licensed_here  # type: ignore[import-not-found]

    @flow(task_runner=runner)
    def program() -> None:
        licensed_here.reads.submit().result()

    before = workers(dask_cluster, security)
    with pytest.raises(TaskLostError, match=r"could not start on its worker.*sys\.exit\('no licence'\)"):
        program()
    assert workers(dask_cluster, security) == before
    monkeypatch.delitem(sys.modules, "licensed_here")
