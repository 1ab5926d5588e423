"""Fetches the result of a task that has completed: from its worker, or from where it is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import distributed
from prefect.client.schemas.objects import State

from prefect_coiled.errors import ResultError, TaskLostError
from prefect_coiled.task_runner.given_up import is_cut_off
from prefect_coiled.task_runner.kept_results import OUTLIVES, read_kept
from prefect_coiled.task_runner.news import Ending


def fetch_state(
    asked: Callable[[], Any], future: distributed.Future, ending: Ending, task: str, run: UUID
) -> State[Any]:
    """The state of a task that has completed, with its result.

    Args:
        asked: Gives the future that stands for it, if that is still there; it knows why Dask gives a task up.
        future: Dask's.
        task: The task's name.
        run: Its task run.

    Raises:
        TaskLostError: The result was lost with its worker.
        ResultError: It cannot be sent, or not be read here.
    """
    what = f"The result of task {task!r} (run {run}), which has completed, is lost"
    try:
        state: State[Any] = future.result()
    except Exception as error:
        if future.status not in ("error", "cancelled", "lost") and not is_cut_off(future):
            raise
        if ending.persisted is None:
            owner = asked()
            loss = owner.explain(error) if owner is not None else None
            raise TaskLostError(what, str(loss or error), OUTLIVES) from error
        state = ending.with_metadata()
    if isinstance(state.data, ResultError):
        raise state.data
    if isinstance(state.data, TaskLostError):
        raise TaskLostError(what, state.data.diagnosis.why, state.data.diagnosis.next_step)
    return read_kept(state, what)
