"""A worker whose nanny starts it anew, because a thread of its is stuck, is wanted as before."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Scheduler, Worker

from prefect_coiled.node.keeper import Dask, Keeper
from prefect_coiled.node.scheduler import NodeScheduler
from prefect_coiled.node.timers import Timers
from prefect_coiled.plan.node_config import Keep
from prefect_coiled.task_runner import renewal


async def test_the_wanted_size_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without TLS, which the pages need and this does not.
    monkeypatch.setattr(NodeScheduler, "listen", Scheduler.listen)
    monkeypatch.setattr(NodeScheduler, "start_http_server", Scheduler.start_http_server)
    options: dict[str, Any] = {"protocol": "tcp", "host": "127.0.0.1", "port": 0, "dashboard": False}
    timers = Timers(time.monotonic(), None, None)
    async with NodeScheduler(dashboard_token="t", timers=timers, **options) as scheduler:
        config: Any = SimpleNamespace(
            keep=Keep(uid="u", n_workers=2, templates=("t",)),
            account="a",
            cluster="c",
            works=False,
            boot_timeout=1200.0,
        )
        dask = Dask(
            scheduler.machines, scheduler.clusters, scheduler.target, scheduler.shrink, scheduler.say_kept
        )
        scheduler.keeper = keeper = Keeper(
            config, machine="i-s", client=lambda: None, scheduler=dask, patience=30.0
        )
        async with (
            Worker(scheduler.address, name="i-0001", nthreads=1) as stuck,
            Worker(scheduler.address, name="i-0002", nthreads=1),
        ):
            assert await renewal._retire(stuck)
            assert scheduler.machines() == {"i-0002"}
            assert keeper.keeping.wanted == 2
            await scheduler.retire_workers(names=["i-0002"])
            assert keeper.keeping.wanted == 1, "what is retired by hand is not wanted any more"
