"""A flow run's own log and errors lead to the machines: where a task ran, and what a lost one last said."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import dask
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import FlowRunContext

from prefect_coiled import CoiledTaskRunner
from prefect_coiled.events.links import log_stream_url
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]
SMALL: dict[str, Any] = {"n_workers": 1, "wait_for_workers": True}


def lines_of(run: UUID) -> list[Any]:
    with get_client(sync_client=True) as client:
        return list(client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), limit=200))


@task
def well() -> int:
    return 1


@task
def deadly() -> None:
    print("these were its last words", flush=True)
    os._exit(7)


def test_each_task_says_where_it_runs_and_a_lost_one_what_its_machine_said(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    seen: list[UUID] = []

    @flow(task_runner=CoiledTaskRunner(**SMALL, name="with-logs"))
    def doomed() -> str:
        seen.append(FlowRunContext.get().flow_run.id)  # type: ignore[union-attr]
        error = str(deadly.submit().result(raise_on_failure=False))
        well.submit().result()
        return error

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        error = doomed()
    found = re.search(r"(i-[0-9a-f]{17}) last said: (.*exited with status 7.*)", error)
    assert found is not None, error
    machine = found[1]
    (run,) = seen

    def told() -> list[Any]:
        return [
            line for line in lines_of(run) if line.message.startswith(f"Runs on worker {machine} at tls://")
        ]

    # The line of the task that died at once may have died with it; its error has the machine.
    until(told, 30)
    assert all(line.task_run_id for line in told())
    text = "\n".join(line.message for line in lines_of(run))
    assert f"A worker was lost. {machine} last said:" in text
    assert (
        "What the machines say: `prefect-coiled logs with-logs --account default --region us-east-1`" in text
    )
    assert live() == []


def test_a_link_leads_to_a_machines_log_in_the_console() -> None:
    assert log_stream_url("eu-west-1", "my-team", "i-0123") == (
        "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1"
        "#logsV2:log-groups/log-group/my-team/log-events/i-0123"
    )
    assert "/log-group/a$252Fb/" in log_stream_url("eu-west-1", "a/b", "i-0123")


def test_an_api_that_the_machines_do_not_reach_is_one_error_and_not_a_flow_that_hangs(
    sandbox: Sandbox, live: Live
) -> None:
    # The machines are sent to a proxy that is not there.
    lost = {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
    }

    @flow(task_runner=CoiledTaskRunner(**SMALL, environ=lost))
    def hopeless() -> int:
        return well.submit().result()

    state = hopeless(return_state=True)
    text = str(state.result(raise_on_failure=False))
    assert re.search(r"reaching the Prefect API at http://\S+ from i-[0-9a-f]{17}: ConnectError", text), text
    assert "prefect config set PREFECT_API_URL=" in text
    assert live() == []
