"""What a worker's thread makes once for all tasks of a flow run: settings, client, flow run, event loop.

Prefect makes all of it anew for each task, which takes most of the time of a small one. Here a thread keeps
a `contextvars.Context` for each of the last flow runs, and each task runs in a copy of it, so that nothing
that a task sets is seen by the next.

An event loop is kept a thread, not a process: a task that blocks its loop, such as an async task that waits
for a future, would stop the async tasks of the other threads, and those may be what it waits for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any

import distributed
from prefect.context import (
    AsyncClientContext,
    FlowRunContext,
    SettingsContext,
    SyncClientContext,
    hydrated_context,
)

from prefect_coiled.internals.prefect import enter_for_good, is_reached, keep_services_by_api, leave_all
from prefect_coiled.task_runner.outboxes import use_outbox
from prefect_coiled.task_runner.task_logs import log_as_asked
from prefect_coiled.task_runner.worker_settings import settings_here

# Flow runs whose context a thread keeps: with more at a time on one cluster, the least used is made anew.
_KEPT = 4
_of_thread = threading.local()
_counts = {"contexts": 0, "clients": 0, "loops": 0}
_counting = threading.Lock()


def made() -> dict[str, int]:
    """How many contexts, clients of the API and event loops this process has made, for tests."""
    return dict(_counts)


def _count(kind: str) -> None:
    with _counting:
        _counts[kind] += 1


def hydrated(name: str, load: Callable[[], Mapping[str, Any]]) -> Hydrated:
    """The context of a flow run in this thread.

    Args:
        load: Gives what all tasks of the flow run share, where this thread has not got it.
    """
    kept: OrderedDict[str, Hydrated] = _of_thread.__dict__.setdefault("kept", OrderedDict())
    if name not in kept:
        kept[name] = Hydrated(name, load())
        while len(kept) > _KEPT:
            kept.popitem(last=False)[1].close()
    kept.move_to_end(name)
    return kept[name]


class Hydrated:
    """The context of a flow run in a thread.

    Args:
        shared: What all tasks of the flow run share, as `FlowRunParcel` puts it together.
    """

    def __init__(self, name: str, shared: Mapping[str, Any]) -> None:
        self.settings: Mapping[str, Any] = shared["settings_context"]
        flow_run = shared["flow_run_context"].get("flow_run") if shared["flow_run_context"] else None
        self.flow_run_id = (
            str(flow_run["id"] if isinstance(flow_run, dict) else flow_run.id) if flow_run else ""
        )
        self._context = copy_context()
        self._stack = ExitStack()
        self._async_client: AsyncClientContext | None = None
        self._context.run(self._enter, name, shared)

    def _enter(self, name: str, shared: Mapping[str, Any]) -> None:
        _count("contexts")
        leave_all()
        if self.settings:
            relay = shared["relay"]
            worker = distributed.get_worker() if relay else None
            if relay:
                keep_services_by_api()
            here = settings_here(self.settings, shared["authority"], relay, worker, self.flow_run_id)
            enter_for_good(SettingsContext(**here))
            log_as_asked()
        client = SyncClientContext()
        _count("clients")
        # The flow run is known there: that it does not answer now is no reason to give up at once.
        is_reached(client.client)
        client.client.__enter__()
        self._stack.callback(client.client.__exit__, None, None, None)
        enter_for_good(client)
        if flow_run := shared["flow_run_context"]:
            with hydrated_context(None):
                pass  # Prefect's models are completed by that
            runner = flow_run["flow"].task_runner.duplicate()
            flow_run = {**flow_run, "parameters": flow_run["parameters"].read()}
            context = FlowRunContext(**flow_run, client=client.client, task_runner=runner, detached=True)
            enter_for_good(context)
        use_outbox(name, self.flow_run_id)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function as a task of this flow run; what it sets in its context is forgotten.

        Tasks that it submits and does not wait for are waited for before this returns.
        """
        return self._context.copy().run(self._run, function, *args)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        flow_run = FlowRunContext.get()
        if flow_run is None:
            return function(*args)
        with flow_run.task_runner.duplicate() as runner:
            # What a flow run's context gathers of tasks is this task's own.
            update: dict[str, Any] = {
                "task_runner": runner,
                "task_run_dynamic_keys": {},
                "observed_flow_pauses": {},
                "run_results": {},
                "task_run_assets": dict(flow_run.task_run_assets),
            }
            enter_for_good(flow_run.model_copy(update=update))
            return function(*args)

    def run_async(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine function in this thread's event loop, in the present context."""
        loop = _thread_loop()
        if self._async_client is None:
            self._async_client = AsyncClientContext()
            _count("clients")
            loop.run_until_complete(self._async_client.client.__aenter__())
        enter_for_good(self._async_client)
        try:
            return loop.run_until_complete(function())
        finally:
            _cancel_leftovers(loop)

    def close(self) -> None:
        """Close the clients."""
        self._context.run(self._stack.close)
        if self._async_client is not None:
            _thread_loop().run_until_complete(self._async_client.client.__aexit__(None, None, None))


class _Loop:
    """An event loop that is closed with its thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        _count("loops")

    def __del__(self) -> None:
        self.loop.close()


def _thread_loop() -> asyncio.AbstractEventLoop:
    holder = getattr(_of_thread, "loop", None)
    if holder is None:
        holder = _of_thread.loop = _Loop()
    return holder.loop


def _cancel_leftovers(loop: asyncio.AbstractEventLoop) -> None:
    """End what a task left running, as `asyncio.run` does: it would go on in the middle of another task."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
