"""The flow that the tests deploy; its code names no account and no size."""

from __future__ import annotations

import time

from prefect import flow, suspend_flow_run, task

from prefect_coiled import ClusterSettings, CoiledTaskRunner


@task
def square(x: int) -> int:
    return x * x


@task
def hold(seconds: float) -> None:
    time.sleep(seconds)


@flow(
    name="squares",
    task_runner=CoiledTaskRunner(n_workers=7, wait_for_workers=True, no_client_timeout="3 s"),
    persist_result=True,
)
def squares(seconds: float = 0.0, cluster: ClusterSettings = ClusterSettings()) -> int:
    total = sum(square.map(range(4)).result())
    if seconds:
        hold.submit(seconds).wait()
    return total


@flow(
    name="suspended",
    task_runner=CoiledTaskRunner(wait_for_workers=True, no_client_timeout="3 s"),
    persist_result=True,
)
def suspended() -> int:
    """Squares, a wait for somebody who resumes it, and squares again, on another cluster."""
    before = square.submit(3).result()
    suspend_flow_run(timeout=600, key="wait")
    return before + square.submit(4).result()
