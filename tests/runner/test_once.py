"""Exactly once, as seen from outside: what has completed is not run again, whatever its worker does."""

from __future__ import annotations

import os
import signal
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from prefect import flow, task, unmapped
from prefect.context import SyncClientContext

from prefect_coiled.errors import TaskLostError
from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.task_runner.events import Outbox
from prefect_coiled.task_runner.outboxes import use_outbox

from .conftest import eventually, states_of, task_runs


def mark(folder: Path, name: str) -> None:
    with open(folder / name, "a") as file:
        file.write("x")


def marks(folder: Path, name: str) -> int:
    path = folder / name
    return len(path.read_text()) if path.exists() else 0


def end_workers(cluster: LocalCluster, security: Security) -> None:
    """End every worker process, one after the other, as AWS takes back machines; others take their places."""
    with Client(cluster.scheduler_address, security=security) as client:
        before = set(client.run(os.getpid).values())
        for pid in before:
            os.kill(pid, signal.SIGKILL)

            def renewed(pid: int = pid) -> bool:
                pids = set(client.run(os.getpid, on_error="ignore").values())
                return len(pids) == len(before) and pid not in pids and not any(client.processing().values())

            eventually(renewed)


def test_what_has_completed_is_not_run_again_when_its_worker_dies(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security, tmp_path: Path
) -> None:
    @task
    def plain(n: int, folder: Path) -> int:
        mark(folder, f"plain-{n}")
        return n

    @task
    def large(folder: Path) -> bytes:
        mark(folder, "large")
        return os.urandom(5_000)

    @task(persist_result=True)
    def kept(folder: Path) -> bytes:
        mark(folder, "kept")
        return b"k" * 5_000

    @task
    def again(folder: Path) -> bytes:
        mark(folder, "again")
        return b"a" * 5_000

    @flow(task_runner=runner)
    def loses() -> Any:
        many = plain.map(range(4), unmapped(tmp_path))
        one, saved = large.submit(tmp_path), kept.submit(tmp_path)
        free = again.with_options(tags=["dask:again"]).submit(tmp_path)
        for future in (*many, one, saved, free):
            future.wait()
        end_workers(dask_cluster, security)
        with pytest.raises(TaskLostError, match=r"'large' .* has completed, is lost.*persist_result=True"):
            one.result()
        return many.result(), saved.result(), free.result(), one.state.name, saved.task_run_id

    numbers, saved, free, name, run = loses()
    assert numbers == [0, 1, 2, 3]
    assert saved == b"k" * 5_000
    assert free == b"a" * 5_000
    assert name == "Completed"
    assert [marks(tmp_path, f"plain-{n}") for n in range(4)] == [1] * 4
    assert (marks(tmp_path, "large"), marks(tmp_path, "kept")) == (1, 1)
    assert marks(tmp_path, "again") >= 2
    flow_run_id = next(iter({r.flow_run_id for r in task_runs_of(run)}))
    done = {"plain": ["Completed"] * 4, "large": ["Completed"], "kept": ["Completed"], "again": ["Completed"]}
    eventually(lambda: states_of(flow_run_id) == done)


def task_runs_of(run: Any) -> list[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return [eventually(lambda: client.read_task_run(run))]


def test_a_run_whose_worker_died_before_it_told_the_api_is_told_by_the_client(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task
    def quiet(n: int) -> int:
        # The worker keeps what it would send, and dies with it.
        from prefect_coiled.task_runner import outboxes

        box = outboxes.present()
        assert box is not None
        box.hand_over = list  # type: ignore[method-assign, assignment]
        box.add = lambda events: None  # type: ignore[method-assign, assignment]
        return n

    told: dict[str, Any] = {}

    @flow(task_runner=runner)
    def loses() -> list[int]:
        from prefect.runtime import flow_run

        told["id"] = flow_run.id
        futures = quiet.map(range(5))
        for future in futures:
            future.wait()
        with Client(dask_cluster.scheduler_address, security=security) as client:
            for pid in set(client.run(os.getpid).values()):
                os.kill(pid, signal.SIGKILL)
        found: list[int] = futures.result()
        return found

    assert loses() == list(range(5))
    eventually(lambda: states_of(told["id"]) == {"quiet": ["Completed"] * 5})
    assert len(task_runs(told["id"])) == 5


def test_states_that_the_api_records_after_the_flow_has_closed_its_client_are_seen_to_be_there() -> None:
    @task
    def one() -> int:
        return 1

    def run() -> Outbox:
        with SyncClientContext.get_or_create():
            outbox = use_outbox("after the flow", "")
            one()
            return outbox

    assert copy_context().run(run).settle(30)
