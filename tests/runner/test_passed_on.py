"""What is passed on to a task, and from one: states and futures of others, Dask collections, results."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from prefect_dask import DaskTaskRunner, get_dask_client

from prefect_coiled.errors import ResultError
from prefect_coiled.task_runner import CoiledTaskRunner

from .conftest import eventually


@task
def make(n: int) -> list[int]:
    return [n] * 1_000  # more than comes along with the news


@task
def merge(parts: Any) -> int:
    return sum(part[0] for part in parts)


@task
def refuses() -> None:
    raise ValueError("mine")


# States and futures of other runners


def test_what_a_subflow_returned_is_passed_on_though_its_cluster_is_gone(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner.duplicate())
    def extract() -> Any:
        return [make.submit(n) for n in range(3)]

    @flow(task_runner=runner)
    def etl() -> tuple[int, int]:
        parts = extract()
        assert all(isinstance(part, State) for part in parts)
        waits = make.submit(7, wait_for=parts)
        found: int = merge.submit(parts).result()
        return found, waits.result()[0]

    assert etl() == (3, 7)


def test_futures_of_another_runner_that_runs_are_passed_on(runner: CoiledTaskRunner) -> None:
    @flow
    def etl() -> int:
        with runner.duplicate() as one, runner.duplicate() as other:
            parts = [one.submit(make, {"n": n}) for n in range(3)]
            found: int = other.submit(merge, {"parts": parts}).result()
            return found

    assert etl() == 3


def test_futures_of_threads_are_passed_on(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=ThreadPoolTaskRunner())
    def etl() -> tuple[int, str]:
        parts = [make.submit(n) for n in range(3)]
        failed = refuses.submit()
        with runner as cluster:
            found = cluster.submit(merge, {"parts": {"in": parts}["in"]})
            waits = cluster.submit(make, {"n": 1}, wait_for=[failed])
            waits.wait()
            return found.result(), waits.state.name

    assert etl() == (3, "NotReady")


def test_futures_of_a_plain_dask_runner_are_passed_on(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security
) -> None:
    plain = DaskTaskRunner(address=dask_cluster.scheduler_address, client_kwargs={"security": security})

    @flow(task_runner=plain)
    def etl() -> int:
        parts = [make.submit(n) for n in range(3)]
        with runner as cluster:
            found: int = cluster.submit(merge, {"parts": parts}).result()
            return found

    assert etl() == 3


# Dask collections


@dataclass
class Job:
    name: str
    data: Any


def test_a_persisted_collection_stays_where_it_is_and_is_there_until_its_task_has_ended(
    runner: CoiledTaskRunner, tmp_path: Path
) -> None:
    @task
    def looks(data: Any) -> tuple[int, bool, float, float, float]:
        array = data.data if isinstance(data, Job) else data
        deadline = threading.Event()
        while not (tmp_path / "go").exists():
            deadline.wait(0.02)
        futures = distributed.futures_of(array)
        own = all(future.client is distributed.get_client() for future in futures)
        distributed.wait(array, timeout=60)
        with get_dask_client() as client:
            by_client = float(client.compute(array.sum()).result())
        return len(futures), own, by_client, float(array.mean().compute()), float(futures[0].result()[0, 0])

    @flow(task_runner=runner)
    def etl() -> list[Any]:
        client = get_run_context().task_runner.client  # type: ignore[union-attr]
        with client.as_current():
            array = da.ones((400, 400), chunks=100).persist()
            distributed.wait(array, timeout=300)
        found = [looks.submit(array), looks.submit(Job("a", array))]
        keys = {future.key for future in distributed.futures_of(array)}
        del array
        # The client counts no more on what nobody holds.
        eventually(lambda: not keys - set(client.futures))
        (tmp_path / "go").touch()
        results = [future.result() for future in found]
        eventually(lambda: not keys & set(client.futures))
        return results

    assert etl() == [(16, True, 160_000.0, 1.0, 1.0)] * 2


def test_futures_of_dask_that_are_bare_give_their_results(runner: CoiledTaskRunner) -> None:
    @task
    def adds(one: int, more: list[int], job: Job) -> int:
        return one + sum(more) + job.data

    @flow(task_runner=runner)
    def etl() -> int:
        client = get_run_context().task_runner.client  # type: ignore[union-attr]
        one, two, three = (client.submit(int, n, pure=False) for n in (1, 2, 3))
        found: int = adds.submit(one, [two], Job("a", three)).result()
        return found

    assert etl() == 6


def test_a_collection_that_is_not_computed_yet_is_passed_on(runner: CoiledTaskRunner) -> None:
    @task
    def computes(value: Any) -> int:
        found: int = value.compute()
        return found

    @flow(task_runner=runner)
    def etl() -> int:
        found: int = computes.submit(dask.delayed(sum)([1, 2])).result()
        return found

    assert etl() == 3


# Results


def test_a_flow_that_keeps_its_result_as_json_keeps_what_its_futures_came_to(
    runner: CoiledTaskRunner, tmp_path: Path
) -> None:
    @flow(task_runner=runner, persist_result=True, result_serializer="json")
    def maps() -> Any:
        return make.map(range(2))

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        maps()
    # Beside it are those of its tasks.
    (kept,) = [text for path in tmp_path.iterdir() if "objects.State" in (text := path.read_text())]
    found = [state["data"]["data"]["result"] for state in json.loads(kept)]
    assert found == [[0] * 1_000, [1] * 1_000]


def test_a_result_that_cannot_be_pickled_is_named_where_it_is_asked_for_and_fails_no_flow(
    runner: CoiledTaskRunner,
) -> None:
    @task
    def connects() -> Any:
        return threading.Lock()

    futures: list[Any] = []

    @flow(task_runner=runner)
    def returns() -> Any:
        futures.append(connects.submit())
        return futures

    @flow(task_runner=runner)
    def asks() -> Any:
        return connects.submit().result()

    @task
    def uses(lock: Any) -> str:
        return type(lock).__name__

    said: list[str] = []

    @flow(task_runner=runner)
    def gives() -> None:
        one, other = get_run_context().task_runner.client.scheduler_info()["workers"]  # type: ignore[union-attr]
        lock = connects.with_options(tags=[f"dask:workers={one}"]).submit()
        here, there = (uses.with_options(tags=[f"dask:workers={at}"]).submit(lock) for at in (one, other))
        said.append(here.result())
        there.wait()
        said.append(f"{there.state.name}: {there.state.message}")

    named = r"result of task 'connects' \(run [-0-9a-f]+\).*its result cannot be pickled.*_thread\.lock"
    state = returns(return_state=True)
    assert state.is_completed()
    with pytest.raises(ResultError, match=named):
        futures[0].result()
    with pytest.raises(ResultError, match=named):
        asks()
    gives()
    assert said[0] == "lock"
    assert said[1].startswith("NotReady: ")
