"""The steps of a plan as Prefect tasks: look, bring what is wanted, drop what goes, wait until it is gone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefect import Task

from prefect_coiled.aws import kinds
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS
from prefect_coiled.errors import AwsError, CredentialsError, PrefectCoiledError, StoppedError
from prefect_coiled.plan.changes import Change
from prefect_coiled.plan.kinds import ALL, Item, Scope, There, Wanted
from prefect_coiled.tasks.steps import failure_of, step


class Making:
    """What the steps of a set-up share. A plain class: Prefect copies what it can look into."""

    def __init__(self, aws: Aws, want: Wanted, there: There) -> None:
        self.aws, self.want, self.there = aws, want, there


class Doomed:
    """Items of one kind that go at once, after so many seconds at most. A plain class, as `Making`."""

    def __init__(self, row: str, items: list[Item], patience: float = math.inf) -> None:
        self.row, self.items, self.patience = row, items, patience

    @property
    def named(self) -> str:
        """What they are called."""
        kind = KINDS[self.row]
        if len(self.items) == 1:
            return f"{kind.name} {kind.prefix}{kind.id_of(self.items[0])}"
        return f"{len(self.items)} {kind.name}s"


@step("look", "look at {aws.account}")
def look(aws: Aws, keys: tuple[str, ...] | None = None, scope: Scope = ALL, ours: bool = False) -> There:
    """What there is of the rows."""
    return kinds.find_all(aws, keys, scope, ours=ours)


@step("look", "look at {aws.account}")
def look_around(aws: Aws) -> tuple[There, dict[str, AwsError]]:
    """What there is of all rows, on a way down, and why AWS does not show some."""
    return kinds.find_what_shows(aws)


@step("bring", "{change.action} {change.named}")
def bring(making: Making, change: Change) -> None:
    """Make or repair one resource; an earlier attempt may have done it already."""
    kinds.bring(making.aws, change, making.want, making.there)


@step("delete", "delete {doomed.named}")
def drop(aws: Aws, doomed: Doomed) -> None:
    """Delete what goes at once."""
    kinds.drop(aws, KINDS[doomed.row], doomed.items, doomed.patience)


@step("wait until it is gone", "wait for the end of {doomed.named}")
def wait_gone(aws: Aws, doomed: Doomed) -> None:
    """Wait until what was deleted is gone."""
    gone = KINDS[doomed.row].gone
    if gone is not None:
        gone(aws, doomed.items, doomed.patience)


# Calls a step with each of several arguments; gives for each the error, if there was one.
Run = Callable[["Task[..., Any]", Sequence[tuple[Any, ...]]], list[PrefectCoiledError | None]]


def plainly(task: Task[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[PrefectCoiledError | None]:
    """One after the other, with nothing but AWS calls: it works when the Prefect API does not."""
    ends: list[BaseException | None] = []
    for arguments in calls:
        try:
            task.fn(*arguments)
            ends.append(None)
        except PrefectCoiledError as error:
            ends.append(error)
    return _ours(ends)


def as_steps(task: Task[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[PrefectCoiledError | None]:
    """Side by side, as tasks that the UI shows."""
    futures = [task.submit(*arguments) for arguments in calls]
    for future in futures:
        future.wait()
    return _ours(failure_of(future.state) for future in futures)


def _ours(ends: Iterable[BaseException | None]) -> list[PrefectCoiledError | None]:
    """Errors that a removal goes on with; others end it."""
    found: list[PrefectCoiledError | None] = []
    for error in ends:
        if error is not None and (
            not isinstance(error, PrefectCoiledError) or isinstance(error, (StoppedError, CredentialsError))
        ):
            raise error
        found.append(error)
    return found
