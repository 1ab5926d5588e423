"""Where data goes: counted in bytes and graphs, not timed."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.comm import tcp
from prefect import flow, task, unmapped
from prefect.client.schemas.objects import State
from prefect.context import get_run_context

from prefect_coiled.errors import ArgumentError
from prefect_coiled.task_runner import CoiledTaskRunner


class Traffic:
    """What this process has to do with the scheduler: bytes that it sends, results that it fetches."""

    sent = fetched = 0


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, cluster: LocalCluster) -> Iterator[Traffic]:
    """Count while the block lasts. The scheduler is in this process too: what it sends does not count."""
    traffic = Traffic()
    write, gather = tcp.TCP.write, Client._gather

    async def counted_write(comm: Any, *args: Any, **more: Any) -> Any:
        size = await write(comm, *args, **more)
        if comm.peer_address == cluster.scheduler_address:
            traffic.sent += size
        return size

    async def counted_gather(client: Any, *args: Any, **more: Any) -> Any:
        traffic.fetched += 1
        return await gather(client, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(tcp.TCP, "write", counted_write)
        patch.setattr(Client, "_gather", counted_gather)
        yield traffic


def states_here() -> int:
    gc.collect()
    # By type: pydantic's `isinstance` is Python's own, and takes seconds for all that a suite has in memory.
    kinds = {State, *State.__subclasses__()}
    return sum(type(one) in kinds for one in gc.get_objects())


def test_a_mapped_task_costs_few_bytes_and_graphs_and_no_state_until_it_is_asked_for(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task
    def double(x: int) -> int:
        return 2 * x

    @flow(task_runner=runner)
    def doubles() -> tuple[int, int]:
        double.submit(0).result()
        before = states_here()
        submission = get_run_context().task_runner._submission
        graphs = patch.object(submission, "_graph", wraps=submission._graph)
        with graphs as graph, counted(monkeypatch, dask_cluster) as traffic:
            futures = double.map(range(200))
            for future in futures:
                future.wait()
        assert futures.result() == [2 * x for x in range(200)]
        assert states_here() < before + 50
        assert all(future.state.is_completed() for future in futures)
        assert states_here() > before + 150
        return traffic.sent // 200, graph.call_count

    sent, graphs = doubles()
    assert sent < 600
    assert graphs == 1


def test_a_large_argument_goes_once_to_the_cluster_and_a_result_stays_there_until_it_is_asked_for(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).random(500_000)

    @task
    def total(n: int, values: Any) -> float:
        values[0] = n  # its own copy, and one that may be written to
        return float(values.sum())

    @task
    def make(n: int) -> Any:
        return np.full(500_000, n)

    @flow(task_runner=runner)
    def sums() -> None:
        total.submit(0, array[:10]).result()
        with counted(monkeypatch, dask_cluster) as traffic:
            mapped = total.map(range(10), unmapped(array)).result()
            once_more = total.submit(10, array.copy()).result()
        rest = float(array[1:].sum())
        assert np.allclose([*mapped, once_more], [n + rest for n in range(11)])
        assert array.nbytes < traffic.sent < 1.2 * array.nbytes
        with counted(monkeypatch, dask_cluster) as traffic:
            futures = [make.submit(n) for n in range(5)]
            for future in futures:
                future.wait()
            states = [future.state for future in futures]
            assert all(state.is_completed() for state in states)
            after = total.submit(1, futures[2]).result()
        assert traffic.fetched == 0
        assert after == 1 + 2 * 499_999
        assert states[3].result().sum() == 3 * 500_000

    sums()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_the_task_s_own_and_nobody_is_warned_of_it(
    runner: CoiledTaskRunner, order: Any
) -> None:
    array = np.arange(1_600_000.0).reshape(1000, 1600).copy(order)  # more than Dask takes for a large graph

    @task
    def change(n: int, values: Any) -> tuple[float, bool]:
        before = float(values[1, 1])
        values[1, 1] = n
        return before, bool(values.flags.writeable and values.flags[f"{order}_CONTIGUOUS"])

    @flow(task_runner=runner)
    def changes() -> list[Any]:
        return list(change.map(range(8), unmapped(array)).result())

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert changes() == [(1601.0, True)] * 8
    assert array[1, 1] == 1601.0


@dataclass
class Job:
    name: str
    tools: dict[str, Any]


def test_an_argument_that_cannot_be_sent_is_named_with_the_path_to_what_is_in_the_way(
    runner: CoiledTaskRunner,
) -> None:
    @task
    def take(x: Any, job: Any = None) -> int:
        return 1

    @flow(task_runner=runner)
    def sends() -> int:
        job = Job("a", {"locks": [1, threading.Lock()]})
        with pytest.raises(
            ArgumentError, match=r"parameter 'job' of task 'take' .*job\.tools\['locks'\]\[1\]"
        ):
            take.submit(1, job)
        with pytest.raises(ArgumentError, match=r"parameter 'x' of task 'take' .*it is a _thread\.lock"):
            take.map([threading.Lock()])
        found: int = take.submit(2).result()
        return found

    assert sends() == 1


def test_a_returned_result_outlives_the_cluster(runner: CoiledTaskRunner) -> None:
    @task
    def make(n: int) -> bytes:
        return bytes([n]) * 5_000

    @flow(task_runner=runner)
    def returns() -> Any:
        first = make.submit(1)
        first.wait()
        return [first.state, make.submit(2)]

    assert [state.result() for state in returns()] == [b"\1" * 5_000, b"\2" * 5_000]
