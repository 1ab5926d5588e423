"""Whose a request is: by what is known, or by what the API says."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from prefect_coiled.relay import proof as module
from prefect_coiled.relay.needs import Needs, RefusedError
from prefect_coiled.relay.ownership import Known, Own
from prefect_coiled.relay.proof import Proof


class Api:
    """What the API knows: runs, and what they belong to."""

    def __init__(self) -> None:
        self.flow_runs: dict[UUID, UUID | None] = {}
        self.task_runs: dict[UUID, UUID | None] = {}
        self.artifacts: dict[UUID, UUID | None] = {}
        self.asked: list[str] = []

    async def read(self, method: str, target: str, body: Any) -> Any:
        self.asked.append(target)
        _, kind, name = target.split("/")
        if name == "filter":
            ids = [UUID(id_) for id_ in body["task_runs"]["id"]["any_"]]
            return [self._task_run(id_) for id_ in ids if id_ in self.task_runs]
        id_ = UUID(name)
        if id_ not in getattr(self, kind):
            return None
        if kind == "flow_runs":
            parent = self.flow_runs[id_]
            return {
                "id": name,
                "parent_task_run_id": str(parent) if parent else None,
                "flow_id": str(uuid4()),
            }
        if kind == "artifacts":
            return {"id": name, "flow_run_id": str(self.artifacts[id_]) if self.artifacts[id_] else None}
        return self._task_run(id_)

    def _task_run(self, id_: UUID) -> dict[str, Any]:
        flow_run = self.task_runs[id_]
        return {"id": str(id_), "flow_run_id": str(flow_run) if flow_run else None}


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def own() -> Own:
    return Own(flow_run=uuid4(), flow=uuid4(), deployment=uuid4(), work_queue=uuid4(), work_pool="pool")


@pytest.fixture
def proof(own: Own, api: Api) -> Proof:
    return Proof(own, api.read)


async def refused(proof: Proof, **needs: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        await proof.prove(Needs(**needs))
    assert caught.value.status == 403
    return caught.value.words


async def test_what_a_flow_run_has_is_its_own_without_a_question(proof: Proof, own: Own, api: Api) -> None:
    ids = {
        "flow_runs": set(own.flow_runs.all()),
        "flows": set(own.flows.all()),
        "deployments": set(own.deployments.all()),
        "work_queues": set(own.work_queues.all()),
        "work_pools": {"pool"},
    }
    await proof.prove(Needs(**ids))
    assert api.asked == []


@pytest.mark.parametrize("kind", ["flows", "deployments", "work_queues", "flow_runs"])
async def test_what_others_have_is_refused(proof: Proof, kind: str) -> None:
    other = uuid4()
    assert str(other) in await refused(proof, **{kind: {other}})
    assert "work pool theirs" in await refused(proof, work_pools={"theirs"})


async def test_a_task_run_of_another_flow_run_is_refused(proof: Proof, own: Own, api: Api) -> None:
    theirs, mine = uuid4(), uuid4()
    api.flow_runs[theirs] = None
    api.task_runs |= {mine: own.flow_run, uuid4(): theirs}
    foreign = list(api.task_runs)[1]
    await proof.prove(Needs(task_runs={mine}))
    assert str(foreign) in await refused(proof, task_runs={mine, foreign})
    api.task_runs[foreign] = None
    await refused(proof, task_runs={foreign})


async def test_a_task_run_that_nobody_knows_becomes_the_flow_runs(proof: Proof, api: Api) -> None:
    new = uuid4()
    await proof.prove(Needs(task_runs={new}))
    await proof.prove(Needs(task_runs={new}))
    assert api.asked == ["/task_runs/filter"]


async def test_many_task_runs_are_few_questions(proof: Proof, api: Api) -> None:
    await proof.prove(Needs(task_runs={uuid4() for _ in range(401)}))
    assert len(api.asked) == 3


async def test_subflows_of_subflows_are_the_flow_runs_own(proof: Proof, own: Own, api: Api) -> None:
    task, child, its_task, grandchild = (uuid4() for _ in range(4))
    api.task_runs |= {task: own.flow_run, its_task: child}
    api.flow_runs |= {child: task, grandchild: its_task}
    await proof.prove(Needs(flow_runs={grandchild}))
    assert {child, grandchild} <= set(own.flow_runs.all())
    stranger, their_task, their_child = (uuid4() for _ in range(3))
    api.flow_runs |= {stranger: None, their_child: their_task}
    api.task_runs[their_task] = stranger
    await refused(proof, flow_runs={their_child})


async def test_what_the_flow_run_is_a_subflow_of_is_read_and_not_changed(
    proof: Proof, own: Own, api: Api
) -> None:
    task, parent, its_task, root = (uuid4() for _ in range(4))
    assert own.flow_run is not None
    api.flow_runs |= {own.flow_run: task, parent: its_task, root: None}
    api.task_runs |= {task: parent, its_task: root}
    beside = uuid4()
    api.task_runs[beside] = parent
    for ids in ({"flow_runs": {parent}}, {"flow_runs": {root}}, {"task_runs": {its_task}}):
        await proof.prove(Needs(**ids), reading=True)
        await refused(proof, **ids)
    with pytest.raises(RefusedError):
        await proof.prove(Needs(task_runs={beside}), reading=True)


async def test_runs_that_name_each_other_are_not_looked_through_for_ever(proof: Proof, api: Api) -> None:
    run, task = uuid4(), uuid4()
    api.flow_runs[run], api.task_runs[task] = task, run
    await refused(proof, flow_runs={run})
    assert len(api.asked) < 40


async def test_an_artifact_is_its_flow_runs(proof: Proof, own: Own, api: Api) -> None:
    mine, theirs, nobodys = uuid4(), uuid4(), uuid4()
    api.artifacts |= {mine: own.flow_run, theirs: uuid4(), nobodys: None}
    await proof.prove(Needs(artifacts={mine, uuid4()}))
    await refused(proof, artifacts={theirs})
    await refused(proof, artifacts={nobodys})


async def test_a_flow_runs_relay_takes_nothing_that_belongs_to_none(proof: Proof, api: Api) -> None:
    await refused(proof, without_flow_run=True)
    alone = Proof(Own(), api.read)
    await alone.prove(Needs(without_flow_run=True))
    with pytest.raises(RefusedError):
        await alone.prove(Needs(flow_runs={uuid4()}))


async def test_a_flow_run_knows_itself_however_many_subflows_it_has(
    own: Own, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_coiled.relay import ownership

    monkeypatch.setattr(ownership, "_MOST", 10)
    assert own.flow_run is not None
    own.flow_runs.update(uuid4() for _ in range(50))
    assert len(own.flow_runs) == 10
    assert await module.Proof(own, api.read).owns_flow_run(own.flow_run)


def test_the_last_ids_are_known() -> None:
    known: Known[int] = Known([1, None])
    known.update([2, 1])
    assert known.all() == [1, 2]
    assert (1 in known, 3 in known) == (True, False)
