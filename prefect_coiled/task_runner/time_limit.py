"""Holds a synchronous task to its `timeout_seconds`, also where it does not come back from one call.

Prefect interrupts a task in a thread when the call that it is in returns; a download that hangs never does.
Here such a task runs in a thread of its own, for which the worker's thread waits: as long as the timeout of
each attempt and a grace. Then the run is reported as TimedOut, the flow goes on, and what that thread still
does is not heard any more. Python cannot end a thread: it goes on in the worker's process, without a slot,
until that is replaced (see `renewal`).
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from copy import copy
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.logging import get_logger
from prefect.states import Failed
from prefect.tasks import Task
from prefect.utilities.asyncutils import run_coro_as_sync

from prefect_coiled.internals.distributed import StandIn
from prefect_coiled.task_runner.slot import own_place

#: Seconds that Prefect's own interruption has, which is the better one: the task may clean up.
GRACE = 1.0
_present: ContextVar[Limit | None] = ContextVar("prefect_coiled_limit", default=None)


def present_limit() -> Limit | None:
    """The limit of the task that runs in this context."""
    return _present.get()


class Limit:
    """The time limit of a task run, by the states that it reports.

    Args:
        run: The task run. A task that it calls itself has a run of its own, in the same thread and context.
        seconds: How long one attempt may take.
    """

    def __init__(self, run: UUID, seconds: float) -> None:
        self.seconds = seconds
        self.run = run
        self._lock = threading.Lock()
        self._until: float | None = None
        self._given_up = False
        #: The parts of the last event that told of a state.
        self.last: dict[str, Any] = {}

    def note(self, event: dict[str, Any]) -> bool:
        """Hear of a state; says whether it may be told to others."""
        if run_of(event["resource"]) != self.run:
            return True
        with self._lock:
            if self._given_up:
                return False
            self.last = event
            running = event["resource"].get("prefect.state-type") == "RUNNING"
            self._until = time.monotonic() + self.seconds + GRACE if running else None
            return True

    def left(self) -> float | None:
        """Seconds that the present attempt has; None where nothing runs."""
        with self._lock:
            return None if self._until is None else self._until - time.monotonic()

    def give_up(self) -> bool:
        """Hear no more of the task; False if it has ended at the last moment."""
        with self._lock:
            if self._until is None or self._until > time.monotonic():
                return False
            self._given_up = True
            return True


def run_of(resource: dict[str, str]) -> UUID:
    """The task run that an event is about."""
    return UUID(resource["prefect.resource.id"].rpartition(".")[2])


def run_within(
    run: UUID,
    task: Task[Any, Any],
    function: Callable[[], State[Any]],
    report: Callable[[Limit, State[Any]], None],
    left_behind: Callable[[threading.Thread], None],
    about: dict[str, str],
) -> State[Any]:
    """Call what runs a task, in a thread of its own.

    Args:
        run: The task run.
        task: The task, of which this run has a copy. It has a timeout: how long one attempt may take.
        function: Runs the task; gives its final state.
        report: Tells the API of the state of a task that was given up.
        left_behind: Sees to the thread of such a task.
    """
    seconds = task.timeout_seconds
    assert seconds is not None
    limit, found, stand_in = Limit(run, seconds), _Found(), StandIn()

    def work() -> None:
        stand_in.enter()
        _present.set(limit)
        try:
            with own_place():
                found.state = function()
        except BaseException as error:  # it is raised in the worker's thread
            found.error = error
        found.over.set()
        stand_in.end()

    thread = threading.Thread(
        target=copy_context().run, args=(work,), name="prefect-coiled-task", daemon=True
    )
    thread.start()
    try:
        while not found.over.wait(min(1.0, max(0.01, left)) if (left := limit.left()) is not None else 0.2):
            if (left := limit.left()) is not None and left <= 0 and limit.give_up():
                state: State[Any] = _timed_out(seconds)
                seen = _disown(task)
                report(limit, state)
                get_logger("prefect.task_runs").error(
                    "The task exceeded its timeout of %s second(s) in a call that does not return. It is "
                    "given up: its thread %s goes on in the worker's process; what it does is not heard.",
                    seconds,
                    thread.name,
                    extra=about,
                )
                left_behind(thread)
                _tell_hooks(seen, limit, state, about)
                return state
    finally:
        stand_in.leave()
    if found.error is not None:
        raise found.error
    assert found.state is not None
    return found.state


def _disown(task: Task[Any, Any]) -> Task[Any, Any]:
    """See that the engine, once the call comes back, neither tries the task again nor calls its hooks.

    Returns:
        The task as it was.
    """
    seen = copy(task)
    task.retries = 0
    task.on_running_hooks, task.on_failure_hooks, task.on_completion_hooks = [], [], []
    return seen


def _tell_hooks(task: Task[Any, Any], limit: Limit, state: State[Any], about: dict[str, str]) -> None:
    """Call the task's hooks for a failure, as its engine does."""
    for hook in task.on_failure_hooks:
        try:
            result: Any = hook(task, _run_of(limit, state), state)
            if inspect.iscoroutine(result):
                run_coro_as_sync(result)
        except Exception:
            get_logger("prefect.task_runs").exception(
                "Hook %s failed", getattr(hook, "__name__", hook), extra=about
            )


def _run_of(limit: Limit, state: State[Any]) -> TaskRun:
    """The task run, by what its last event said of it."""
    told: dict[str, Any] = (limit.last.get("payload") or {}).get("task_run") or {}
    context = FlowRunContext.get()
    whose = {"flow_run_id": context.flow_run.id} if context is not None and context.flow_run else {}
    return TaskRun.model_validate({**told, **whose, "id": limit.run, "state": state})


class _Found:
    def __init__(self) -> None:
        self.over = threading.Event()
        self.state: State[Any] | None = None
        self.error: BaseException | None = None


def _timed_out(seconds: float) -> State[Any]:
    message = f"Task run exceeded timeout of {seconds} second(s)"
    error = TimeoutError(f"{message}, in a call that does not return")
    return Failed(data=error, message=message, name="TimedOut")
