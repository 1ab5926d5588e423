"""Puts task runs that will not end by themselves into a terminal state on the Prefect API.

A task run reports its own states from the worker. When the worker dies and Dask gives up, or when
the flow run ends first, nobody is left to report: the run would stay Running for ever. This module
reports in its place. It knows nothing of Dask.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Cancelled, Crashed
from prefect.tasks import Task
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.engine import emit_task_run_state_change_event

from prefect_coiled.errors import ResultError, TaskLostError
from prefect_coiled.internals.api_errors import without_user
from prefect_coiled.task_runner.event_requests import IDS, ended_among

logger = get_logger("prefect_coiled.task_runner.lost_tasks")
_AT_ONCE = 8


@dataclass(frozen=True)
class Ended:
    """A terminal state that a task run shall get, reported from outside the task.

    Attributes:
        task: The task, for a run that the server has not heard of yet.
    """

    task: Task[Any, Any]
    task_run_id: UUID
    state: State[Any]


def crashed(error: TaskLostError | ResultError) -> State[Any]:
    """The Crashed state of a lost task, or of one whose result is not to be had; its result is the error."""
    return Crashed(message=str(error), data=error)


def unfinished() -> State[Any]:
    """The Cancelled state of a task whose flow run ended before it."""
    return Cancelled(message="The flow run ended before this task run did.")


def report(endings: Iterable[Ended], timeout: float = 30.0) -> None:
    """Put task runs into their terminal states on the API; failures are logged, never raised.

    A run that the server has in a terminal state already keeps it: the worker knew more about it. One that
    has completed has done what it does, though its result may be gone: that is said to who asks for it.

    Args:
        timeout: Seconds for all of them together.
    """
    todo = list(endings)
    if not todo:
        return
    try:
        client = get_client(sync_client=True)
        client.__enter__()
    except Exception as none:  # there is no API to tell
        why = without_user(str(none))
        logger.error("%d task runs ended, but the Prefect API could not be told: %s", len(todo), why)
        return
    deadline = time.monotonic() + timeout
    pool = ThreadPoolExecutor(min(_AT_ONCE, len(todo)), thread_name_prefix="prefect-coiled-report")
    parts = [todo[first : first + IDS] for first in range(0, len(todo), IDS)]
    asking = {pool.submit(copy_context().run, _not_ended, client, part): part for part in parts}
    answered, silent = wait(asking, timeout=timeout)
    left = [ending for job in answered for ending in job.result()]
    telling = {pool.submit(copy_context().run, _report_one, client, ending): ending for ending in left}
    done, late = wait(telling, timeout=max(0.0, deadline - time.monotonic()))
    pool.shutdown(wait=False, cancel_futures=True)
    for job in done:
        if error := job.exception():
            run, why = telling[job].task_run_id, without_user(str(error))
            logger.error("Task run %s ended, but the Prefect API could not be told: %s", run, why)
    if untold := len(late) + sum(len(asking[job]) for job in silent):
        # Those that are under way go on with the client, which is given up with them.
        logger.error("%d task runs ended, but the Prefect API did not take it in %.0f s", untold, timeout)
    else:
        client.__exit__(None, None, None)


def _not_ended(client: SyncPrefectClient, endings: list[Ended]) -> list[Ended]:
    """Those that the API may not have as ended: of many runs, most have reported themselves."""
    try:
        ended = ended_among(client, [ending.task_run_id for ending in endings])
    except Exception as error:  # then each is asked about by itself
        logger.debug("The Prefect API did not say which task runs have ended: %s", without_user(str(error)))
        return endings
    return [ending for ending in endings if ending.task_run_id not in ended]


def _report_one(client: SyncPrefectClient, ending: Ended) -> None:
    # Without its data, which is for this process alone.
    state: State[Any] = State(type=ending.state.type, name=ending.state.name, message=ending.state.message)
    try:
        # Anew: its worker may have told of it by now.
        known = client.read_task_run(ending.task_run_id).state
        if known is not None and known.is_final():
            return
        client.set_task_run_state(ending.task_run_id, state, force=True)
    except ObjectNotFound:
        # The worker died before its first report, or that report is still on its way; being
        # older, it will not overwrite this one.
        _introduce(ending, state)


def _introduce(ending: Ended, state: State[Any]) -> None:
    task_run: TaskRun = run_coro_as_sync(ending.task.create_local_run(id=ending.task_run_id))
    initial, task_run.state = task_run.state, state
    state.state_details.task_run_id = task_run.id
    state.state_details.flow_run_id = task_run.flow_run_id
    emit_task_run_state_change_event(task_run, initial_state=initial, validated_state=state)
