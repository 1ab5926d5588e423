"""Who visits a scheduler between two looks at its timers keeps it as long as who stays."""

from __future__ import annotations

import time
from typing import Any

import pytest
from distributed import Client, Scheduler
from distributed.core import Status

from prefect_coiled.node.scheduler import NodeScheduler
from prefect_coiled.node.timers import Timers


async def test_the_count_begins_with_the_visit_and_not_with_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without TLS, which the pages need and this does not.
    monkeypatch.setattr(NodeScheduler, "listen", Scheduler.listen)
    monkeypatch.setattr(NodeScheduler, "start_http_server", Scheduler.start_http_server)
    options: dict[str, Any] = {"protocol": "tcp", "host": "127.0.0.1", "port": 0, "dashboard": False}
    began = time.monotonic()
    timers = Timers(began - 1000, 120.0, None)
    async with NodeScheduler(dashboard_token="t", timers=timers, **options) as scheduler:
        scheduler.periodic_callbacks["node-timers"].stop()  # it looks when the test says so
        scheduler._heard = began - 500  # somebody was there long ago
        async with Client(scheduler.address, asynchronous=True):
            pass
        scheduler._check_timers()
        assert timers._alone_since is not None
        assert timers._alone_since >= began
        assert scheduler.status == Status.running
