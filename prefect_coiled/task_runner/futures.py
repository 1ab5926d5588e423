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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID
from weakref import ref

import distributed
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.tasks import Task
from prefect_dask.task_runners import PrefectDaskFuture

from prefect_coiled.errors import TaskLostError
from prefect_coiled.internals.prefect import raise_if_flow_run_suspension_requested
from prefect_coiled.task_runner.callbacks import Callbacks
from prefect_coiled.task_runner.ended_future import EndedFuture, ended_state
from prefect_coiled.task_runner.fetching import fetch_state
from prefect_coiled.task_runner.given_up import by_connection, given_up, is_cut_off
from prefect_coiled.task_runner.lineage import link
from prefect_coiled.task_runner.lost_tasks import Ended, crashed, report, unfinished
from prefect_coiled.task_runner.news import Ending
from prefect_coiled.task_runner.remote_result import RemoteRecord, with_result_of
from prefect_coiled.task_runner.slot import leave, slot_given_back

R = TypeVar("R")
# One for all futures: what it guards is done in microseconds, and a lock each is memory for many of them.
_lock = threading.RLock()
# Seconds between two looks at what Dask says of a task: an end without news is a rare one.
_LOOK = 0.1


class CoiledFuture(PrefectDaskFuture[R]):
    """The future of a task run submitted by a `CoiledTaskRunner`.

    Args:
        last_words: Gives what the machine of a lost worker last said; of the scheduler's for None.
        ended: Called once the task has ended well, that is with a state of its own.
        flow_run_id: The flow run that it belongs to.
    """

    def __init__(
        self,
        task: Task[Any, R],
        task_run_id: UUID,
        last_words: Callable[[str | None], str] = lambda name: "",
        ended: Callable[[CoiledFuture[Any]], None] = lambda future: None,
        flow_run_id: UUID | None = None,
    ) -> None:
        self.task = task
        self._last_words = last_words
        self._ended = ended
        self._flow_run_id = flow_run_id
        #: The task's part in a transaction of the flow's, if there is one.
        self.part: Any = None
        self.loss: TaskLostError | None = None
        #: Whether the flow was handed the loss, by `result`. What it makes of it is its own choice.
        self.told = False
        #: Whether anybody waited for the task's end, by `wait`, `result` or `state`.
        self.waited = False
        #: How the task ended, as its worker told it; None before, and where that did not come through.
        self.ending: Ending | None = None
        self._reported = False
        self._bound = False
        # What came along with the news, once it was asked for.
        self._known: tuple[Any, ...] = ()
        self._linked = False
        # Made by who waits: most futures of many are never waited for while their task runs.
        self._news: threading.Event | None = None
        self._callbacks: Callbacks | None = None
        # Whether Dask was asked to tell of the end too: where no news will come.
        self._asked = False
        #: Dask's futures that its parameters refer to, for as long as it may need them.
        self.held: Sequence[distributed.Future] = ()
        #: Why the task was never sent, where that is so.
        self.failure: BaseException | None = None
        self._final_state: State[Any] | None
        super().__init__(task_run_id=task_run_id, wrapped_future=None)

    # Binding

    def bind(self, future: distributed.Future) -> None:
        """Give this future the Dask future that it stands for."""
        self._wrapped_future = future
        with _lock:
            self._bound = True
            self._wake()
            ask = self._callbacks is not None
        if ask:
            self._ask_dask()

    def fail(self, error: BaseException) -> None:
        """Say that the task was never sent, because there is no cluster."""
        self.failure = error
        self._lose(TaskLostError("the task was not sent to the cluster", str(error)), False)
        with _lock:
            self._bound = True
            self._wake()
        self._tell()

    def note(self, ending: Ending) -> None:
        """Take the news that the task has ended; called by the Dask client's own thread."""
        with _lock:
            self.ending = ending
            if not ending.again:
                self.held = ()
            self._wake()
        self._ended(self)
        self._tell()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()

    @property
    def wrapped_future(self) -> distributed.Future:
        """The Dask future; waits for the cluster where that is still starting."""
        while not self._bound:
            self._wait_for_news(_LOOK)
        if self.failure is not None:
            raise self.failure
        return self._wrapped_future

    def add_done_callback(self, fn: Callable[[PrefectFuture[R]], None]) -> None:
        """Call a function with this future when the task has ended, well or not; in a thread of its own."""
        self._call_at_end(fn, False)

    def _add_prefect_done_callback(self, fn: Callable[[PrefectFuture[R]], None]) -> None:
        """Called by Prefect's `as_completed` and `wait`, which then wait: others get this task's slot."""
        if not self.done:
            leave()
        self._call_at_end(fn, True)

    def _call_at_end(self, fn: Callable[[PrefectFuture[R]], None], is_prefects: bool) -> None:
        with _lock:
            ended = self.done
            if not ended:
                callbacks = self._callbacks = self._callbacks or Callbacks()
                (callbacks.prefects if is_prefects else callbacks.users).append(fn)
        if ended:
            fn(self)
        elif self._bound:
            self._ask_dask()

    def _ask_dask(self) -> None:
        """Have Dask tell of the end, once: it knows of those too that no worker tells."""
        with _lock:
            asked, self._asked = self._asked, True
        if not asked and self._wrapped_future is not None:  # else it was never sent, and that was told
            self._wrapped_future.add_done_callback(lambda _: self._tell())

    def _tell(self) -> None:
        """Call who is to hear of the end."""
        with _lock:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks is not None:
            callbacks.call(self)

    def __reduce__(self) -> Any:
        """Elsewhere it is one that has ended, which is waited for."""
        ended = self.as_ended()
        return EndedFuture, (ended.task_run_id, ended.state)

    def as_ended(self) -> EndedFuture[R]:
        """Wait for the end; gives what can be sent elsewhere, with its result."""
        return EndedFuture(self.task_run_id, ended_state(self))

    # Waiting

    @property
    def done(self) -> bool:
        """Whether the task has ended, well or not."""
        if self._final_state is not None or self.ending is not None:
            return True
        return self._bound and self._wrapped_future is not None and self._wrapped_future.done()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the task has ended, or for `timeout` seconds; how it ended is told by `result`.

        The result stays where it is.

        Raises:
            BaseException: Prefect's own, if the flow run is to be suspended.
        """
        self.waited = True
        with suppress(TimeoutError):
            self._wait_for_end(timeout)
            if not self._is_completed:
                self._take(tell=True)
        raise_if_flow_run_suspension_requested()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """The task's return value.

        Args:
            timeout: Seconds to wait at most; without end by default.
            raise_on_failure: Whether to raise the task's exception instead of returning it.

        Raises:
            TimeoutError: The task did not end in time.
            TaskLostError: Dask gave up on the task, or its result was lost with its worker.
        """
        self._wait_for_end(timeout)
        raise_if_flow_run_suspension_requested()
        self.waited = True
        # Of many small tasks the states, which nobody asked for, would be most of what is kept.
        if self._final_state is None and self._came_along():
            return self._linked_result(self._known[0])
        self._take(tell=True)
        assert self._final_state is not None
        if self.loss is not None:
            self.told = True
            error = self.failure or self.loss
            if raise_on_failure:
                raise error
            return error  # type: ignore[return-value]
        record = self._final_state.data
        if isinstance(record, RemoteRecord):
            # As `State.result` does it, which changes threads for that.
            return self._linked_result(self._known[0] if self._came_along() else record.result)
        given: R = self._final_state.result(raise_on_failure=raise_on_failure, _sync=True)  # type: ignore[call-overload]
        return given

    def _came_along(self) -> bool:
        """Whether the result came along with the news; it is read once, and the same each time."""
        if not self._known and self.ending is not None:
            there, value = self.ending.known_result()
            self._known = (value,) if there else ()
        return bool(self._known)

    def _linked_result(self, result: R) -> R:
        """The result, of which it is noted once whose it is."""
        if not self._linked:
            self._linked = True
            link(result, self.task_run_id, self._flow_run_id)
        return result

    @property
    def state(self) -> State[R]:
        """The task run's state: the final one where it has ended, else what the API says.

        A Completed state fetches its result when it is asked for it.
        """
        if self._final_state is None and self.done:
            self.wait()
            self._take(tell=True)
        return self._final_state or super().state

    def settle(self) -> Ended | None:
        """Wait until the task has ended; if it was lost, return how to report that, unreported."""
        self._wait_for_end(None)
        if not self._is_completed:
            self._take(tell=False)
        if self.loss is None or self._reported or self._final_state is None:
            return None
        self._reported = True
        return Ended(self.task, self.task_run_id, self._final_state)

    def abandon(self) -> Ended | None:
        """Give the task up; return how to report that, or nothing if it had ended before."""
        if self.loss is not None and self._final_state is not None and not self._reported:
            self._reported = True
            return Ended(self.task, self.task_run_id, self._final_state)
        if self._final_state is not None or self.ending is not None:
            return None
        dask = self._wrapped_future if self._bound else None
        if dask is not None and dask.status == "finished":
            return None
        if dask is not None and dask.status in ("error", "lost"):
            self._lose(self.explain(dask.exception()), False)
        else:
            with _lock:
                self._final_state = self._final_state or unfinished()
                self._bound = True
                self._wake()
            self._tell()
        assert self._final_state is not None
        return Ended(self.task, self.task_run_id, self._final_state)

    def _wait_for_news(self, seconds: float) -> None:
        """Wait until something is new of this future, at most so long."""
        with _lock:
            if self._news is None:
                self._news = threading.Event()
            news = self._news
            if self.ending is not None or self._final_state is not None:
                return
            news.clear()
        news.wait(seconds)

    def _wait_for_end(self, timeout: float | None) -> None:
        """Wait until the task has ended, as its worker or Dask says.

        Raises:
            TimeoutError: It has not, after so many seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._has_ended():
            with slot_given_back():
                while not self._has_ended():
                    left = _LOOK if deadline is None else min(_LOOK, deadline - time.monotonic())
                    if left <= 0:
                        late = f"Task run {self.task_run_id} did not complete within {timeout} seconds"
                        raise TimeoutError(late)
                    self._wait_for_news(left)
        if self.part is not None:
            self.part.wait()

    @property
    def _is_completed(self) -> bool:
        return self.ending is not None and self.ending.completed

    def _take(self, tell: bool) -> None:
        """Make the state of a task that has ended, unless it is there."""
        if self._final_state is not None:
            return
        if self.ending is not None and self.ending.completed:
            fetch = partial(
                fetch_state, ref(self), self._wrapped_future, self.ending, self.task.name, self.task_run_id
            )
            self._final_state = with_result_of(
                self.task_run_id, self._flow_run_id, self.ending, self._wrapped_future, fetch
            )
            return
        # An error of the task's travels with its state, and so does what the news did not say.
        self._fetch(tell)

    def _has_ended(self) -> bool:
        """Whether it has, as this process knows it: nothing is asked."""
        if self._final_state is not None or self.ending is not None:
            return True
        return self._bound and (self._wrapped_future.status != "pending" or is_cut_off(self._wrapped_future))

    def _fetch(self, tell: bool) -> None:
        try:
            # Every task is sent with return_type="state".
            self._final_state = self._wrapped_future.result()
        except BaseException as error:
            # Whatever is raised: it is the task's only if Dask has the task as ended. Anything
            # else is an interrupt of this very thread.
            status = self._wrapped_future.status
            if status not in ("error", "cancelled", "lost") and not is_cut_off(self._wrapped_future):
                raise
            # Who lost the scheduler does not know what has ended meanwhile: that it is lost is told at the
            # flow's end, after what the workers still have to tell.
            cut_off = is_cut_off(self._wrapped_future) or by_connection(error)
            self._lose(self.explain(error), tell and not cut_off)

    # Loss

    @property
    def is_lost(self) -> bool:
        """Whether it was given up, or never sent, as far as this process knows: nothing is asked."""
        if self.loss is not None or self.ending is not None or self._final_state is not None:
            return self.loss is not None
        return self._has_ended() and self._wrapped_future.status != "finished"

    def explain(self, error: BaseException) -> TaskLostError:
        """Why Dask gave the task up, for a person."""
        return given_up(self.task.name, self.task_run_id, self._wrapped_future, error, self._last_words)

    def _lose(self, loss: TaskLostError, tell: bool) -> None:
        with _lock:
            if self.loss is not None:
                return
            self.loss = loss
            self.held = ()
            self._final_state = crashed(loss)
            self._reported = tell
        if tell:
            report([Ended(self.task, self.task_run_id, self._final_state)])
