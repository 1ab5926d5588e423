"""A size that was asked for while a worker was away is asked for again only while it is the last word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.cluster.fleet import Fleet
from prefect_coiled.cluster.scaling import ScalingCluster
from prefect_coiled.records import InstanceRecord

LOST = "i-0001"


@pytest.fixture
def cluster() -> Any:
    """Two workers, one of which was away when ten were asked for."""
    made: Any = object.__new__(ScalingCluster)
    asked: list[int] = []

    async def nothing(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    async def scale(n: int) -> None:
        asked.append(n)

    watching = SimpleNamespace(joined=lambda names: None, gone=lambda name: None, expect=lambda names: None)
    launched = SimpleNamespace(shared=None, terminate_workers=lambda machines: None)
    made.__dict__.update(
        asked=asked,
        launched=None,
        scheduler_info={"workers": {}},
        scheduler_comm=SimpleNamespace(log_event=nothing),
        in_thread=nothing,
        started=lambda: launched,
        tell_keeper=nothing,
        _counted_on=(10, frozenset({LOST})),
        _arrivals=SimpleNamespace(joined=lambda: None),
        _fleet=Fleet(),
        _leaving=False,
        _resizing=False,
        _scale=scale,
        _unasked=lambda doing: doing,
        _watching=watching,
    )
    machine = {"role": "worker", "instance_type": "m6i.xlarge", "zone": "us-east-1a", "state": "running"}
    made._fleet.launched(InstanceRecord(instance_id=i, cluster="c", **machine) for i in (LOST, "i-0002"))
    return made


async def lose(cluster: Any) -> list[int]:
    cluster._fleet.away(LOST)
    cluster._give_up(LOST)
    if (doing := getattr(cluster, "_looking", None)) is not None:
        await doing
    return list(cluster.asked)


async def test_one_that_never_came_back_is_made_up_for(cluster: Any) -> None:
    assert await lose(cluster) == [10]


async def test_one_that_came_back_was_counted_rightly(cluster: Any) -> None:
    cluster._update_worker_status("add", {"workers": {"tcp://1": {"name": LOST}}})
    assert await lose(cluster) == []


async def test_a_size_by_retiring_workers_is_a_later_word(cluster: Any) -> None:
    await cluster.scale_down(["i-0002"])
    assert await lose(cluster) == []
