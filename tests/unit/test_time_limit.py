"""A synchronous task's time limit, by the states that it reports."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_coiled.task_runner import time_limit
from prefect_coiled.task_runner.time_limit import Limit


def state(kind: str) -> dict[str, Any]:
    return {"resource": {"prefect.state-type": kind}}


def test_what_a_task_does_after_it_was_given_up_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "GRACE", 0.0)
    limit = Limit(0.0)
    assert limit.note(state("RUNNING"))
    assert limit.give_up()
    assert not limit.note(state("COMPLETED"))
    assert limit.last == state("RUNNING")


def test_a_task_that_ends_at_the_last_moment_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "GRACE", 0.0)
    limit = Limit(0.0)
    assert limit.note(state("RUNNING"))
    assert limit.note(state("COMPLETED"))
    assert not limit.give_up()
    assert limit.left() is None


def test_each_attempt_has_its_time() -> None:
    limit = Limit(60.0)
    assert limit.left() is None
    assert limit.note(state("RUNNING"))
    assert not limit.give_up()
    assert limit.note(state("SCHEDULED"))
    assert limit.left() is None
    assert limit.note(state("RUNNING"))
    assert (limit.left() or 0) > 60.0
