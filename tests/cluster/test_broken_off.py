"""Ctrl-C or a cancellation while a cluster is attached to, or scaled: nothing of others ends by it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from prefect_coiled import Cluster
from prefect_coiled.cluster import cluster as room
from prefect_coiled.cluster.launched import Launched
from prefect_coiled.errors import ClusterStartError
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]


@pytest.fixture
def kept(sandbox: Sandbox) -> Any:
    """A cluster that others use."""
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster:
        yield cluster


async def test_an_attach_that_is_cancelled_at_its_last_call_leaves_the_cluster_as_it_is(
    kept: Cluster, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, attaching = room.launch, threading.Event()

    def late(request: Any, stop: threading.Event, modules: Any) -> Launched:
        found = launch(request, stop, modules)
        attaching.set()
        stop.wait(30)
        return found

    monkeypatch.setattr(room, "launch", late)
    before = {one["InstanceId"] for one in live()}

    async def attach() -> None:
        await Cluster(name=kept.name, asynchronous=True, quiet=True)

    task = asyncio.ensure_future(attach())
    await asyncio.to_thread(attaching.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {one["InstanceId"] for one in live() if one["State"]["Name"] == "running"} == before


def test_who_cannot_reach_a_cluster_that_is_there_is_told_that_it_runs_on(kept: Cluster, live: Live) -> None:
    before = len(live())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.cluster.launched.Launched.address", "tls://127.0.0.1:9")
        with pytest.raises(ClusterStartError, match=r"attaching to cluster .*It runs on") as told:
            Cluster(name=kept.name, timeout=5, quiet=True)
    assert "Nothing is left running" not in str(told.value)
    assert len(live()) == before


def test_a_scale_that_is_broken_off_launches_as_many_as_were_asked_for(
    sandbox: Sandbox, live: Live, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, begun, go_on = Launched.add, threading.Event(), threading.Event()

    def late(self: Launched, count: int) -> Any:
        begun.set()
        go_on.wait(30)
        return add(self, count)

    monkeypatch.setattr(Launched, "add", late)
    with Cluster(n_workers=0, quiet=True) as cluster:
        told: list[dict[str, Any]] = []
        tell = cluster.tell_keeper

        async def tells(*args: Any, **more: Any) -> Any:
            told.append(more)
            return await tell(*args, **more)

        monkeypatch.setattr(cluster, "tell_keeper", tells)

        async def break_off() -> None:
            scaling = asyncio.ensure_future(cluster._scale(2))
            await asyncio.to_thread(begun.wait, 30)
            scaling.cancel()
            await asyncio.wait([scaling])
            assert scaling.cancelled()

        cluster.sync(break_off)
        assert [more for more in told if "release" in more] == [], "its launch is on its way"
        go_on.set()
        until(lambda: len(cluster.observed) == 2, 60)
        until(lambda: [more for more in told if len(more.get("launched", ())) == 2], 30)
        assert len(live()) == 3
    assert live() == []
