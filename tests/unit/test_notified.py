"""Whose notifications are whose, where a slug is given to another AWS account in one process."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from prefect_coiled.aws.door import Aws
from prefect_coiled.subscribers import notifications
from prefect_coiled.tasks.steps import Session, use_session


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[Any, list[str]]:
    """What each AWS account's log group gets, by the session of its credentials."""
    rows: dict[Any, list[str]] = {}

    def write(door: Aws, _: str, lines: list[tuple[Any, str]]) -> None:
        rows.setdefault(door.session, []).extend(text for _, text in lines)

    monkeypatch.setattr(notifications, "write_log", write)
    monkeypatch.setattr(notifications, "_emit", lambda event: None)
    return rows


def doors(monkeypatch: pytest.MonkeyPatch, *numbers: str) -> list[Aws]:
    """Doors of an account "team" whose block was changed: each with credentials of another AWS account."""
    made = [Aws(boto3.Session(region_name="us-east-1"), "us-east-1", "team") for _ in numbers]
    known = {door.session: number for door, number in zip(made, numbers, strict=True)}
    monkeypatch.setattr(Aws, "call", lambda self, *_, **__: {"Account": known[self.session], "Arn": "arn"})
    assert [door.number for door in made] == list(numbers)
    return made


def test_what_happens_in_another_aws_account_is_not_kept_under_the_same_slug(
    kept: dict[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = doors(monkeypatch, "111111111111", "222222222222")
    with use_session(Session(old)), use_session(Session(new)):
        new.tell("scale", "in the new one")
        old.tell("scale", "in the old one")
    assert {door.session: len(kept[door.session]) for door in (old, new)} == {old.session: 1, new.session: 1}
    assert "in the new one" in kept[new.session][0]
    assert "in the old one" in kept[old.session][0]


def test_sessions_of_one_aws_account_keep_what_happens_once(
    kept: dict[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, again = doors(monkeypatch, "111111111111", "111111111111")
    with use_session(Session(one)), use_session(Session(again)):
        again.tell("scale", "told once")
    assert sum(map(len, kept.values())) == 1
