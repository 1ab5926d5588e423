"""Flows that a real worker of a process pool runs: by a schedule, paused, cancelled, crashed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelling

from .conftest import POOL, Worker

# A server, a worker and interpreters start here; a busy machine takes its time for that.
pytestmark = pytest.mark.timeout(600)

Live = Callable[[], list[str]]
Until = Callable[..., Any]
# One worker by the deployment's own word, over the seven of the code.
SMALL = {"PREFECT_COILED_CLUSTER__N_WORKERS": "1"}


@pytest.fixture(scope="module")
def deploy(client: SyncPrefectClient, environ: dict[str, str]) -> Callable[..., UUID]:
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))

    def make(
        name: str, folder: Path = Path(__file__).parent, entrypoint: str = "squares.py:squares", **more: Any
    ) -> UUID:
        source = flow.from_source(str(folder), entrypoint)
        made: UUID = source.deploy(  # type: ignore[union-attr, assignment]
            name,
            work_pool_name=POOL,
            job_variables={"env": SMALL},
            print_next_steps=False,
            **more,
        )
        return made

    return make


def all_runs(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    return list(client.read_flow_runs(deployment_filter=wanted))


def waiting(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """The flow runs that have not begun."""
    return [r for r in all_runs(client, deployment) if r.state and r.state.is_scheduled()]


def log_of(client: SyncPrefectClient, run: FlowRun) -> str:
    found = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
    return "\n".join(log.message for log in found)


def state_of(client: SyncPrefectClient, run: FlowRun) -> str:
    return str(client.read_flow_run(run.id).state_name)


def test_a_schedule_runs_a_flow_again_and_again_until_it_is_paused(
    deploy: Callable[..., UUID], client: SyncPrefectClient, worker: Worker, live: Live, until: Until
) -> None:
    deployment = deploy("every few seconds", interval=timedelta(seconds=10))

    def done() -> list[FlowRun]:
        return [r for r in all_runs(client, deployment) if r.state_name == "Completed"]

    until(lambda: len(done()) >= 2 or worker.process.poll() is not None, 300)
    client.pause_deployment(deployment)
    assert len(done()) >= 2, worker.log.read_text()[-4000:]
    # Each on a cluster of its own, whose size the deployment said.
    for run in done()[:2]:
        assert "workers: 1 ready (of 1)" in log_of(client, run)
        assert "option n_workers comes from the environment" in log_of(client, run)
    # On a busy machine runs are late by now; Prefect leaves those to whoever paused.
    for run in waiting(client, deployment):
        client.delete_flow_run(run.id)
    # What had begun ends; nothing begins any more, and nothing is left.
    until(lambda: all(r.state.is_final() for r in all_runs(client, deployment) if r.state), 180)
    until(lambda: live() == [], 60)
    with pytest.raises(AssertionError, match="not within"):
        until(lambda: waiting(client, deployment), 12)


REPORT = """
import threading
import shop
from near_the_report import near
from prefect import flow, task
from prefect_coiled import CoiledTaskRunner

GUARD = threading.Lock()

@task
def work(row):
    from importlib.resources import files
    assert isinstance(row, shop.Row)
    with GUARD, shop.ENGINE:
        return shop.Row(row.x + near()), files("shop").joinpath("rows.csv").read_text(), shop.__file__

@flow(task_runner=CoiledTaskRunner(wait_for_workers=True, no_client_timeout="3 s"))
def report():
    with GUARD:
        row, text, file = work.submit(shop.Row(1)).result()
    assert isinstance(row, shop.Row) and row.x == 2 and text == "1,2"
    assert file != shop.__file__, "a machine of its own has a copy of its own"
"""


def test_a_flow_in_a_folder_and_a_package_beside_that_are_imported_on_the_machines(
    deploy: Callable[..., UUID],
    client: SyncPrefectClient,
    worker: Worker,
    until: Until,
    live: Live,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder in ("flows", "shop"):
        (tmp_path / folder).mkdir()
    (tmp_path / "flows/report.py").write_text(REPORT)
    (tmp_path / "flows/near_the_report.py").write_text("def near(): return 1")
    shop = "import threading\nENGINE = threading.RLock()\nclass Row:\n    def __init__(self, x): self.x = x\n"
    (tmp_path / "shop/__init__.py").write_text(shop)
    (tmp_path / "shop/rows.csv").write_text("1,2")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        deployment = deploy("modules", folder=tmp_path, entrypoint="flows/report.py:report")
    finally:
        for name in ("report", "near_the_report", "shop"):
            sys.modules.pop(name, None)
    run = client.create_flow_run_from_deployment(deployment)

    def ended() -> bool:
        state = client.read_flow_run(run.id).state
        return worker.process.poll() is not None or (state is not None and state.is_final())

    until(ended, 300)
    assert state_of(client, run) == "Completed", worker.log.read_text()[-4000:]
    until(lambda: live() == [], 60)


def test_a_cancelled_run_takes_its_cluster_along(
    deploy: Callable[..., UUID], client: SyncPrefectClient, worker: Worker, live: Live, until: Until
) -> None:
    deployment = deploy("to be cancelled")
    run = client.create_flow_run_from_deployment(deployment, parameters={"seconds": 600})
    until(lambda: "The Dask dashboard" in log_of(client, run), 180)
    assert len(live()) == 2
    client.set_flow_run_state(run.id, Cancelling())
    until(lambda: state_of(client, run) == "Cancelled", 90)
    until(lambda: live() == [], 60)


def test_a_suspended_run_gives_its_cluster_back_and_goes_on_with_a_new_one(
    deploy: Callable[..., UUID], client: SyncPrefectClient, worker: Worker, live: Live, until: Until
) -> None:
    deployment = deploy("to be suspended", entrypoint="squares.py:suspended")
    run = client.create_flow_run_from_deployment(deployment)
    until(lambda: state_of(client, run) == "Suspended", 180)
    until(lambda: live() == [], 90)
    until(lambda: not psutil.Process(worker.process.pid).children(), 30)  # that of the flow run has ended
    client.resume_flow_run(run.id)
    until(lambda: state_of(client, run) == "Completed", 240)
    until(lambda: live() == [], 60)


def test_machines_of_a_crashed_worker_end_by_themselves(
    deploy: Callable[..., UUID], client: SyncPrefectClient, worker: Worker, live: Live, until: Until
) -> None:
    deployment = deploy("to be crashed")
    cluster = {"n_workers": 2, "name": "of-the-crashed"}
    run = client.create_flow_run_from_deployment(deployment, parameters={"seconds": 600, "cluster": cluster})
    until(lambda: "The Dask dashboard" in log_of(client, run), 180)
    assert "option name comes from the parameter 'cluster'" in log_of(client, run)
    assert len(live()) == 3
    worker.kill()
    # Three seconds without a client, and what it takes to go.
    until(lambda: live() == [], 60)
