"""What a worker's thread makes once for all tasks of a flow run, and what is sent: counted, not timed."""

from __future__ import annotations

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from prefect import flow, task

from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.task_runner.hydration import made

from .conftest import APART


def _made(client: Client) -> dict[str, int]:
    counts = client.run(made).values()
    return {kind: sum(count[kind] for count in counts) for kind in ("contexts", "clients", "loops")}


def test_a_thread_makes_one_context_and_one_client_for_all_tasks_of_a_flow_run(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security
) -> None:
    @task
    def double(x: int) -> int:
        return 2 * x

    @flow(task_runner=runner)
    def doubles() -> list[int]:
        found: list[int] = double.map(range(40)).result()
        return found

    with Client(dask_cluster.scheduler_address, security=security) as client:
        before = _made(client)
        assert doubles() == [2 * x for x in range(40)]
        threads, after = sum(client.nthreads().values()), _made(client)
    assert 1 <= after["contexts"] - before["contexts"] <= threads
    assert 1 <= after["clients"] - before["clients"] <= threads


@pytest.mark.skipif(bool(APART), reason="what the API is to see in headers stays with the flow's process")
def test_each_flow_run_talks_to_the_api_of_its_own_settings(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security
) -> None:
    from prefect.settings import PREFECT_CLIENT_CUSTOM_HEADERS, temporary_settings

    @task
    def headers() -> dict[str, str]:
        from prefect.client.orchestration import get_client

        return dict(get_client(sync_client=True)._client.headers)

    @flow(task_runner=runner)
    def asks() -> dict[str, str]:
        found: dict[str, str] = headers.submit().result()
        return found

    for value in ("one", "two"):
        with temporary_settings({PREFECT_CLIENT_CUSTOM_HEADERS: {"x-of-a-run": value}}):
            assert asks()["x-of-a-run"] == value
