"""The flow that the tests deploy; its code names no account and no size."""

from __future__ import annotations

import time

from prefect import flow, task

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
