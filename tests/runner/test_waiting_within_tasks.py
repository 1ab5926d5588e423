"""A task that waits for tasks of its own, in whichever way, lets them have its place on the worker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from prefect import flow, task
from prefect.futures import PrefectFutureList, as_completed, wait

from prefect_coiled.task_runner import CoiledTaskRunner

# More than the cluster has threads: those that keep their places wait for ever.
PARENTS = 6
pytestmark = pytest.mark.timeout(200)


@task
def add(n: int) -> int:
    return n + 1


@task
def takes(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def by_list(n: int) -> list[int]:
    return add.map([n, n]).result()


def by_list_without_results(n: int) -> list[int]:
    futures = add.map([n, n])
    futures.wait()
    assert isinstance(futures, PrefectFutureList)
    return [future.result() for future in futures]


def as_they_complete(n: int) -> list[int]:
    return [future.result() for future in as_completed(list(add.map([n, n])))]


def within_a_time(n: int) -> list[int]:
    done, not_done = wait(list(add.map([n, n])), timeout=120)
    assert not not_done
    return [future.result() for future in done]


@pytest.mark.parametrize("way", [by_list, by_list_without_results, as_they_complete, within_a_time])
def test_parents_that_wait_take_no_place(way: Any, runner: CoiledTaskRunner) -> None:
    @task
    def parent(n: int) -> list[int]:
        return way(n)

    @flow(task_runner=runner)
    def umbrella() -> Any:
        return parent.map(range(PARENTS)).result()

    assert umbrella() == [[n + 1, n + 1] for n in range(PARENTS)]


def test_async_parents_that_wait_in_another_thread_take_no_place(runner: CoiledTaskRunner) -> None:
    @task
    async def parent(n: int) -> int:
        future = add.submit(n)
        return await asyncio.to_thread(future.result)

    @flow(task_runner=runner)
    def umbrella() -> Any:
        first = parent.map(range(PARENTS)).result()
        return first, add.map(range(3)).result()  # the places are there again

    assert umbrella() == ([n + 1 for n in range(PARENTS)], [1, 2, 3])


def test_a_wait_within_a_task_ends_with_its_time_though_others_have_the_place(
    runner: CoiledTaskRunner,
) -> None:
    @task
    def parent() -> Any:
        # As many as there are places: none is free when the time is over.
        slow = takes.map([12.0] * 4)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            slow[0].result(timeout=1)
        slow[1].wait(1)
        slow.wait(1)
        waited = time.monotonic() - begun
        return waited, slow[0].done, add.submit(1).result()

    @flow(task_runner=runner)
    def umbrella() -> Any:
        return parent.submit().result()

    waited, done, number = umbrella()
    assert not done
    assert waited < 10
    assert number == 2


def test_a_task_may_return_futures_of_tasks_that_it_submitted(runner: CoiledTaskRunner) -> None:
    @task
    def fails() -> None:
        raise ValueError("mine")

    @task
    def large() -> bytes:
        return bytes(200_000)

    @task
    def parent() -> Any:
        return {"many": [add.submit(n) for n in range(2)], "large": large.submit(), "fails": fails.submit()}

    @flow(task_runner=runner)
    def umbrella() -> Any:
        found = parent.submit().result()
        with pytest.raises(ValueError, match="mine"):
            found["fails"].result()
        assert found["fails"].state.is_failed()
        return [f.result() for f in found["many"]], len(found["large"].result())

    assert umbrella() == ([1, 2], 200_000)
