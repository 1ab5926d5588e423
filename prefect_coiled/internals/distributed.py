"""Of Dask. Seen in dask and distributed 2026.1.0 and 2026.8.0."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from dask._task_spec import Task
from distributed import Client, Future, get_client, get_worker, threadpoolexecutor
from distributed.deploy.spec import SpecCluster
from distributed.utils import thread_state
from distributed.worker_state_machine import SecedeEvent

# Questions to workers at a time, each by a connection of its own to the scheduler: some systems give a
# process no more than 256.
_QUESTIONS = 100


def ask_each(client: Client, seconds: float, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Run a function on each worker; what each answered within so many seconds, or why it did not.

    `Client.run` gives nothing where one worker is silent. Here that costs the answers of those alone that
    were asked with it, of which there are some only where there are more than a hundred workers.

    Raises:
        TimeoutError: The scheduler does not answer.
    """

    async def ask(workers: list[str], until: float) -> dict[str, Any]:
        try:
            call = client._run(function, *args, workers=workers, on_error="return")
            answers: dict[str, Any] = await asyncio.wait_for(call, until - time.monotonic())
        except Exception as error:  # of these workers' alone
            return dict.fromkeys(workers, error)
        return answers

    async def ask_all() -> dict[str, Any]:
        until = time.monotonic() + seconds
        workers = list(await asyncio.wait_for(client.scheduler.ncores(), seconds))
        groups = [workers[first::_QUESTIONS] for first in range(min(_QUESTIONS, len(workers)))]
        answers = await asyncio.gather(*(ask(group, until) for group in groups))
        return {worker: answer for some in answers for worker, answer in some.items()}

    # Each wait within has its bound: this one is for a loop that does not get to them.
    found: dict[str, Any] = client.sync(ask_all, callback_timeout=seconds + 1.0)
    return found


def computation(key: Any, function: Callable[..., Any], *args: Any) -> Any:
    """What the scheduler keeps of a task, as `TaskState.run_spec`: the call that computes it."""
    return Task(key, function, *args)


def calls(run_spec: Any, function: Callable[..., Any]) -> bool:
    """Whether a task's computation is the call of a function."""
    return getattr(run_spec, "func", None) is function


def cancel(client: Client, futures: Iterable[Future], seconds: float) -> None:
    """Cancel futures, within so many seconds; `Client.cancel` waits without end."""
    client.sync(client._cancel, futures, callback_timeout=seconds)


def forget_events(scheduler: Any, topic: str) -> None:
    """Have the scheduler keep none of a topic's events; those who subscribed have them."""
    scheduler._broker.truncate(topic)


def forget_topics(scheduler: Any, prefix: str, *, of_lost: bool = False) -> list[str]:
    """Have the scheduler forget the topics with such names that nobody hears.

    Args:
        of_lost: Also those of clients that went without a word: Dask keeps their subscriptions for ever.

    Returns:
        Their names.
    """
    topics = scheduler._broker._topics
    ours = {name: topic for name, topic in topics.items() if name.startswith(prefix)}
    there = scheduler.clients.keys()
    forgotten = [
        n for n, topic in ours.items() if not (topic.subscribers & there if of_lost else topic.subscribers)
    ]
    for name in forgotten:
        del topics[name]
    return forgotten


def is_spilling() -> bool:
    """Whether a worker is writing a value to its disk, somewhere above in the stack."""
    frame: Any = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != "distributed.spill":
        frame = frame.f_back
    return frame is not None


def adopt(futures: Iterable[Future]) -> None:
    """On a worker: let futures that came as keys be those of its client, which hears of them from now on."""
    if known := list(futures):
        client = get_client()
        for future in known:
            future.bind_client(client)
        client._inform_scheduler_of_futures()


def has_clusters() -> bool:
    """Whether a cluster was made in this process, and is there."""
    return bool(list(SpecCluster._instances))


def prepare_streams(listener: Any, prepared: Callable[[Any, str], Awaitable[Any]]) -> None:
    """Have the connections to a listener made ready by a function of a stream and its address.

    It gives the stream, or None for one that is not taken. Dask's own waits for the TLS handshake.
    """
    assert callable(listener._prepare_stream)
    listener._prepare_stream = prepared


class Place:
    """The place of a worker's thread in its pool, which another thread of its task may leave for it.

    It does what `distributed.secede` does, which leaves the place of the thread that calls it.
    """

    def __init__(self) -> None:
        self._thread = threading.current_thread()
        self._executor = getattr(threadpoolexecutor.thread_state, "executor", None)
        self._state = dict(thread_state.__dict__)
        self._left = False

    def leave(self) -> None:
        """Leave it, unless that was done before: the pool makes another thread."""
        with threadpoolexecutor.threads_lock:
            if self._executor is None or self._thread not in self._executor._threads:
                return
            self._executor._threads.remove(self._thread)
            self._executor._adjust_thread_count()
            self._left = True
        worker, now = get_worker(), time.time()
        event = SecedeEvent(
            key=self._state["key"],
            compute_duration=now - self._state["start_time"],
            stimulus_id=f"secede-{now}",
        )
        worker.loop.add_callback(worker.handle_stimulus, event)

    def end(self) -> None:
        """Called by the place's own thread as its task ends: one that has left its pool ends after it."""
        with threadpoolexecutor.threads_lock:
            self._executor = None  # what its task left running has no place any more
        if self._left:
            threadpoolexecutor.thread_state.proceed = False


class StandIn:
    """Lets another thread have the place of a worker's thread in its pool, while that waits for it.

    So `secede`, `rejoin` and `get_worker` do in that thread what they do in a worker's own. A pool is told
    by its `_threads`, which is guarded by `threads_lock`, and a thread by two thread-local objects.
    """

    def __init__(self) -> None:
        self._mine = threading.current_thread()
        self._executor = getattr(threadpoolexecutor.thread_state, "executor", None)
        self._state = dict(thread_state.__dict__)
        self._other: threading.Thread | None = None
        self._over = False

    def enter(self) -> None:
        """Take the place; called by the thread that takes it."""
        thread_state.__dict__.update(self._state)
        self._other = threading.current_thread()
        if self._executor is None:
            return
        threadpoolexecutor.thread_state.executor = self._executor
        threadpoolexecutor.thread_state.proceed = True
        with threadpoolexecutor.threads_lock:
            self._executor._threads.discard(self._mine)
            self._executor._threads.add(self._other)

    def leave(self) -> None:
        """Take the place back; called by the thread that waited."""
        if self._executor is None or self._other is None:
            return
        with threadpoolexecutor.threads_lock:
            self._over = True
            if self._other in self._executor._threads:
                self._executor._threads.discard(self._other)
                self._executor._threads.add(self._mine)
            else:
                # It has left the pool, which has made another thread: this one ends after its task.
                threadpoolexecutor.thread_state.proceed = False

    def end(self) -> None:
        """Called by the other thread, last of all.

        It may be back in the pool though who waited for it has gone: the pool would count it for good.
        """
        if self._executor is None:
            return
        with threadpoolexecutor.threads_lock:
            if self._over and self._other in self._executor._threads:
                self._executor._threads.discard(self._other)
                self._executor._adjust_thread_count()
