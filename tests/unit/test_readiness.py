"""How long is waited for a cluster that was launched, and what is said where that was too long."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.cluster.readiness import wait_until_ready
from prefect_coiled.errors import ClusterStartError


class Silent:
    """A cluster whose scheduler is not there; each look at the clock takes a second."""

    def __init__(self, now: float) -> None:
        self.now, self.began = now, now
        self.stop_event = threading.Event()
        self.workers: dict[str, Any] = {}
        self.observed: set[str] = set()

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    async def in_thread(self, function: Any, *args: Any) -> Any:
        return function(*args)


async def test_a_scheduler_has_its_whole_time_however_long_the_way_to_its_launch_was() -> None:
    cluster = Silent(now=1000.0)  # so much went by with packing and uploading
    record = SimpleNamespace(
        name="c", scheduler_host="127.0.0.1", scheduler_port=1, scheduler=SimpleNamespace(instance_id="i-0")
    )
    launched: Any = SimpleNamespace(
        record=record,
        address="tls://127.0.0.1:1",
        machines=lambda states: [],
        log=lambda one, tail: "",
        doubt=lambda: None,
        attached=False,
    )
    with pytest.raises(ClusterStartError, match=r"did not answer within 45 s of its launch .*said: nothing"):
        await wait_until_ready(
            cluster,  # type: ignore[arg-type]
            launched,
            least=0,
            timeout=45.0,
            began=cluster.began,
            clock=cluster.clock,
        )
    assert 45.0 <= cluster.now - cluster.began < 50.0
