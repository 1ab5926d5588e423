"""How many machines a use of the cluster costs: as many as a `LocalCluster` starts workers, and no more.

Machines are counted in EC2 itself, those that have ended too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from distributed import Client, LocalCluster

from prefect_coiled import Cluster
from prefect_coiled.sandbox import Sandbox

Until = Callable[..., Any]


class Counting(LocalCluster):  # type: ignore[misc]
    """Dask's own, and how many workers it has started."""

    started = 0

    def new_worker_spec(self) -> Any:
        self.started += 1
        return super().new_worker_spec()


def work_is_adapted_to_by_cores(cluster: Any, client: Client, until: Until) -> None:
    cluster.adapt(minimum=0, maximum_cores=2, interval="200ms")
    assert sum(client.gather(client.map(lambda n: time.sleep(0.5) or n, range(16), pure=False))) == 120
    cluster._adaptive.stop()


def workers_are_started_anew_while_it_adapts(cluster: Any, client: Client, until: Until) -> None:
    cluster.adapt(minimum=2, maximum=4, interval="200ms")
    client.wait_for_workers(2, timeout=300)
    client.restart(timeout=300)
    before = client.run(os.getpid)
    (one, _) = sorted(before)
    client.run(os._exit, 1, workers=[one], on_error="ignore")  # its nanny starts it again
    until(lambda: len(now := client.run(os.getpid, on_error="ignore")) == 2 and now != before, 90)
    assert client.submit(sum, [1, 2]).result(timeout=300) == 3
    cluster._adaptive.stop()


def workers_are_scaled_to_what_they_were_while_they_start_anew(
    cluster: Any, client: Client, until: Until
) -> None:
    cluster.scale(2)
    client.wait_for_workers(2, timeout=300)
    client.restart(wait_for_workers=False, timeout=300)
    cluster.scale(2)
    client.wait_for_workers(2, timeout=300)


@pytest.mark.parametrize(
    ("use", "machines"),
    [
        (work_is_adapted_to_by_cores, 1),
        (workers_are_started_anew_while_it_adapts, 2),
        (workers_are_scaled_to_what_they_were_while_they_start_anew, 2),
    ],
)
def test_no_more_machines_are_launched_than_a_local_cluster_starts_workers(
    sandbox: Sandbox, until: Until, use: Callable[..., None], machines: int
) -> None:
    with (
        patch.dict(os.environ),  # a nanny sets variables in the process that has it
        Counting(n_workers=0, threads_per_worker=2, dashboard_address=":0") as there,
        Client(there) as client,
    ):
        use(there, client, until)
        assert there.started == machines
    before = set(sandbox.instances())
    with Cluster(n_workers=0, nthreads=2, quiet=True) as here, Client(here) as client:
        use(here, client, until)
        assert len(here.observed) == len(here.workers) <= machines
    launched = {name: one["state"] for name, one in sandbox.instances().items() if name not in before}
    assert len(launched) == 1 + machines, "a scheduler, and so many workers"
    assert set(launched.values()) == {"terminated"}


def test_two_objects_of_a_cluster_launch_and_end_what_is_asked_for(sandbox: Sandbox, until: Until) -> None:
    before = set(sandbox.instances())

    def ours() -> list[str]:
        states = {n: one["state"] for n, one in sandbox.instances().items() if n not in before}
        return sorted("ended" if s in ("terminated", "shutting-down") else "lives" for s in states.values())

    with (
        Cluster(n_workers=1, name="two-objects", wait_for_workers=True, quiet=True) as first,
        Client(first) as client,
        Cluster(name="two-objects", quiet=True) as second,
    ):
        first.scale(2)
        client.wait_for_workers(2, timeout=300)
        until(lambda: len(second.workers) == len(second.observed) == 2)
        second.scale(1)
        until(lambda: len(client.nthreads()) == len(first.workers) == 1, 60)
        assert ours() == ["ended", "lives", "lives"]
        second.scale(2)
        client.wait_for_workers(2, timeout=300)
        until(lambda: len(first.workers) == 2)
        assert ours() == ["ended", "lives", "lives", "lives"]
    assert ours() == ["ended"] * 4
