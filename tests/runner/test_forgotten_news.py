"""What a scheduler keeps of a flow run's tasks: nothing, once the flow run has heard of them."""

from __future__ import annotations

from typing import Any

from distributed import Client, LocalCluster
from distributed.security import Security
from prefect import flow, task

from prefect_coiled.task_runner import CoiledTaskRunner, store
from prefect_coiled.task_runner.news import PREFIX

from .conftest import eventually


def test_the_news_of_flow_runs_do_not_add_up(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security
) -> None:
    @task
    def text(n: int) -> str:
        return "x" * 300

    @flow(task_runner=runner)
    def writes() -> int:
        return len(text.map(range(50)).result())

    def kept() -> tuple[set[str], set[str]]:
        def look(dask_scheduler: Any, prefix: str, store: str) -> tuple[list[str], list[str]]:
            topics = [name for name in dask_scheduler._broker._topics if name.startswith(prefix)]
            return topics, list(dask_scheduler.task_metadata.get(store, {}))

        with Client(dask_cluster.scheduler_address, security=security) as client:
            news, code = client.run_on_scheduler(look, prefix=PREFIX, store=store.PREFIX)
            return set(news), set(code)

    before = kept()  # other tests' flows that were killed are remembered for a while
    for _ in range(3):
        assert writes() == 50
    assert eventually(lambda: not any(now - then for now, then in zip(kept(), before, strict=True)))
