"""AWS takes spot machines back: with its notice of two minutes, without one, one of them or all at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from distributed import Client, get_worker
from prefect import flow, task
from prefect.futures import wait

from prefect_coiled import Cluster, CoiledTaskRunner, get_notifications
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]
SPOT: dict[str, Any] = {"n_workers": 2, "wait_for_workers": True, "spot": True, "nthreads": 1, "quiet": True}
# Seconds from the notice to the end.
NOTICE = 100.0


def workers(live: Live) -> set[str]:
    """The worker machines that are not gone."""
    found = {m["InstanceId"]: {t["Key"]: t["Value"] for t in m["Tags"]}["coiled-role"] for m in live()}
    return {name for name, role in found.items() if role == "worker"}


def take_back(sandbox: Sandbox, *names: str, seconds: float = NOTICE) -> None:
    for name in names:
        sandbox.interrupt(name, seconds=seconds)


def test_machines_that_are_all_taken_back_at_once_hand_over_to_new_ones(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    with Cluster(**SPOT) as cluster, Client(cluster) as client:
        held = client.scatter(list(range(20)), broadcast=False)
        before = set(cluster.workers)
        take_back(sandbox, *before)
        until(lambda: not before & workers(live), NOTICE - 10)
        assert client.gather(held) == list(range(20))
        until(lambda: len(cluster.observed) == 2, 60)
        assert set(cluster.workers) == set(map(str, cluster.observed)) == workers(live)
        assert all(machine.spot for machine in cluster.workers.values())
    assert live() == []


def test_a_machine_is_replaced_while_it_hands_over_and_counts_no_more(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    with Cluster(**SPOT) as cluster, Client(cluster) as client:
        leaving, other = sorted(cluster.workers)
        busy = client.submit(time.sleep, 30, workers=[leaving], pure=False)
        until(lambda: any(client.processing().values()))
        take_back(sandbox, leaving)
        until(lambda: len(cluster.observed) == 3, 30)
        (new,) = set(map(str, cluster.observed)) - {leaving, other}
        until(lambda: set(cluster.workers) == {other, new})
        cluster.scale(2)
        assert set(cluster.workers) == {other, new}
        assert workers(live) == {leaving, other, new}
        assert not busy.done()
        cluster.scale(1)
        assert len(cluster.workers) == 1
        busy.cancel()
        until(lambda: leaving not in workers(live), 60)
        assert workers(live) == set(cluster.workers)
    assert live() == []


def test_what_ran_on_a_machine_that_is_taken_without_a_notice_runs_elsewhere(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    def part(number: int) -> tuple[int, str]:
        time.sleep(3.0)
        return number, str(get_worker().name)

    with Cluster(**SPOT) as cluster, Client(cluster) as client:
        leaving = min(cluster.workers)
        parts = client.map(part, range(4), pure=False)
        until(lambda: all(client.processing().values()))
        take_back(sandbox, leaving, seconds=0.0)  # it is gone before it looks for one
        found = client.gather(parts)
        assert [number for number, _ in found] == list(range(4))
        assert leaving not in {name for _, name in found}
        until(lambda: len(cluster.observed - {leaving}) == 2, 60)
        told = [row["event_type"] for row in get_notifications(json=True, limit=100) or []]
        assert "spot_notice" not in told[: told.index("cluster_ready")]
    assert live() == []


@task
def part_of_flow(number: int) -> int:
    return number * number


def test_a_flow_has_its_results_though_all_its_machines_were_taken_back(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    spot = {"spot": True}

    @flow(task_runner=CoiledTaskRunner(n_workers=2, wait_for_workers=True, nthreads=1, backend_options=spot))
    def squares() -> int:
        parts = part_of_flow.map(range(8))
        wait(parts)
        before = workers(live)
        take_back(sandbox, *before)
        until(lambda: not before & workers(live), NOTICE - 10)
        return sum(part.result() for part in parts)

    assert squares() == sum(number * number for number in range(8))
    assert live() == []
