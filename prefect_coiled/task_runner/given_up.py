"""Why Dask gave a task up, for a person."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from uuid import UUID

import distributed
from distributed.scheduler import KilledWorker

from prefect_coiled.errors import TaskLostError
from prefect_coiled.task_runner.hints import hint_for

_NEXT = "Look at the workers' logs: out of memory and reclaimed spot machines are the usual causes."
# What Dask says of a future where its client has lost the scheduler, as `FutureCancelledError.reason`.
_CUT_OFF = "scheduler-connection-lost"
_CONNECT = (
    "The scheduler's machine has ended, or this one was without a network for longer than a cluster waits:"
    " `no_client_timeout`; elsewhere 30 s, or what `distributed.comm.timeouts.tcp` says. Run it again."
)


def given_up(
    task: str,
    run: UUID,
    future: distributed.Future,
    error: BaseException,
    last_words: Callable[[str | None], str],
) -> TaskLostError:
    """What became of a task that Dask gave up.

    Args:
        task: Its name.
        run: Its task run.
        future: Dask's future of it.
        error: What Dask said.
        last_words: Gives what the machine of a lost worker last said; of the scheduler's for None.
    """
    what = f"Dask gave up on task {task!r} (run {run})"
    if isinstance(error, KilledWorker):
        if str(error.task) != str(future.key):
            return TaskLostError(what, f"the task {error.task} that it depends on was lost", _NEXT)
        died = f"the {error.allowed_failures + 1} workers that ran it died"
        last = error.last_worker
        said = last_words(str(last.name))
        why = f"{died}, the last one being {last.address}"
        return TaskLostError(what, f"{why}. {said}" if said else why, _NEXT)
    if hint := hint_for(error):
        what = f"Task {task!r} (run {run}) could not start on its worker"
        return TaskLostError(what, f"{type(error).__name__}: {error}", f"{_installed_here(error)}{hint}")
    why = str(error) or type(error).__name__
    said = last_words(None) if is_cut_off(future) else ""
    step = _CONNECT if by_connection(error) else _NEXT
    return TaskLostError(what, f"{why}. {said}" if said else why, step)


def is_cut_off(future: distributed.Future) -> bool:
    """Whether the future's client has no scheduler any more."""
    return getattr(future.client, "status", "closed") in ("closed", "closing")


def by_connection(error: BaseException) -> bool:
    """Whether Dask gave a task up because its client lost the scheduler."""
    return getattr(error, "reason", "") == _CUT_OFF


def _installed_here(error: BaseException) -> str:
    """What this side knows of a module that workers lack: the package that it comes with."""
    name = getattr(error, "name", None)
    if not isinstance(error, ModuleNotFoundError) or not name:
        return ""
    found = packages_distributions().get(name.partition(".")[0], [])
    return "".join(f"It comes with {one} {version(one)}, which is installed here. " for one in found[:1])
