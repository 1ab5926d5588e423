"""Several workers on a machine: one that leaves takes neither its neighbours nor the machine along."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.core import Status

from prefect_coiled.node import scheduler_role
from prefect_coiled.node import worker as node_worker
from prefect_coiled.node.scheduler_role import SchedulerRole
from prefect_coiled.node.worker import WorkerRole
from prefect_coiled.plan.node_config import NodeConfig


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


async def test_one_that_never_says_that_it_closed_keeps_no_machine_running(minutes: list[float]) -> None:
    # As Dask's nannies before 2026.8, where what they close first fails.
    class Stuck(OfNanny):
        async def close(self, **given: Any) -> None:
            raise TimeoutError

    machine = role(Stuck(Status.running, alive=False))
    await machine.finished()
    assert machine.reason == "no-worker-process"


class Machine:
    """Which names workers have here, whose nannies cannot start, and what gives credentials out."""

    def __init__(self, failing: list[str]) -> None:
        self.failing, self.names = failing, set[str]()
        self.made: list[Started] = []
        self.counters: list[bool] = []


class Started(OfNanny):
    """A nanny that can start: where its worker's name is not taken, after others had time to fail."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(Status.init, alive=False)
        self.machine, self.name = machine, name
        machine.made.append(self)

    def __await__(self) -> Any:
        return self.start().__await__()

    async def start(self) -> None:
        if self.name in self.machine.failing:
            self.machine.failing.remove(self.name)
            self.status = Status.failed
            self.over.set()
            raise RuntimeError("Nanny failed to start.")
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.name not in self.machine.names, "name taken"
        self.machine.names.add(self.name)
        self.status, self.alive = Status.running, True

    async def close(self, **given: Any) -> None:
        assert self.status != Status.init, "it is on its way"
        self.machine.names.discard(self.name)
        self.status, self.alive = Status.closed, False
        await super().close(**given)


def at_work(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The role of a scheduler with two workers beside it."""

    class Counted:
        def __init__(self, ask: Any) -> None:
            self.number = len(machine.counters)
            machine.counters.append(False)

        def open(self) -> None:
            machine.counters[self.number] = True

        def close(self) -> None:
            machine.counters[self.number] = False

    async def reached(self: Any) -> None: ...

    monkeypatch.setattr(node_worker, "Counter", Counted)
    monkeypatch.setattr(WorkerRole, "_reach_scheduler", reached)
    monkeypatch.setattr(WorkerRole, "_nanny", lambda self, name: Started(machine, name))
    monkeypatch.setattr(scheduler_role, "_AGAIN_S", 0.0)
    config = NodeConfig(
        account="default",
        region="us-east-1",
        cluster="c1",
        role="scheduler",
        secrets_parameter="/keys",
        log_group="default",
        workers_per_vm=2,
        works=True,
        lends=True,
    )
    made: Any = SchedulerRole.__new__(SchedulerRole)
    order = {"address": "10.0.0.4", "instance_id": "i-1"}
    made.__dict__.update(_config=config, _order=order, _scheduler=SimpleNamespace(closed_because=""))
    return made


async def test_one_that_cannot_start_leaves_no_neighbour_behind_that_keeps_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(failing=["i-1-0"])
    work = asyncio.ensure_future(at_work(machine, monkeypatch)._work())
    while len(machine.names) < 2 or len(machine.made) < 4:
        assert len(machine.made) <= 4, "the names are taken"
        await asyncio.sleep(0)
    failed, neighbour, *now = machine.made
    assert failed.status == Status.failed
    assert neighbour.status == Status.closed
    assert [one.status for one in now] == [Status.running] * 2
    assert machine.counters == [False, True]
    work.cancel()
    await asyncio.wait([work])
    assert machine.names == set()
    assert machine.counters == [False, False]


async def test_workers_of_a_machine_that_end_in_order_give_no_credentials_out_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(failing=[])
    role = at_work(machine, monkeypatch)
    work = asyncio.ensure_future(role._work())
    while len(machine.names) < 2:
        await asyncio.sleep(0)
    assert machine.counters == [True]
    role._scheduler.closed_because = "idle"
    for one in machine.made:
        await one.close()
    await work
    assert machine.counters == [False]


async def test_a_machine_whose_one_worker_cannot_start_closes_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(failing=["i-1-1"])
    role = at_work(machine, monkeypatch)
    with pytest.raises(RuntimeError, match="failed to start"):
        await WorkerRole(role._config, role._order).start()
    assert [one.status for one in machine.made] == [Status.closed, Status.failed]
    assert machine.counters == [False]


async def test_one_that_cannot_be_closed_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(OfNanny):
        async def close(self, **given: Any) -> None:
            raise TimeoutError("it does not end")

    stuck, well = Stuck(Status.running, alive=True), OfNanny(Status.running, alive=True)
    told: list[str] = []
    logger = SimpleNamespace(warning=lambda text, *given: told.append(text % given))
    monkeypatch.setattr(node_worker, "logger", logger)
    await role(stuck, well).close("closed")
    assert well.over.is_set()
    assert told == ["a worker of this machine could not be closed: TimeoutError('it does not end')"]
