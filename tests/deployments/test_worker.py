"""Flows that a real worker of a process pool runs: by a schedule, paused, cancelled, crashed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

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

    def make(name: str, **more: Any) -> UUID:
        source = flow.from_source(str(Path(__file__).parent), "squares.py:squares")
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
