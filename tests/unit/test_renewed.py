"""A worker whose nanny starts it anew, because a thread of its is stuck, is wanted as before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client, Event, Scheduler, Worker

from prefect_coiled.node.keeper import Dask, Keeper
from prefect_coiled.node.scheduler import NodeScheduler
from prefect_coiled.node.timers import Timers
from prefect_coiled.plan.node_config import Keep
from prefect_coiled.task_runner import renewal


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler without TLS, which the pages need and this does not."""
    monkeypatch.setattr(NodeScheduler, "listen", Scheduler.listen)
    monkeypatch.setattr(NodeScheduler, "start_http_server", Scheduler.start_http_server)


@asynccontextmanager
async def kept(**more: Any) -> AsyncIterator[tuple[NodeScheduler, Keeper]]:
    """A scheduler that keeps two machines."""
    options: dict[str, Any] = {"protocol": "tcp", "host": "127.0.0.1", "port": 0, "dashboard": False}
    timers = Timers(time.monotonic(), None, None)
    async with NodeScheduler(dashboard_token="t", timers=timers, **more, **options) as scheduler:
        config: Any = SimpleNamespace(
            keep=Keep(uid="u", n_workers=2, templates=("t",)),
            account="a",
            cluster="c",
            works=False,
            boot_timeout=1200.0,
        )
        dask = Dask(
            scheduler.machines,
            scheduler.clusters,
            scheduler.target,
            scheduler.shrink,
            scheduler.let_go,
            scheduler.say_kept,
        )
        scheduler.keeper = keeper = Keeper(
            config, machine="i-s", client=lambda: None, scheduler=dask, patience=30.0
        )
        yield scheduler, keeper


async def test_the_wanted_size_stays(plain: None) -> None:
    async with (
        kept() as (scheduler, keeper),
        Worker(scheduler.address, name="i-0001", nthreads=1) as stuck,
        Worker(scheduler.address, name="i-0002", nthreads=1),
    ):
        assert await renewal._retire(stuck)
        assert scheduler.machines() == {"i-0002"}
        assert keeper.keeping.wanted == 2
        await scheduler.retire_workers(names=["i-0002"])
        assert keeper.keeping.wanted == 1, "what is retired by hand is not wanted any more"


async def test_one_of_a_machines_workers_is_retired_and_the_machine_is_wanted_as_before(plain: None) -> None:
    async with kept(workers_per_vm=2) as (scheduler, keeper):
        names = [f"i-0003-{n}" for n in range(2)]
        async with (
            Worker(scheduler.address, name=names[0], nthreads=1),
            Worker(scheduler.address, name=names[1], nthreads=1),
        ):
            await scheduler.retire_workers(names=[names[0]])
            assert keeper.keeping.wanted == 2
            await scheduler.retire_workers(names=[names[1]])
            assert keeper.keeping.wanted == 1


async def test_workers_that_are_too_many_are_let_go_once_they_have_nothing_to_do(plain: None) -> None:
    async with (
        kept() as (scheduler, keeper),
        Worker(scheduler.address, name="i-0001", nthreads=1),
        Worker(scheduler.address, name="i-0002", nthreads=1),
        Worker(scheduler.address, name="i-0003", nthreads=1),
        Client(scheduler.address, asynchronous=True) as client,
    ):
        event = Event("done", client=client)
        works = client.submit(lambda: Event("done").wait(60), workers=["i-0001"])
        while not any(one.processing for one in scheduler.workers.values()):
            await asyncio.sleep(0.01)
        assert await scheduler.let_go({"i-0001"}, 1) == [], "who is at work stays"
        assert await scheduler.let_go({"i-0001", "i-0002", "i-0003"}, 1) == ["i-0002"]
        assert keeper.keeping.wanted == 2, "nobody wanted fewer"
        await event.set()
        assert await works
        assert await scheduler.let_go({"i-0001", "i-0009"}, 2) == ["i-0001"], "what it holds has moved"
        assert scheduler.machines() == {"i-0003"}
