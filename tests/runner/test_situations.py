"""What people do around tasks: limits, hooks, subflows side by side, tasks that are served elsewhere."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run

from prefect_coiled.task_runner import CoiledTaskRunner

from .conftest import shown


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_global_limit_holds_for_tasks_on_all_workers(runner: CoiledTaskRunner, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    with get_client(sync_client=True) as client:
        limit = GlobalConcurrencyLimitCreate(name="one-at-a-time", limit=1)
        client.create_global_concurrency_limit(limit)

    @task
    def alone(number: int) -> int:
        with concurrency("one-at-a-time", occupy=1, strict=True):
            with noted.open("a") as file:
                file.write(f"in-{number}\n")
            time.sleep(0.05)
            with noted.open("a") as file:
                file.write(f"out-{number}\n")
        return number

    @flow(task_runner=runner)
    def limited() -> list[int]:
        return alone.map([0, 1, 2, 3]).result()

    assert limited() == [0, 1, 2, 3]
    found = lines(noted)
    assert len(found) == 8
    assert all(a.split("-")[1] == b.split("-")[1] for a, b in zip(found[::2], found[1::2], strict=True)), (
        found
    )


def test_hooks_of_tasks_run_on_the_worker_and_those_of_the_flow_in_it(
    runner: CoiledTaskRunner, tmp_path: Path
) -> None:
    noted = tmp_path / "noted"

    def note(what: str) -> Any:
        def hook(of: Any, run: Any, state: Any) -> None:
            with noted.open("a") as file:
                file.write(f"{what}-{of.name}-{state.type.value}\n")

        return hook

    @task(on_completion=[note("completed")], on_failure=[note("failed")], on_running=[note("runs")])
    def half(number: int) -> float:
        return 1 / number

    @task(retries=2, on_failure=[note("failed")])
    def in_vain() -> None:
        raise ValueError("each time")

    @flow(task_runner=runner, on_failure=[note("failed")], on_completion=[note("completed")])
    def halves() -> float:
        half.submit(2).result()
        in_vain.submit().wait()
        return half.submit(0).result()

    with pytest.raises(ZeroDivisionError):
        halves()
    assert lines(noted) == [
        "runs-half-RUNNING",
        "completed-half-COMPLETED",
        "failed-in_vain-FAILED",  # once, not at each attempt
        "runs-half-RUNNING",
        "failed-half-FAILED",
        "failed-halves-FAILED",
    ]


def test_names_and_errors_that_are_not_utf8_stop_no_task_and_hide_no_error(
    runner: CoiledTaskRunner,
) -> None:
    path = os.fsdecode(b"caf\xe9.csv")  # as `os.listdir` gives it

    @task(task_run_name="load-{path}")
    def load(path: str) -> str:
        return path

    @task
    def refuses(path: str) -> None:
        raise ValueError(f"bad file {path}")

    @flow(task_runner=runner)
    def loads() -> tuple[str, str, str]:
        future = refuses.submit(path)
        future.wait()
        return load.submit(path).result(), future.state.name, str(future.result(raise_on_failure=False))

    assert loads() == (path, "Failed", f"bad file {path}")


async def test_subflows_side_by_side_have_their_own_tasks(runner: CoiledTaskRunner) -> None:
    @task
    async def twice(number: int) -> int:
        await asyncio.sleep(0.01)
        return 2 * number

    @flow(task_runner=runner)
    async def part(first: int) -> tuple[list[int], Any]:
        return [f.result() for f in twice.map(range(first, first + 3))], flow_run.id

    @flow
    async def whole() -> list[tuple[list[int], Any]]:
        return list(await asyncio.gather(*(part(first) for first in (0, 10, 20))))

    found = await whole()
    assert [numbers for numbers, _ in found] == [[0, 2, 4], [20, 22, 24], [40, 42, 44]]
    assert len({run for _, run in found}) == 3


def test_flows_in_threads_of_one_process_share_a_cluster(runner: CoiledTaskRunner) -> None:
    @task
    def twice(number: int) -> int:
        get_run_logger().info("twice %s", number)
        return 2 * number

    @flow(task_runner=runner)
    def part(first: int) -> tuple[list[int], Any]:
        return twice.map(range(first, first + 3)).result(), flow_run.id

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(part, (0, 10, 20)))
    assert [numbers for numbers, _ in found] == [[0, 2, 4], [20, 22, 24], [40, 42, 44]]
    for _, run in found:
        shown(run, twice=["Completed"] * 3)
