"""A transaction one of whose tasks was lost: nothing of it is committed, all of it is rolled back."""

from __future__ import annotations

import os
from typing import Any

import pytest
from prefect import flow, task
from prefect.transactions import transaction

from prefect_coiled.errors import TaskLostError
from prefect_coiled.task_runner import CoiledTaskRunner


@task
def die() -> None:
    os._exit(1)


@task
def fails() -> None:
    raise ValueError("mine")


def hooked(said: list[str], name: str) -> Any:
    """A task that does nothing, and says what its transaction has come to."""

    @task(name=name)
    def writes() -> str:
        return name

    writes.on_commit(lambda txn: said.append(f"{name} committed"))
    writes.on_rollback(lambda txn: said.append(f"{name} undone"))
    return writes


@pytest.mark.parametrize("other", [die, fails], ids=["lost", "failed"])
def test_a_transaction_whose_task_is_lost_is_rolled_back_though_nobody_waited_for_it(
    other: Any, runner: CoiledTaskRunner
) -> None:
    said: list[str] = []

    @flow(task_runner=runner)
    def pays() -> None:
        with transaction() as whole:
            whole.stage("x", on_commit_hooks=[lambda txn: said.append("whole committed")])
            # Its end is known: the other one's worker dies with what is on it.
            hooked(said, "writes").submit().wait()
            other.submit()
        said.append(whole.state.name)

    state = pays(return_state=True)
    assert said == ["writes undone", "ROLLED_BACK"]
    if other is die:
        with pytest.raises(TaskLostError):
            state.result()


def test_a_transaction_around_the_one_whose_task_is_lost_is_rolled_back_too(runner: CoiledTaskRunner) -> None:
    said: list[str] = []

    @flow(task_runner=runner)
    def pays() -> None:
        with transaction() as whole:
            hooked(said, "outer").submit().wait()
            with transaction() as part:
                hooked(said, "inner").submit().wait()
                die.submit()
        said.extend([part.state.name, whole.state.name])

    pays(return_state=True)
    assert sorted(said) == ["ROLLED_BACK", "ROLLED_BACK", "inner undone", "outer undone"]


def test_nothing_is_committed_before_the_last_task_of_a_transaction_has_ended(
    runner: CoiledTaskRunner,
) -> None:
    said: list[str] = []

    @flow(task_runner=runner)
    def pays() -> str:
        with transaction() as whole:
            first = hooked(said, "first").submit()
            fails.submit(wait_for=[first])
        return whole.state.name

    assert pays() == "ROLLED_BACK"
    assert said == ["first undone"]


def test_a_transaction_whose_tasks_all_end_well_is_committed(runner: CoiledTaskRunner) -> None:
    said: list[str] = []

    @flow(task_runner=runner)
    def pays() -> str:
        with transaction() as whole:
            hooked(said, "outer").submit()
            with transaction():
                hooked(said, "inner").submit()
        return whole.state.name

    assert pays() == "COMMITTED"
    assert said == ["outer committed", "inner committed"]
