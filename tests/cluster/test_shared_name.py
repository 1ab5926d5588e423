"""A cluster's name is shared by whoever asks for it, at once or one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prefect import flow, task, unmapped
from prefect.client.schemas.objects import StateType

from prefect_coiled import Cluster, CoiledTaskRunner
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]


def test_two_that_ask_for_a_name_at_once_share_one_cluster(sandbox: Sandbox, live: Live) -> None:
    def make(_: int) -> Cluster:
        return Cluster(n_workers=1, wait_for_workers=True, name="asked-twice", quiet=True)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(make, range(2))
    try:
        assert one.scheduler_address == other.scheduler_address
        assert sorted([one.shutdown_on_close, other.shutdown_on_close]) == [False, True]
        assert len(live()) == 2
    finally:
        one.close()
        other.close()
    assert live() == []


def test_two_that_scale_one_cluster_at_once_get_what_they_asked_for_and_no_more(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    with (
        Cluster(n_workers=1, wait_for_workers=True, name="scaled-twice", quiet=True) as first,
        Cluster(name="scaled-twice", quiet=True) as second,
    ):
        sandbox.faults([{"service": "ec2", "action": "RunInstances", "effect": "latency", "seconds": 2.0}])
        try:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda cluster: cluster.scale(3), (first, second)))
        finally:
            sandbox.faults([])
        assert len(live()) == 1 + 3
        until(lambda: len(first.observed) == 3, 120)
        assert len(live()) == 1 + 3


def test_a_name_is_free_again_once_its_cluster_has_ended_by_itself(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    left = Cluster(n_workers=0, name="again", quiet=True, shutdown_on_close=False, cluster_timeout="3 s")
    left.close()
    until(lambda: live() == [], 60)
    with Cluster(n_workers=0, name="again", quiet=True) as cluster:
        assert cluster.launched is not None
        assert not cluster.launched.attached
    assert live() == []


@task
def held(number: int, gate: str) -> int:
    """Ends once a file is there."""
    end = time.monotonic() + 60
    while not Path(gate).exists() and time.monotonic() < end:
        time.sleep(0.05)
    return number


@task
def fails(number: int) -> int:
    raise ValueError(number)


def test_two_flows_at_once_on_one_cluster_do_not_hurt_each_other(
    sandbox: Sandbox, live: Live, tmp_path: Path
) -> None:
    gate, begun = tmp_path / "gate", threading.Event()

    @flow(name="goes on", task_runner=CoiledTaskRunner(name="for-two"))
    def goes_on() -> list[int]:
        futures = held.map(range(4), unmapped(str(gate)))
        begun.set()
        return futures.result()  # type: ignore[no-any-return]

    @flow(name="comes to nothing", task_runner=CoiledTaskRunner(name="for-two"))
    def comes_to_nothing() -> Any:
        left = held.submit(9, str(tmp_path / "never"))  # is cancelled with its flow
        assert left.task_run_id
        return fails.submit(1).result()

    with Cluster(n_workers=2, nthreads=3, name="for-two", wait_for_workers=True, quiet=True) as cluster:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(goes_on, return_state=True)
            assert begun.wait(60)
            failed = comes_to_nothing(return_state=True)
            assert failed.type == StateType.FAILED
            assert "ValueError" in str(failed.message)
            assert not other.done(), "it waits for its gate, whatever became of its neighbour"
            assert cluster.observed == set(cluster.workers)
            assert len(cluster.workers) == 2, "who attaches takes nothing along"
            gate.touch()
            done = other.result(timeout=300)
        assert done.type == StateType.COMPLETED
        assert done.result() == [0, 1, 2, 3]
        assert len(live()) == 3
    assert live() == []
