"""A size that was asked for while a worker was away is asked for again only while it is the last word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from distributed.core import Status

from prefect_coiled.cluster.base import ClusterBase
from prefect_coiled.cluster.fleet import Fleet
from prefect_coiled.cluster.scaling import ScalingCluster
from prefect_coiled.errors import AccessDeniedError, NoCapacityError
from prefect_coiled.records import InstanceRecord

LOST = "i-0001"
MACHINE: dict[str, Any] = {
    "role": "worker",
    "instance_type": "m6i.xlarge",
    "zone": "us-east-1a",
    "state": "running",
}


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
    made._fleet.launched(InstanceRecord(instance_id=i, cluster="c", **MACHINE) for i in (LOST, "i-0002"))
    return made


def scaling(cluster: Any, **launched: Any) -> list[dict[str, Any]]:
    """Have a cluster of two workers scale for real; gives what its keeper is told."""
    told: list[dict[str, Any]] = []

    async def tell(*_: Any, **said: Any) -> dict[str, Any]:
        told.append(said)
        return {"wanted": 4, "unlisted": ["i-0003", "i-0004"]} if "hold" in said else {}

    async def called(do: Any, *args: Any) -> Any:
        return do(*args)

    async def nothing(*args: Any, **kwargs: Any) -> Any:
        return []

    cluster.__dict__.update(
        _adapting=lambda: None,
        _arrivals=SimpleNamespace(anew=lambda: None, expect=lambda: None),
        _look=nothing,
        _holder="me",
        _scaling=None,
        _watching=SimpleNamespace(expect=lambda names: None),
        in_thread=called,
        scheduler_comm=SimpleNamespace(log_event=nothing, workers_to_close=nothing, retire_workers=nothing),
        started=lambda: SimpleNamespace(shared=None, **launched),
        status=Status.running,
        tell_keeper=tell,
    )
    return told


async def test_fewer_are_had_at_once_from_what_the_scheduler_has_launched_and_aws_does_not_list(
    cluster: Any,
) -> None:
    ended: list[str] = []
    scaling(cluster, terminate_workers=ended.extend)
    await cluster._scale_to(4)
    assert ended == []
    await cluster._scale_to(3)
    assert ended == ["i-0003"]
    await cluster._scale_to(1)
    assert ended == ["i-0003", "i-0003", "i-0004", LOST]
    assert set(cluster.workers) == {"i-0002"}
    listed = InstanceRecord(instance_id="i-0004", cluster="c", **MACHINE)
    cluster._fleet.seen([*cluster.workers.values(), listed])
    assert set(cluster.workers) == {"i-0002"}, "AWS may list for a moment what was ended"


async def test_a_size_that_nothing_was_launched_for_is_not_wanted_any_more(cluster: Any) -> None:
    def add(count: int) -> Any:
        raise NoCapacityError("launching", "AWS has none.")

    told = scaling(cluster, add=add)
    with pytest.raises(NoCapacityError):
        await cluster._scale_to(9)
    assert (told[0]["wanted"], told[-1]["wanted"]) == (9, 4)


async def test_workers_that_were_retired_are_not_bought_again_where_aws_keeps_them(
    cluster: Any,
) -> None:
    def terminate(machines: Any) -> None:
        raise AccessDeniedError("terminating", "AWS denies it.")

    told = scaling(cluster, terminate_workers=terminate)
    with pytest.raises(AccessDeniedError):
        await cluster._scale_to(1)
    assert [one["wanted"] for one in told if "wanted" in one] == [1, 1], "the size stays as it was asked for"


def test_machines_are_waited_for_by_all_of_their_workers(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(ClusterBase, "wait_for_workers", lambda self, n, timeout: waited.append(n))
    cluster.check_open = lambda what: None
    cluster.launched = SimpleNamespace(spec=SimpleNamespace(worker_node=SimpleNamespace(workers_per_vm=2)))
    cluster.wait_for_workers(4)
    assert waited == [8]


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
