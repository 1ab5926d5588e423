"""Tasks on TLS workers in other processes: what Prefect promises of tasks holds for them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import dask
import pytest
from distributed import LocalCluster
from prefect import allow_failure, flow, get_run_logger, tags, task, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import get_run_context, serialize_context
from prefect_dask import get_async_dask_client, get_dask_client
from prefect_dask.task_runners import PrefectDaskFuture

from prefect_coiled.task_runner import CoiledTaskRunner, parcel

from .conftest import eventually, states_of, task_runs


@task
def add(x: int, y: int = 1) -> int:
    return x + y


def test_map_wait_for_and_nested_arguments(runner: CoiledTaskRunner) -> None:
    @task
    def total(numbers: dict[str, list[int]]) -> int:
        return sum(numbers["all"])

    @flow(task_runner=runner)
    def sums() -> Any:
        mapped = add.map([1, 2, 3], y=unmapped(10))
        after = add.submit(0, wait_for=mapped)
        return total.submit({"all": [*mapped, after]}).result(), [f.wrapped_future.key for f in mapped]

    result, keys = sums()
    assert result == 11 + 12 + 13 + 1
    assert all(key.startswith("add-") for key in keys)
    assert len(set(keys)) == 3


async def test_async_flows_and_async_tasks(runner: CoiledTaskRunner) -> None:
    @task
    async def add_later(x: int) -> int:
        await asyncio.sleep(0.01)
        return x + 1

    @flow(task_runner=runner)
    async def adds() -> list[int]:
        assert (await get_run_context().task_runner.ready()).status == "running"
        return add_later.map([1, 2, add.submit(2)]).result()

    assert await adds() == [2, 3, 4]


def test_a_task_is_retried_on_the_cluster(runner: CoiledTaskRunner) -> None:
    @task(retries=2, retry_delay_seconds=0)
    def third_time() -> int:
        count: int = get_run_context().task_run.run_count
        if count < 3:
            raise ValueError(count)
        return count

    @flow(task_runner=runner)
    def retries() -> int:
        return third_time.submit().result()

    assert retries() == 3


def test_a_task_that_takes_too_long_times_out(runner: CoiledTaskRunner) -> None:
    @task(timeout_seconds=0.5)
    def slow() -> None:
        time.sleep(3)

    @flow(task_runner=runner)
    def waits() -> Any:
        future = slow.submit()
        with pytest.raises(TimeoutError, match=r"did not complete within 0\.01 seconds"):
            future.result(timeout=0.01)
        future.wait(timeout=0.01)
        assert not future.done
        future.wait()
        return future.state.name

    assert waits() == "TimedOut"


def test_a_failed_parent_may_be_allowed(runner: CoiledTaskRunner) -> None:
    @task
    def fails() -> None:
        raise ValueError("mine")

    @dataclass
    class Pair:
        left: Any
        right: Any

    @task
    def shows(a: Any, b: Any, pair: Pair) -> tuple[str, str, str]:
        return repr(a), repr(b), repr((pair.left, pair.right))

    @flow(task_runner=runner)
    def copes() -> Any:
        first = fails.submit()
        shown = shows.submit(allow_failure(first), allow_failure(add.submit(1)), Pair(add.submit(2), 9))
        return add.submit(1, wait_for=[allow_failure(first)]).result(), shown.result()

    assert copes() == (2, ("ValueError('mine')", "2", "(3, 9)"))


def test_tasks_submit_tasks_and_run_flows_on_the_same_cluster(runner: CoiledTaskRunner) -> None:
    @task
    def parent(n: int) -> int:
        future = add.submit(n)
        assert isinstance(future, PrefectDaskFuture)
        return future.result()

    @flow(task_runner=runner)
    def inner(n: int) -> int:
        return add.submit(n).result()

    @task
    def runs_flow(n: int) -> int:
        return inner(n)

    @flow(task_runner=runner)
    def umbrella() -> list[int]:
        # More parents than worker threads: they give their slots back while they wait.
        return [*parent.map(range(6)).result(), runs_flow.submit(10).result()]

    assert umbrella() == [1, 2, 3, 4, 5, 6, 11]


def test_a_task_inside_a_task_that_nobody_waits_for_still_runs(runner: CoiledTaskRunner) -> None:
    @task
    def parent() -> None:
        add.submit(1)

    @flow(task_runner=runner)
    def umbrella() -> Any:
        parent.submit()
        return get_run_context().flow_run.id

    flow_run_id = umbrella()
    eventually(lambda: states_of(flow_run_id) == {"parent": ["Completed"], "add": ["Completed"]})


def test_get_dask_client_works_with_tls_inside_a_task(runner: CoiledTaskRunner) -> None:
    @task
    def compute() -> Any:
        with get_dask_client(timeout="20s") as client:
            return client.compute(dask.delayed(42)).result(), client.scheduler.address

    @task
    async def compute_async() -> Any:
        async with get_async_dask_client(timeout="20s") as client:
            return await client.compute(dask.delayed(43))

    @flow(task_runner=runner)
    def computes() -> Any:
        return compute.submit().result(), compute_async.submit().result()

    (answer, address), later = computes()
    assert (answer, later) == (42, 43)
    assert address.startswith("tls://")


def test_get_dask_client_works_in_a_flow_before_any_task(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    def computes() -> int:
        with get_dask_client() as client:
            assert client.scheduler.address.startswith("tls://")
            return client.compute(dask.delayed(42)).result() + add.submit(0).result()

    assert computes() == 43
    assert set(runner.client_kwargs) == {"set_as_default", "security"}
    assert runner.duplicate() == runner


async def test_get_async_dask_client_works_in_an_async_flow(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    async def computes() -> Any:
        async with get_async_dask_client() as client:
            return await client.compute(dask.delayed(42))

    assert await computes() == 42


def test_logs_prints_tags_and_parents_of_remote_tasks_reach_prefect(runner: CoiledTaskRunner) -> None:
    @task(log_prints=True)
    def speaks(x: int) -> int:
        get_run_logger().info("logged %d", x)
        print(f"printed {x}")
        return x

    @flow(task_runner=runner)
    def talks() -> Any:
        with tags("loud"):
            first = speaks.submit(1)
        speaks.submit(first)
        return get_run_context().flow_run.id

    flow_run_id = talks()

    def messages() -> set[str]:
        with get_client(sync_client=True) as client:
            logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
        return {log.message for log in logs}

    # What the workers still held was sent before the flow run ended; the server may take a moment to show it.
    eventually(lambda: {"logged 1", "printed 1"} <= messages())
    eventually(lambda: states_of(flow_run_id) == {"speaks": ["Completed"] * 2})
    runs = task_runs(flow_run_id)
    assert sum("loud" in run.tags for run in runs) == 1
    assert sum(bool(run.task_inputs["x"]) for run in runs) == 1


def test_a_runner_works_as_a_context_manager_without_a_flow(runner: CoiledTaskRunner) -> None:
    with runner:
        future = runner.submit(add, {"x": 1})
        assert future.result() == 2
    with pytest.raises(RuntimeError, match="must be started"):
        runner.submit(add, {"x": 1})


def test_dask_annotations_hold_for_tasks(runner: CoiledTaskRunner, dask_cluster: LocalCluster) -> None:
    @task
    def where() -> str:
        import distributed

        return str(distributed.get_worker().address)

    chosen = next(iter(dask_cluster.scheduler_info["workers"]))

    @flow(task_runner=runner)
    def only() -> set[str]:
        with dask.annotate(workers=[chosen]):
            return {where.submit().result() for _ in range(4)}

    assert only() == {chosen}


def test_the_shipped_context_has_the_parts_that_prefect_serialises(runner: CoiledTaskRunner) -> None:

    import cloudpickle

    shared = parcel.FlowRunParcel()
    own = parcel.PARTS
    # What the settings name by a file, and by which way the API is asked.
    beside = {"authority", "relay"}
    assert set(cloudpickle.loads(shared.data())) - beside | set(own) == set(serialize_context())
    assert shared.data() is shared.data()
