"""What is asked of the API in the place of a task's request, and what comes back."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError

from prefect_coiled.relay import answering
from prefect_coiled.relay.answering import Answering, _narrowed, _without
from prefect_coiled.relay.ownership import Own

RUN, CHILD, TASK, OTHER = (str(uuid4()) for _ in range(4))
ADDRESS = "http://me:hunter2@host:4200/api"


@pytest.fixture
def own() -> Own:
    made = Own(UUID(RUN))
    made.flow_runs.update([UUID(CHILD)])
    return made


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"any_": [RUN, CHILD]}),
        ({"task_runs": None}, {"any_": [RUN, CHILD]}),
        ({"task_runs": {"flow_run_id": None}}, {"any_": [RUN, CHILD]}),
        ({"task_runs": {"flow_run_id": {"any_": [CHILD]}}}, {"any_": [CHILD]}),
        ({"task_runs": {"flow_run_id": {"any_": []}}}, {"any_": []}),
        # Of parts that are alternatives, one would do.
        (
            {"task_runs": {"flow_run_id": {"operator": "or_", "any_": [RUN], "is_null_": True}}},
            {"any_": [RUN]},
        ),
        ({"task_runs": {"flow_run_id": {"is_null_": True}}}, {"any_": [RUN, CHILD]}),
    ],
)
def test_task_runs_are_looked_for_among_the_flow_runs_own(own: Own, given: Any, asked: Any) -> None:
    assert _narrowed(given, ("task_runs", "flow_run_id"), own)["task_runs"]["flow_run_id"] == asked


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"id": {"any_": [RUN, CHILD]}}),
        ({"id": {"not_any_": [RUN]}}, {"id": {"any_": [RUN, CHILD], "not_any_": [RUN]}}),
        ({"id": {"any_": [RUN]}}, {"id": {"any_": [RUN]}}),
        ({"parent_task_run_id": {"any_": [TASK]}}, {"parent_task_run_id": {"any_": [TASK]}}),
        (
            {"parent_task_run_id": {"operator": "or_", "any_": [TASK], "is_null_": True}},
            {"parent_task_run_id": {"any_": [TASK]}},
        ),
        (
            {"parent_task_run_id": {"is_null_": True}},
            {"parent_task_run_id": {"is_null_": True}, "id": {"any_": [RUN, CHILD]}},
        ),
    ],
)
def test_flow_runs_are_looked_for_among_its_own_and_its_tasks_subflows(
    own: Own, given: Any, asked: Any
) -> None:
    assert _narrowed({"flow_runs": given, "limit": 1}, ("flow_runs", "id"), own) == {
        "flow_runs": asked,
        "limit": 1,
    }


@pytest.mark.parametrize("section", ["task_runs", "logs"])
def test_a_field_that_others_than_flow_runs_do_not_have_widens_no_filter(own: Own, section: str) -> None:
    given = {section: {"parent_task_run_id": {"any_": []}}}
    assert _narrowed(given, (section, "flow_run_id"), own)[section]["flow_run_id"] == {"any_": [RUN, CHILD]}


@pytest.mark.parametrize(
    ("narrow", "given", "asked"),
    [
        (("flow_runs", "id"), {}, {"id": {"any_": [CHILD]}}),
        (("logs", "flow_run_id"), {}, {"flow_run_id": {"any_": [CHILD]}}),
        (
            ("logs", "flow_run_id"),
            {"level": {"ge_": 0}},
            {"flow_run_id": {"any_": [CHILD]}, "level": {"ge_": 0}},
        ),
        (("task_runs", "flow_run_id"), {}, {"id": {"any_": [TASK]}}),
        (("task_runs", "flow_run_id"), {"id": {"any_": [TASK, OTHER]}}, {"id": {"any_": [TASK]}}),
        (("task_runs", "flow_run_id"), {"id": {"any_": [OTHER]}}, {"id": {"any_": []}}),
    ],
)
def test_tasks_outside_of_a_flow_find_nothing_of_others(
    narrow: tuple[str, str], given: Any, asked: Any
) -> None:
    alone = Own()
    alone.flow_runs.update([UUID(CHILD)])
    alone.task_runs.update([UUID(TASK)])
    assert _narrowed({narrow[0]: given}, narrow, alone) == {narrow[0]: asked}


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError(f"no answer of '{ADDRESS}/health'"),
        PrefectHTTPStatusError(
            f"Client error '401 Unauthorized' for url '{ADDRESS}/csrf-token?client=1'",
            request=httpx.Request("GET", ADDRESS),
            response=httpx.Response(401),
        ),
        ValueError(f"not to be read: {ADDRESS}"),
    ],
)
async def test_no_machine_hears_the_password_in_the_address_of_the_api(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(answering, "send_once", AsyncMock(side_effect=error))
    status, _, words = await Answering(AsyncMock(), Own(), AsyncMock()).answer(("GET", "/health", b""))
    assert status >= 500
    assert b"http://host:4200/api" in words
    assert b"hunter2" not in words
    assert b"me:" not in words


def test_what_may_hold_others_secrets_is_left_out() -> None:
    run = {"id": RUN, "job_variables": {"env": {"KEY": "secret"}}, "name": "a"}
    assert _without(run, "flow_run") == {"id": RUN, "job_variables": None, "name": "a"}
    deployment = {
        "id": RUN,
        "pull_steps": [{"git": "secret"}],
        "job_variables": {"a": 1},
        "parameters": {"b": 2},
    }
    assert "secret" not in str(_without(deployment, "deployment"))
    pool = {"name": "a", "base_job_template": {"variables": "secret"}}
    assert "secret" not in str(_without(pool, "work_pool"))
