"""A synchronous task's time limit, by the states that it reports."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from prefect_coiled.task_runner import time_limit
from prefect_coiled.task_runner.time_limit import Limit

RUN, ANOTHER = uuid4(), uuid4()


def state(kind: str, run: UUID = RUN) -> dict[str, Any]:
    return {"resource": {"prefect.resource.id": f"prefect.task-run.{run}", "prefect.state-type": kind}}


def test_what_a_task_does_after_it_was_given_up_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "GRACE", 0.0)
    limit = Limit(RUN, 0.0)
    assert limit.note(state("RUNNING"))
    assert limit.give_up()
    assert not limit.note(state("COMPLETED"))
    assert limit.last == state("RUNNING")


def test_a_task_that_ends_at_the_last_moment_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "GRACE", 0.0)
    limit = Limit(RUN, 0.0)
    assert limit.note(state("RUNNING"))
    assert limit.note(state("COMPLETED"))
    assert not limit.give_up()
    assert limit.left() is None


def test_each_attempt_has_its_time() -> None:
    limit = Limit(RUN, 60.0)
    assert limit.left() is None
    assert limit.note(state("RUNNING"))
    assert not limit.give_up()
    assert limit.note(state("SCHEDULED"))
    assert limit.left() is None
    assert limit.note(state("RUNNING"))
    assert (limit.left() or 0) > 60.0


def test_a_task_that_it_calls_neither_ends_its_time_nor_begins_it_anew() -> None:
    limit = Limit(RUN, 60.0)
    assert limit.note(state("RUNNING"))
    until = limit._until
    for kind in ("RUNNING", "COMPLETED"):
        assert limit.note(state(kind, ANOTHER))
    assert limit._until == until
    assert limit.last == state("RUNNING")


def test_what_is_given_up_is_the_run_itself_and_the_one_that_it_called_is_heard_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_limit, "GRACE", 0.0)
    limit = Limit(RUN, 0.0)
    limit.note(state("RUNNING"))
    limit.note(state("RUNNING", ANOTHER))
    assert limit.give_up()
    assert limit.last == state("RUNNING")
    assert limit.note(state("COMPLETED", ANOTHER))
