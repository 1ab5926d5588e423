"""How long is waited for a cluster that was launched, and what is said where that was too long."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.cluster.readiness import wait_until_ready
from prefect_coiled.errors import AccessDeniedError, ClusterStartError, UnavailableError


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


def launched(**more: Any) -> Any:
    """What was launched: its scheduler does not answer, and its machines are there."""
    record = SimpleNamespace(
        name="c", scheduler_host="127.0.0.1", scheduler_port=1, scheduler=SimpleNamespace(instance_id="i-0")
    )
    usual = {
        "machines": lambda states: [],
        "log": lambda one, tail: "",
        "doubt": lambda: None,
        "attached": False,
    }
    return SimpleNamespace(record=record, address="tls://127.0.0.1:1", **(usual | more))


async def wait(cluster: Silent, launched: Any) -> None:
    await wait_until_ready(
        cluster,  # type: ignore[arg-type]
        launched,
        least=0,
        timeout=45.0,
        began=cluster.began,
        clock=cluster.clock,
    )


async def test_a_scheduler_has_its_whole_time_however_long_the_way_to_its_launch_was() -> None:
    cluster = Silent(now=1000.0)  # so much went by with packing and uploading
    with pytest.raises(ClusterStartError, match=r"did not answer within 45 s of its launch .*said: nothing"):
        await wait(cluster, launched())
    assert 45.0 <= cluster.now - cluster.began < 50.0


async def test_a_look_that_aws_does_not_answer_ends_no_launch() -> None:
    looks: list[str] = []

    def machines(states: Any) -> list[Any]:
        looks.append("look")
        raise UnavailableError("finding instances (c)", "AWS is busy.")

    with pytest.raises(ClusterStartError, match="did not answer within 45 s"):
        await wait(Silent(now=0.0), launched(machines=machines))
    assert len(looks) > 1


async def test_logs_that_may_not_be_read_do_not_hide_why_a_cluster_did_not_come_up() -> None:
    def log(one: str, tail: int) -> str:
        raise AccessDeniedError("reading log stream (i-0)", "you may not.")

    with pytest.raises(ClusterStartError, match=r"did not answer within 45 s .*be read: .*you may not"):
        await wait(Silent(now=0.0), launched(log=log))
