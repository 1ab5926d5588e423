"""Keys of the Prefect API reach the tasks, and nothing else."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import dask
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import FlowRunContext
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    get_current_settings,
    temporary_settings,
)

from prefect_coiled import Cluster, CoiledTaskRunner
from prefect_coiled.sandbox import Sandbox

KEY, AUTH = "canary-key-7f3a91", "admin:canary-auth-55d0c2"
CANARIES = ("canary-key-7f3a91", "canary-auth-55d0c2")
# Other forms in which they could lie somewhere.
FORMS = [form for c in CANARIES for form in (c, base64.b64encode(c.encode()).decode()[:-4], c.encode().hex())]


@task
def see() -> list[str]:
    """What the settings on the worker hold: they did arrive."""
    api = get_current_settings().api
    return [s.get_secret_value() for s in (api.key, api.auth_string) if s is not None]


class CannotBeRead:
    """Fails on the worker before the task's engine begins, so that Dask itself logs and tells of it."""

    def __reduce__(self) -> Any:
        return fail, ()


def fail() -> None:
    raise RuntimeError("this argument cannot be read")


@task
def take(value: Any) -> None: ...


@task
def die() -> None:
    os._exit(1)


@flow(task_runner=CoiledTaskRunner(n_workers=1, wait_for_workers=True, name="canaries"))
def canaries() -> tuple[UUID, list[str], list[str]]:
    run = FlowRunContext.get().flow_run.id  # type: ignore[union-attr]
    arrived = see.submit().result()
    errors = [str(take.submit(CannotBeRead()).result(raise_on_failure=False))]
    errors.append(str(die.submit().result(raise_on_failure=False)))
    return run, arrived, errors


def everything(sandbox: Sandbox) -> Iterator[tuple[str, str]]:
    """All that AWS shows to somebody who may read but not decrypt, by where it is."""
    ec2, ssm, logs = (sandbox.client(s) for s in ("ec2", "ssm", "logs"))
    for reservation in ec2.describe_instances()["Reservations"]:
        for machine in reservation["Instances"]:
            yield "instance", json.dumps(machine, default=str)
            one = machine["InstanceId"]
            data = ec2.describe_instance_attribute(InstanceId=one, Attribute="userData")["UserData"].get(
                "Value", ""
            )
            yield "user data", unpacked(data)
            yield "console", ec2.get_console_output(InstanceId=one).get("Output", "")
    for template in ec2.describe_launch_templates()["LaunchTemplates"]:
        yield "template", json.dumps(template, default=str)
        wanted = {"LaunchTemplateId": template["LaunchTemplateId"]}
        for version in ec2.describe_launch_template_versions(**wanted)["LaunchTemplateVersions"]:
            yield "template version", json.dumps(version, default=str)
            yield "template user data", unpacked(version["LaunchTemplateData"].get("UserData", ""))
    yield "tags", json.dumps(ec2.describe_tags()["Tags"])
    for parameter in ssm.describe_parameters()["Parameters"]:
        yield "parameter", json.dumps(parameter, default=str)
        if parameter["Type"] != "SecureString":
            yield "plain parameter", ssm.get_parameter(Name=parameter["Name"])["Parameter"]["Value"]
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for stream in logs.describe_log_streams(logGroupName=name)["logStreams"]:
            wanted = {"logGroupName": name, "logStreamName": stream["logStreamName"]}
            yield "log", json.dumps(logs.get_log_events(**wanted, startFromHead=True)["events"])


def unpacked(data: str) -> str:
    text = base64.b64decode(data).decode("utf-8", "replace")
    for part in re.findall(r"[A-Za-z0-9+/=]{80,}", text):
        try:
            text += gzip.decompress(base64.b64decode(part)).decode()
        except (OSError, ValueError, EOFError):
            continue
    return text


def test_keys_reach_the_tasks_and_lie_nowhere(
    sandbox: Sandbox,
    until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[tuple[str, str]] = []
    close = Cluster._close

    async def look_first(self: Cluster) -> None:
        # While all of it is there: machines, templates, parameters.
        if self.launched is not None and not looked_at:
            looked_at.extend(await self.in_thread(lambda: list(everything(sandbox))))
        await close(self)

    monkeypatch.setattr(Cluster, "_close", look_first)
    caplog.set_level(logging.DEBUG)
    secrets = {PREFECT_API_KEY: KEY, PREFECT_API_AUTH_STRING: AUTH}
    with temporary_settings(secrets), dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        run, arrived, errors = canaries()
    assert arrived == [KEY, AUTH]
    assert "this argument cannot be read" in errors[0]
    assert "Dask gave up" in errors[1]
    looked_at += everything(sandbox)  # the logs' last lines too
    places = (
        "instance, user data, template version, template user data, tags, parameter, plain parameter, log"
    )
    assert {where for where, _ in looked_at} >= set(places.split(", "))
    # What Dask itself wrote of the argument that could not be read is among it.
    assert any("this argument cannot be read" in text for where, text in looked_at if where == "log")
    with get_client(sync_client=True) as client:
        lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), limit=200)
        looked_at.append(("flow run's log", "\n".join(line.message for line in lines)))
        states = client.read_task_runs()
        looked_at.append(("task runs", "\n".join(s.model_dump_json() for s in states)))
        events = client._client.post("/events/filter", json={"limit": 50}).text
        looked_at.append(("events", events))
    # Prefect's own connection for events shows them to the API, and at this level that is written down.
    own = [r for r in caplog.records if r.name.partition(".")[0] != "websockets"]
    looked_at += [("local log", caplog.handler.format(record)) for record in own]
    looked_at.append(("exception", "\n".join(errors)))
    found = {where for where, text in looked_at for form in FORMS if form in text}
    assert found == set()
