"""The future of a task that runs on a Dask cluster; it tells the truth about a lost one.

Dask gives up on a task when its workers keep dying, when the scheduler is gone, or when what the
task waited for was lost. Such a task has no state to return, and its run would stay Running. This
future turns the loss into a Crashed state with a `TaskLostError`, and has it reported to Prefect.

A future may exist before its cluster does: in an async flow the first submits must not block the
event loop while machines boot. It is then bound to its Dask future later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import packages_distributions, version
from typing import Any, TypeVar
from uuid import UUID

import distributed
from distributed.scheduler import KilledWorker
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.tasks import Task
from prefect_dask.task_runners import PrefectDaskFuture

from prefect_coiled.errors import TaskLostError
from prefect_coiled.internals.prefect import raise_if_flow_run_suspension_requested
from prefect_coiled.task_runner.hints import hint_for
from prefect_coiled.task_runner.lost_tasks import Ending, crashed, report, unfinished

__all__ = ["CoiledFuture"]

R = TypeVar("R")
_NEXT = "Look at the workers' logs: out of memory and reclaimed spot machines are the usual causes."


class CoiledFuture(PrefectDaskFuture[R]):
    """The future of a task run submitted by a `CoiledTaskRunner`.

    Args:
        task: The task that runs.
        task_run_id: The id of its run.
        last_words: Gives what the machine of a lost worker last said; of the scheduler's for None.
    """

    def __init__(
        self,
        task: Task[Any, R],
        task_run_id: UUID,
        last_words: Callable[[str | None], str] = lambda name: "",
    ) -> None:
        self.task = task
        self._last_words = last_words
        self.loss: TaskLostError | None = None
        #: Whether the flow was handed the loss, by `result`. What it makes of it is its own choice.
        self.told = False
        #: Whether anybody waited for the task's end, by `wait`, `result` or `state`.
        self.waited = False
        self._reported = False
        self._bound = threading.Event()
        self._lock = threading.RLock()
        self._callbacks: list[Callable[[PrefectFuture[R]], None]] = []
        #: Why the task was never sent, where that is so.
        self.failure: BaseException | None = None
        self._final_state: State[Any] | None
        super().__init__(task_run_id=task_run_id, wrapped_future=None)

    # Binding

    def bind(self, future: distributed.Future) -> None:
        """Give this future the Dask future that it stands for."""
        self._wrapped_future = future
        with self._lock:
            self._bound.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.add_done_callback(callback)

    def fail(self, error: BaseException) -> None:
        """Say that the task was never sent, because there is no cluster.

        Args:
            error: Why; raised by `result` as it is.
        """
        self.failure = error
        self._lose(TaskLostError("the task was not sent to the cluster", str(error)), False)
        with self._lock:
            self._bound.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    @property
    def wrapped_future(self) -> distributed.Future:
        """The Dask future; waits for the cluster where that is still starting."""
        self._bound.wait()
        if self.failure is not None:
            raise self.failure
        return self._wrapped_future

    def add_done_callback(self, fn: Callable[[PrefectFuture[R]], None]) -> None:
        """Call a function with this future when the task has ended, well or not."""
        with self._lock:
            if not self._bound.is_set():
                self._callbacks.append(fn)
                return
        super().add_done_callback(fn)

    # Waiting

    @property
    def done(self) -> bool:
        """Whether the task has ended, well or not."""
        if self._final_state is not None:
            return True
        return self._bound.is_set() and self._wrapped_future is not None and self._wrapped_future.done()

    @property
    def ended_well(self) -> bool:
        """Whether Dask has the task's result."""
        return self._bound.is_set() and getattr(self._wrapped_future, "status", "") == "finished"

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the task has ended, or for `timeout` seconds; how it ended is told by `result`.

        Raises:
            BaseException: Prefect's own, if the flow run is to be suspended.
        """
        self.waited = True
        if self._final_state is None:
            with suppress(TimeoutError):
                self._wait(timeout)
        raise_if_flow_run_suspension_requested()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """The task's return value.

        Args:
            timeout: Seconds to wait at most; without end by default.
            raise_on_failure: Whether to raise the task's exception instead of returning it.

        Raises:
            TimeoutError: The task did not end in time.
            TaskLostError: Dask gave up on the task.
        """
        if self._final_state is None:
            self._wait(timeout)
        raise_if_flow_run_suspension_requested()
        assert self._final_state is not None
        self.waited = True
        if self.loss is not None:
            self.told = True
            error = self.failure or self.loss
            if raise_on_failure:
                raise error
            return error  # type: ignore[return-value]
        value: R = self._final_state.result(raise_on_failure=raise_on_failure, _sync=True)  # type: ignore[call-overload]
        return value

    @property
    def state(self) -> State[R]:
        """The task run's state: the final one where it has ended, else what the API says."""
        if self._final_state is None and self.done:
            self.wait()
        return self._final_state or super().state

    def settle(self) -> Ending | None:
        """Wait until the task has ended; if it was lost, return how to report that, unreported."""
        if self._final_state is None:
            self._wait(None, tell=False)
        if self.loss is None or self._reported or self._final_state is None:
            return None
        self._reported = True
        return Ending(self.task, self.task_run_id, self._final_state)

    def abandon(self) -> Ending | None:
        """Give the task up; return how to report that, or nothing if it had ended before."""
        with self._lock:
            if self._final_state is not None:
                return None
            dask = self._wrapped_future if self._bound.is_set() else None
            if dask is not None and dask.status == "finished":
                return None
            if dask is not None and dask.status in ("error", "lost"):
                self._lose(self._explain(dask.exception()), False)
            else:
                self._final_state = unfinished()
                self._bound.set()
            assert self._final_state is not None
            return Ending(self.task, self.task_run_id, self._final_state)

    def _wait(self, timeout: float | None, tell: bool = True) -> None:
        late = f"Task run {self.task_run_id} did not complete within {timeout} seconds"
        started = time.monotonic()
        if not self._bound.wait(timeout):
            raise TimeoutError(late)
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
        if self._final_state is not None:
            return
        try:
            with _slot_given_back():
                value = self._wrapped_future.result(timeout=left)
        except BaseException as error:
            # Whatever is raised: it is the task's only if Dask has the task as ended. Anything
            # else is a timeout, or an interrupt of this very thread.
            status = self._wrapped_future.status
            if status in ("error", "cancelled", "lost") or _is_cut_off(self._wrapped_future):
                self._lose(self._explain(error), tell)
            elif isinstance(error, (TimeoutError, distributed.TimeoutError)):
                raise TimeoutError(late) from error
            else:
                raise
            return
        # Every task is sent with return_type="state".
        self._final_state = value

    # Loss

    def _explain(self, error: BaseException) -> TaskLostError:
        what = f"Dask gave up on task {self.task.name!r} (run {self.task_run_id})"
        if isinstance(error, KilledWorker):
            if str(error.task) != str(self._wrapped_future.key):
                return TaskLostError(what, f"the task {error.task} that it depends on was lost", _NEXT)
            died = f"the {error.allowed_failures + 1} workers that ran it died"
            last = error.last_worker
            said = self._last_words(str(last.name))
            why = f"{died}, the last one being {last.address}"
            return TaskLostError(what, f"{why}. {said}" if said else why, _NEXT)
        if hint := hint_for(error):
            what = f"Task {self.task.name!r} (run {self.task_run_id}) could not start on its worker"
            return TaskLostError(what, f"{type(error).__name__}: {error}", f"{_here(error)}{hint}")
        why = str(error) or type(error).__name__
        said = self._last_words(None) if _is_cut_off(self._wrapped_future) else ""
        return TaskLostError(what, f"{why}. {said}" if said else why, _NEXT)

    def _lose(self, loss: TaskLostError, tell: bool) -> None:
        with self._lock:
            if self.loss is not None:
                return
            self.loss = loss
            self._final_state = crashed(loss)
            self._reported = tell
        if tell:
            report([Ending(self.task, self.task_run_id, self._final_state)])


def _here(error: BaseException) -> str:
    """What this side knows of a module that workers lack: the package that it comes with."""
    name = getattr(error, "name", None)
    if not isinstance(error, ModuleNotFoundError) or not name:
        return ""
    found = packages_distributions().get(name.partition(".")[0], [])
    return "".join(f"It comes with {one} {version(one)}, which is installed here. " for one in found[:1])


def _is_cut_off(future: distributed.Future) -> bool:
    return getattr(future.client, "status", "closed") in ("closed", "closing")


@contextmanager
def _slot_given_back() -> Iterator[None]:
    """Let another task have this worker thread while it waits for one that it submitted itself.

    Without it, tasks that wait for tasks fill the workers and wait for ever. Does nothing off a
    worker, and nothing in a thread that has left the worker's pool already.
    """
    try:
        distributed.get_worker()
        distributed.secede()
    except (ValueError, AttributeError, KeyError, AssertionError):
        yield
        return
    try:
        yield
    finally:
        distributed.rejoin()
