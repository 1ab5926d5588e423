"""What happens to deployed runs: hosts that die, hooks, automations, somebody who suspends them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists
from prefect.flow_runs import suspend_flow_run
from prefect.states import Cancelling, Scheduled

from .conftest import POOL, Worker
from .test_worker import Live, Until, all_runs, log_of, state_of

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def deploy(client: SyncPrefectClient) -> Callable[..., UUID]:
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))

    def make(name: str, entrypoint: str = "people.py:held", **more: Any) -> UUID:
        source: Any = flow.from_source(str(Path(__file__).parent), entrypoint)
        made: UUID = source.deploy(name, work_pool_name=POOL, print_next_steps=False, **more)
        return made

    return make


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "gate"
    yield made
    made.touch()


def start(client: SyncPrefectClient, deployment: UUID, until: Until, **parameters: Any) -> FlowRun:
    """Start a run, and wait until its cluster runs its task."""
    run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
    until(lambda: "The Dask dashboard" in log_of(client, run), 180)
    return run


def hooks(gate: Path) -> list[str]:
    path = Path(f"{gate}-hooks")
    return path.read_text().split() if path.exists() else []


def task_runs(client: SyncPrefectClient, run: FlowRun) -> dict[UUID, str]:
    """The names of the states of the flow's tasks, without those of the flows that make its cluster."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    found = client.read_task_runs(flow_run_filter=of_run)
    return {t.id: str(t.state_name) for t in found if t.name.startswith("last")}


def started_twice(client: SyncPrefectClient, run: FlowRun) -> list[UUID]:
    """Task runs that were Running more than once."""
    shown = {i: [s.name for s in client.read_task_run_states(i)] for i in task_runs(client, run)}
    return [i for i, names in shown.items() if names.count("Running") > 1]


def flow_processes(worker: Worker) -> list[psutil.Process]:
    """The processes of the flow runs of a worker, without it."""
    return psutil.Process(worker.process.pid).children(recursive=True)


@pytest.mark.parametrize("named", [False, True], ids=["by itself", "by name"])
def test_a_run_whose_host_died_goes_on_elsewhere_on_a_cluster_that_is_there(
    deploy: Callable[..., UUID],
    client: SyncPrefectClient,
    worker: Worker,
    environ: dict[str, str],
    live: Live,
    until: Until,
    gate: Path,
    named: bool,
) -> None:
    deployment = deploy("on a host that dies")
    cluster = {"name": "of-a-dead-host"} if named else {}
    run = start(client, deployment, until, gate=str(gate), cluster=cluster)
    first = set(live())
    assert len(first) == 2
    worker.kill()
    # As an operator does it, or an automation on the heartbeats that do not come any more.
    client.set_flow_run_state(run.id, Scheduled(), force=True)
    another = Worker(environ)
    try:
        # Three seconds without a client, and what it takes to go.
        until(lambda: named or not first & set(live()), 90)
        until(lambda: log_of(client, run).count("The Dask dashboard") == 2, 180)
        gate.touch()
        until(lambda: state_of(client, run) == "Completed", 120)
        until(lambda: live() == [], 90)
    finally:
        another.end()


def test_a_run_that_crashes_tells_its_hook_and_an_automation_which_starts_another(
    deploy: Callable[..., UUID],
    client: SyncPrefectClient,
    worker: Worker,
    live: Live,
    until: Until,
    gate: Path,
    tmp_path: Path,
) -> None:
    deployment, other = deploy("that crashes"), deploy("after a crash")
    (tmp_path / "open").touch()
    crash = {"prefect.resource.id": f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"}
    client.create_automation(
        AutomationCore(
            name="start another",
            trigger=EventTrigger(
                posture=Posture.Reactive,
                expect={"prefect.flow-run.Crashed"},
                match_related=crash,
                threshold=1,
            ),
            actions=[
                RunDeployment(
                    source="selected", deployment_id=other, parameters={"gate": str(tmp_path / "open")}
                )
            ],
        )
    )
    run = start(client, deployment, until, gate=str(gate))
    for process in flow_processes(worker):
        process.kill()
    until(lambda: state_of(client, run) == "Crashed", 60)
    until(lambda: hooks(gate) == ["Crashed"], 30)
    until(lambda: [state_of(client, r) for r in all_runs(client, other)] == ["Completed"], 240)
    until(lambda: live() == [], 60)


def test_a_run_that_is_cancelled_tells_its_hook_once(
    deploy: Callable[..., UUID],
    client: SyncPrefectClient,
    worker: Worker,
    live: Live,
    until: Until,
    gate: Path,
) -> None:
    run = start(client, deploy("that is cancelled"), until, gate=str(gate))
    client.set_flow_run_state(run.id, Cancelling())
    until(lambda: state_of(client, run) == "Cancelled", 90)
    until(lambda: len(hooks(gate)) == 1, 30)
    until(lambda: live() == [], 60)
    assert len(hooks(gate)) == 1


@pytest.mark.parametrize("way", ["one task", "one after the other"])
def test_a_run_that_somebody_suspends_while_tasks_run_gives_its_cluster_back_and_is_resumed(
    deploy: Callable[..., UUID],
    client: SyncPrefectClient,
    worker: Worker,
    live: Live,
    until: Until,
    gate: Path,
    way: str,
) -> None:
    # Prefect looks every 10 seconds whether a run was suspended; tasks that run end first, as with threads.
    seconds = 25.0 if way == "one task" else 1.0
    deployment = deploy(f"suspended in {way}", "people.py:long_enough")
    run = start(client, deployment, until, gate=str(gate), seconds=seconds)
    until(lambda: bool(task_runs(client, run)), 60)
    suspend: Any = suspend_flow_run
    suspend(flow_run_id=run.id, timeout=600, _sync=True)
    until(lambda: live() == [], 120)
    until(lambda: not flow_processes(worker), 60)
    assert state_of(client, run) == "Suspended"
    before = task_runs(client, run)
    assert set(before.values()) == {"Completed"}
    gate.touch()
    client.resume_flow_run(run.id)
    until(lambda: state_of(client, run) == "Completed", 240)
    until(lambda: live() == [], 60)
    # What had ended did not run again.
    assert before.items() <= task_runs(client, run).items()
    assert started_twice(client, run) == []
