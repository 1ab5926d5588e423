"""What a scheduler keeps of a flow run's tasks: nothing, once the flow run has heard of them."""

from __future__ import annotations

from distributed import Client, LocalCluster
from distributed.security import Security
from prefect import flow, task

from prefect_coiled.task_runner import CoiledTaskRunner
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

    def kept() -> list[int]:
        def topics(dask_scheduler: object, prefix: str) -> list[int]:
            found = dask_scheduler._broker._topics  # type: ignore[attr-defined]
            return [len(topic.events) for name, topic in found.items() if name.startswith(prefix)]

        with Client(dask_cluster.scheduler_address, security=security) as client:
            return list(client.run_on_scheduler(topics, prefix=PREFIX))

    for _ in range(3):
        assert writes() == 50
    assert eventually(lambda: kept() == [])
