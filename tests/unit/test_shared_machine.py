"""Several workers on a machine: one that leaves takes neither its neighbours nor the machine along."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.core import Status

from prefect_coiled.node import worker as node_worker
from prefect_coiled.node.worker import WorkerRole


class OfNanny:
    """As much of a nanny as is asked for."""

    def __init__(self, status: Status, alive: bool) -> None:
        self.status, self.alive = status, alive
        self.over = asyncio.Event()
        if status == Status.closed:
            self.over.set()

    def is_alive(self) -> bool:
        return self.alive

    async def finished(self) -> None:
        await self.over.wait()

    async def close(self, **given: Any) -> None:
        self.over.set()


def role(*nannies: OfNanny) -> Any:
    made: Any = WorkerRole.__new__(WorkerRole)
    made.__dict__.update(
        _nannies=list(nannies), _config=SimpleNamespace(scheduler_lost_timeout=60.0), _lost="", _counter=None
    )
    return made


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each look at the nannies is a minute after the last one."""
    now = [0.0]

    async def wait(ends: Any, timeout: float) -> None:
        now[0] += 60.0
        await asyncio.sleep(0)

    monkeypatch.setattr(node_worker.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(node_worker.asyncio, "wait", wait)
    return now


async def test_a_worker_that_was_retired_leaves_its_neighbours_to_their_work(minutes: list[float]) -> None:
    gone, works = OfNanny(Status.closed, alive=False), OfNanny(Status.running, alive=True)
    machine = role(gone, works)
    waiting = asyncio.ensure_future(machine.finished())
    while minutes[0] < 600.0:
        await asyncio.sleep(0)
    assert not waiting.done()
    works.over.set()
    await waiting
    assert machine._lost == ""


async def test_one_that_cannot_start_its_worker_again_ends_the_machine(minutes: list[float]) -> None:
    machine = role(OfNanny(Status.running, alive=False), OfNanny(Status.running, alive=True))
    await machine.finished()
    assert machine._lost == "no-worker-process"
