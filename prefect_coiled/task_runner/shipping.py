"""What travels with a task to a worker, and what runs it there.

A task needs the settings, the flow run and the tags of the place that submitted it. Most of that is
the same for every task of a flow run, so it is serialised once and each task carries the same bytes;
a worker reads them once. While something is being serialised for a worker, a task runner gives its
barest state (see `is_shipping`): a worker needs no account, no keys and no options.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

import asyncio
import io
import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from uuid import UUID

import cloudpickle  # type: ignore[import-untyped]
import distributed
from prefect.client.schemas.objects import RunInput
from prefect.context import (
    AssetContext,
    FlowRunContext,
    SettingsContext,
    TagsContext,
    TaskRunContext,
    _deployment_id,
    _deployment_parameters,
    hydrated_context,
)
from prefect.events.worker import EventsWorker
from prefect.flows import Flow
from prefect.logging import get_logger
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings
from prefect.task_engine import run_task_async, run_task_sync
from prefect.tasks import Task
from prefect.utilities.annotations import BaseAnnotation
from prefect_dask.task_runners import PrefectDaskFuture

from prefect_coiled.internals.prefect import drain, running_services, wait_until_sent
from prefect_coiled.task_runner.api_client import thread_client
from prefect_coiled.task_runner.by_name import Pickler
from prefect_coiled.task_runner.flow_identity import identity_of
from prefect_coiled.task_runner.hints import add_hint, advise

__all__ = [
    "FlowRunParcel",
    "dumps",
    "flush_worker",
    "is_shipping",
    "pack",
    "run_task",
    "task_context",
    "unpack",
]

_local = threading.local()
_FLUSH_SECONDS = 10.0


def is_shipping() -> bool:
    """Whether this thread is serialising something for a worker."""
    return bool(getattr(_local, "shipping", False))


@contextmanager
def _shipping() -> Iterator[None]:
    before = is_shipping()
    _local.shipping = True
    try:
        yield
    finally:
        _local.shipping = before


def dumps(value: Any) -> bytes:
    """Serialise a value for a worker."""
    buffer = io.BytesIO()
    with _shipping():
        Pickler(buffer).dump(value)
    return buffer.getvalue()


def pack(value: Any) -> tuple[bytes, list[distributed.Future]]:
    """Serialise a value whose parts may be futures.

    The futures are left out, for Dask to put their results in: wherever they sit, also where Dask
    does not look, such as in dataclasses and in Prefect's annotations (`allow_failure` is a tuple
    to Dask, which would come out as a bare one).

    Args:
        value: The parameters of a task, say.

    Returns:
        The bytes, and the futures that `unpack` needs the results of, in order.
    """
    buffer, futures = io.BytesIO(), []
    with _shipping():
        packer = _Packer(buffer)
        packer.dump(value)
        futures = packer.futures
    return buffer.getvalue(), futures


def unpack(data: bytes, results: Sequence[Any]) -> Any:
    """Undo `pack`, with the results of the futures in their places."""
    unpacker = _Unpacker(io.BytesIO(data))
    unpacker.results = results
    return unpacker.load()


class _Packer(Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.futures: list[distributed.Future] = []

    def persistent_id(self, value: Any) -> int | None:
        if isinstance(value, PrefectDaskFuture):
            value = value.wrapped_future
        if not isinstance(value, distributed.Future):
            return None
        self.futures.append(value)
        return len(self.futures) - 1

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, BaseAnnotation):
            # Plain pickling wraps what an annotation holds into one more tuple.
            return type(value), (value.unwrap(),)
        return super().reducer_override(value)


class _Unpacker(pickle.Unpickler):
    results: Sequence[Any]

    def persistent_load(self, index: int) -> Any:
        return self.results[index]


class FlowRunParcel:
    """The part of the context that all tasks of a flow run share, as bytes, made at first use."""

    def __init__(self) -> None:
        self._made_for: tuple[Any, Any] | None = None
        self._data = b""

    def data(self) -> bytes:
        """The bytes for the present flow run and settings."""
        now = (FlowRunContext.get(), SettingsContext.get())
        # Identity, not equality: comparing settings costs more than dumping them.
        if self._made_for is None or any(a is not b for a, b in zip(now, self._made_for, strict=True)):
            flow_run, settings = now
            self._data = dumps(
                {
                    "flow_run_context": _of_flow_run(flow_run) if flow_run else {},
                    "settings_context": _with_api_url(settings.serialize()) if settings else {},
                }
            )
            self._made_for = now
        return self._data


def _of_flow_run(context: FlowRunContext) -> dict[str, Any]:
    serialized = context.serialize()
    if isinstance(flow := serialized.get("flow"), Flow):
        serialized["flow"] = identity_of(flow)
    return serialized


def _with_api_url(settings: dict[str, Any]) -> dict[str, Any]:
    """Name the server that this process talks to, where that is one that Prefect started for it.

    Without the address each worker process would start a server of its own.
    """
    if not get_current_settings().api.url and get_current_settings().server.ephemeral.enabled:
        from prefect.server.api.server import SubprocessASGIServer

        server = SubprocessASGIServer()
        server.start()  # does nothing when it runs already
        # Settings that nobody set are not in a dump, so "api" may be missing.
        settings["settings"].setdefault("api", {})["url"] = server.api_url
    return settings


def task_context(task: Task[Any, Any], task_run_id: UUID, inputs: dict[str, set[RunInput]]) -> dict[str, Any]:
    """The part of the context that differs from task to task.

    Together with the shared part this is what `prefect.context.serialize_context` gives.

    Args:
        task: The task.
        task_run_id: The id of its run.
        inputs: The task runs that its parameters come from.
    """
    parent, tags, deployment = TaskRunContext.get(), TagsContext.get(), _deployment_id.get()
    assets = AssetContext.from_task_and_inputs(
        task=task, task_run_id=task_run_id, task_inputs=inputs, copy_to_child_ctx=True
    )
    return {
        "task_run_context": parent.serialize() if parent else {},
        "tags_context": tags.serialize() if tags else {},
        "asset_context": assets.serialize(),
        "deployment_id": str(deployment) if deployment else None,
        "deployment_parameters": _deployment_parameters.get(),
    }


@lru_cache(maxsize=8)
def _unpack(shared: bytes) -> dict[str, Any]:
    context: dict[str, Any] = cloudpickle.loads(shared)
    if settings := context["settings_context"]:
        # Validated once here instead of once per task.
        validated = SettingsContext(**settings)
        context["settings_context"] = {"profile": validated.profile, "settings": validated.settings}
    return context


def run_task(
    task: bytes,
    shared: bytes,
    own: bytes,
    call: bytes,
    results: list[Any],
) -> Any:
    """Run one task on a worker and return its final state.

    The state has left this process for the API before Dask hears of the result, so that a worker
    that dies right after a task does not take the news with it.

    Args:
        task: The task, serialised.
        shared: The context of the flow run, serialised.
        own: The context of the task, serialised.
        call: The run's id, parameters and so on, packed.
        results: What the futures in `call` came to.
    """
    try:
        unpacked: Task[Any, Any] = cloudpickle.loads(task)
        kwargs: dict[str, Any] = {
            **unpack(call, results),
            "task": unpacked,
            "context": {**_unpack(shared), **cloudpickle.loads(own)},
            "return_type": "state",
        }
    except Exception as error:  # the task's code or an argument is not to be had here
        add_hint(error)
        raise
    _tell_place(unpacked, kwargs)
    try:
        if unpacked.isasync:
            state = asyncio.run(run_task_async(**kwargs))
        else:
            with thread_client(shared, kwargs["context"]["settings_context"]):
                state = run_task_sync(**kwargs)
        if hint := advise(state):
            _log(hint, unpacked, kwargs)
        return state
    finally:
        _send_events(_FLUSH_SECONDS)


def _log(text: str, task: Task[Any, Any], kwargs: dict[str, Any]) -> None:
    """Write a line into a task run's log after its end, in the context that it ran in."""
    with hydrated_context(kwargs["context"]):
        get_logger("prefect.task_runs").error(text, extra=_about(task, kwargs))


def _tell_place(task: Task[Any, Any], kwargs: dict[str, Any]) -> None:
    """Write into a task run's log where it runs, so that a task that hangs or dies can be found."""
    settings = kwargs["context"]["settings_context"]
    if not settings:
        return
    worker = distributed.get_worker()
    # The settings alone, which name the API: the whole context would cost as much as a small task.
    with SettingsContext(**settings):
        get_logger("prefect.task_runs").info(
            "Runs on worker %s at %s", worker.name, worker.address, extra=_about(task, kwargs)
        )


def _about(task: Task[Any, Any], kwargs: dict[str, Any]) -> dict[str, str]:
    """What tells the API which run a log line belongs to."""
    extra = {"task_run_id": str(kwargs["task_run_id"]), "task_name": task.name, "task_run_name": task.name}
    flow_run = (kwargs["context"]["flow_run_context"] or {}).get("flow_run")
    if flow_run is not None:
        extra["flow_run_id"] = str(flow_run["id"] if isinstance(flow_run, dict) else flow_run.id)
    return extra


async def flush_worker() -> None:
    """Send what this process still holds for the Prefect API: events first, then logs."""
    await asyncio.to_thread(_send_events, _FLUSH_SECONDS)
    await asyncio.to_thread(_send_logs, _FLUSH_SECONDS)


def _send_events(timeout: float) -> None:
    """Wait until every event of this process has been sent, at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for service in running_services(EventsWorker):
        if not wait_until_sent(service, deadline):
            return


def _send_logs(timeout: float) -> None:
    # Logs go in batches, and only the end of the service sends an incomplete one; the next log
    # starts a new service.
    for service in running_services(APILogWorker):
        drain(service, timeout)
