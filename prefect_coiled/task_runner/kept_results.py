"""Reads results that tasks have kept (`persist_result`), where the worker that had them is gone.

What a worker kept in a folder of its own disk went with it: that is said, as of every result that is lost.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State, StateType
from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]

from prefect_coiled.errors import ResultError, TaskLostError

ELSEWHERE = (
    '`results="bucket"` of a cluster of yours, or a `result_storage` that all machines reach, keeps results '
    "where they outlive their worker"
)
#: What to do about results that went with their worker.
OUTLIVES = f"With `persist_result=True` a result outlives its worker where it is kept elsewhere: {ELSEWHERE}."


def lacks_result(state: Any) -> bool:
    """Whether something is a state that only says where its result is, or why that did not come."""
    return isinstance(state, State) and isinstance(state.data, (ResultRecordMetadata, ResultError))


def read_kept(state: State[Any], what: str) -> State[Any]:
    """The state with its result, which is read where it is kept; any other state as it is.

    Args:
        what: What is lost if it is not there, for a person.

    Raises:
        TaskLostError: It cannot be read.
    """
    kept = state.data
    if not isinstance(kept, ResultRecordMetadata):
        return state
    on_disk = kept.storage_block_id is None and Path(kept.storage_key or "").is_absolute()
    try:
        # A file is there before its task has ended, or is not there. Storages of others may lag.
        result = state.result(_sync=True, retry_result_failure=not on_disk)  # type: ignore[call-overload]
    except Exception as error:  # whatever a storage raises
        where = "on the disk of its worker, which is gone" if on_disk else "where it cannot be read"
        raise TaskLostError(what, f"it was kept {where} ({error})", f"{ELSEWHERE}.") from error
    return state.model_copy(update={"data": ResultRecord(metadata=kept, result=result)})


def lose(state: State[Any], error: TaskLostError | ResultError) -> None:
    """Make the state of a run that has completed one of a run whose result is lost.

    One that is Completed would give what is not there to tasks that depend on it.
    """
    state.type, state.name, state.message, state.data = StateType.CRASHED, "ResultLost", str(error), error


def bring(state: State[Any]) -> None:
    """On a worker: put the result into a state that a task is given, or why it is not to be had."""
    if isinstance(state.data, ResultError):
        return lose(state, state.data)
    run = state.state_details.task_run_id
    try:
        state.data = read_kept(state, f"the result of task run {run}, which has completed, is lost").data
    except TaskLostError as lost:
        lose(state, lost)
