"""Schedules in a zone whose clocks change: each time comes once, as Prefect has it, with its own cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.server.schemas.schedules import CronSchedule as ServersCronSchedule

from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster import launch as launching
from prefect_coiled.cluster.launch import launch
from prefect_coiled.cluster.request import Request
from prefect_coiled.provision import slots
from prefect_coiled.sandbox import Sandbox
from tests.provision.laid import bring_up

ZONE = "America/New_York"
ALLOWED = 2


@pytest.fixture
def laid(sandbox: Sandbox, account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """An account that is set up, and may have two clusters at once."""
    monkeypatch.setattr(launching, "load_account", lambda slug: account)
    monkeypatch.setattr(slots, "TRY_AGAIN", 0.2)
    sandbox.reset()
    bring_up(account.door("us-east-1"), "us-east-1a")
    limit = GlobalConcurrencyLimitCreate(name=f"prefect-coiled:{account.slug}", limit=ALLOWED)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(limit)
        yield sandbox
        client.delete_global_concurrency_limit_by_name(limit.name)
    sandbox.reset()


def scheduled_runs(client: SyncPrefectClient, deployment: Any) -> list[FlowRun]:
    found = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    )
    return sorted(found, key=lambda run: run.expected_start_time)


@pytest.mark.parametrize(
    ("cron", "begin", "end", "local"),
    [
        # Clocks go back from 2:00 to 1:00 on 1 November 2026, and forward from 2:00 to 3:00 on 8 March.
        ("30 1 * * *", "2026-10-31T12", "2026-11-02T12", ["01:30-0400", "01:30-0500"]),
        (
            "0 0-3 * * *",
            "2026-11-01T00",
            "2026-11-01T04",
            ["00:00-0400", "01:00-0400", "02:00-0500", "03:00-0500"],
        ),
        # An hour that is not there comes before or after the change: as Prefect's version has it.
        ("30 2 * * *", "2026-03-08T00", "2026-03-09T12", ["01:30-0500 03:30-0400", "02:30-0400"]),
        (
            "0 0-4 * * *",
            "2026-03-08T00",
            "2026-03-08T04",
            ["00:00-0500", "01:00-0500", "03:00-0400", "04:00-0400"],
        ),
    ],
    ids=["once where the hour comes twice", "hourly, back", "where there is no such hour", "hourly, forward"],
)
def test_each_time_of_a_schedule_comes_once_with_a_cluster_of_its_own_where_clocks_change(
    laid: Sandbox, account: Account, cron: str, begin: str, end: str, local: list[str]
) -> None:
    told: list[tuple[str, str]] = []

    @flow(name=f"on {cron} from {begin}", persist_result=False)
    def scheduled() -> None:
        made = launch(Request({}, n_workers=1, allow_ingress_from="192.0.2.7/32"), threading.Event())
        ids = made.terminate([])
        assert made.remove(ids, 120.0).is_done
        made.let_go()
        told.append((str(flow_run.id), made.record.name))

    first, last = (datetime.fromisoformat(f"{at}:00").replace(tzinfo=ZoneInfo(ZONE)) for at in (begin, end))
    schedule = CronSchedule(cron=cron, timezone=ZONE)
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow(scheduled),
            name="by the clock",
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
        )
        window = {"start_time": first.isoformat(), "end_time": last.isoformat(), "min_runs": 20}
        for _ in range(2):  # the scheduler comes by again and again
            client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json=window)
        runs = [r for r in scheduled_runs(client, deployment) if r.expected_start_time <= last]

        def one(run: FlowRun) -> None:
            copy_context().run(run_flow, scheduled, flow_run=run)

        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(one, runs))
        ended = {
            r.id: r.state_name for r in scheduled_runs(client, deployment) if r.expected_start_time <= last
        }
        limit = client.read_global_concurrency_limit_by_name(f"prefect-coiled:{account.slug}")
        client.delete_deployment(deployment)
    # As Prefect's own schedule says, and so once.
    dates = asyncio.run(ServersCronSchedule(cron=cron, timezone=ZONE).get_dates(20, start=first, end=last))
    # Not by ==: what is in an hour that comes twice equals nothing in another zone (PEP 495).
    assert [r.expected_start_time.timestamp() for r in runs] == [date.timestamp() for date in dates]
    found = [r.expected_start_time.astimezone(ZoneInfo(ZONE)).strftime("%H:%M%z") for r in runs]
    assert all(at in told.split() for at, told in zip(found, local, strict=True)), found
    assert set(ended.values()) == {"Completed"}
    assert sorted(i for i, _ in told) == sorted(str(r.id) for r in runs)
    assert len({name for _, name in told}) == len(runs)
    assert limit.active_slots == 0
    instances = laid.instances().values()
    assert {i["state"] for i in instances} == {"terminated"}
