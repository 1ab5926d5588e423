"""Sends tasks to Dask: packs what they need, and sends many as one graph.

    submit ─▶ packed at once, so that what cannot be sent is told here ─▶ queue ─▶ a graph of up to 1,000

On a client a thread takes what has gathered in the queue meanwhile, so that a loop of submits is a few
graphs. On a worker, and while the cluster comes up, a task is sent where it is submitted. This module knows
nothing of clusters and of flow runs' ends.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

import dask
import distributed
from prefect.client.schemas.objects import RunInput
from prefect.futures import PrefectWrappedFuture
from prefect.logging import get_logger
from prefect.tasks import Task
from prefect.utilities.annotations import quote
from prefect.utilities.collections import StopVisiting, visit_collection
from prefect.utilities.engine import collect_task_run_inputs_sync
from prefect_dask.task_runners import PrefectDaskFuture

from prefect_coiled.task_runner.futures import CoiledFuture
from prefect_coiled.task_runner.large import LargeValues
from prefect_coiled.task_runner.news import News
from prefect_coiled.task_runner.parcel import FlowRunParcel
from prefect_coiled.task_runner.shipping import LARGE, dumps, pack
from prefect_coiled.task_runner.store import Store
from prefect_coiled.task_runner.unsendable import explain
from prefect_coiled.task_runner.worker import Call, run_task

logger = get_logger("prefect_coiled.task_runner.submission")

_GRAPH = 1_000


@dataclass(eq=False)
class Request:
    """A task that is to be sent.

    Attributes:
        wait_for: What it waits for, in any shape.
        inputs: The task runs that it depends on, by parameter.
        own: The part of the context that only this task has.
        annotations: Dask's: priority, resources, workers and so on.
        again: Whether it may be run again if its result is lost.
        future: Stands for it.
    """

    task: Task[Any, Any]
    run: UUID
    parameters: dict[str, Any]
    wait_for: Any
    inputs: dict[str, set[RunInput]]
    own: dict[str, Any]
    annotations: dict[str, Any]
    again: bool
    future: CoiledFuture[Any]


@dataclass(eq=False)
class _Packed:
    call: Any
    results: list[Any]
    annotations: dict[str, Any]
    future: CoiledFuture[Any]
    key: str


class Submission:
    """Sends the tasks of a flow run to one Dask client.

    Args:
        space: Where the flow run's things are kept (see `store`).
        parcel: The flow run's context.
    """

    def __init__(self, client: Any, space: str, parcel: FlowRunParcel) -> None:
        self._client, self._parcel = client, parcel
        self.store = Store(client, space)
        self.news = News(client, space)
        self.large = LargeValues()
        self._queue: deque[_Packed] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._local = threading.local()

    def send(self, request: Request, at_once: bool = False) -> None:
        """Send a task, soon or at once.

        Raises:
            ArgumentError: A parameter cannot be sent.
        """
        packed = self._pack(request)
        self.news.expect(request.run, request.future)
        batch: list[_Packed] | None = getattr(self._local, "batch", None)
        if batch is not None:
            batch.append(packed)
            if len(batch) >= _GRAPH:
                self._send(batch)
                batch.clear()
        elif at_once:
            self._send([packed])
        else:
            self._enqueue([packed])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send what this thread submits as graphs, and write each task's code once."""
        if getattr(self._local, "batch", None) is not None:
            yield
            return
        batch: list[_Packed] = []
        self._local.batch, self._local.tasks = batch, {}
        try:
            yield
        finally:
            self._local.batch = self._local.tasks = None
            self.large.forget_objects()
            if batch:
                self._send(batch)

    def close(self) -> None:
        """Have the cluster forget what the flow run has in common."""
        for close in (self.news.close, self.store.clear):
            try:
                close()
            except Exception as error:  # the cluster may be gone, and all of it with it
                logger.debug("The scheduler could not be told that the flow run is over: %s", error)

    # Packing

    def _pack(self, request: Request) -> _Packed:
        shared = self.store.put(self._parcel.data())
        call = Call(
            self.store.space,
            shared,
            self._code(request.task),
            self.news.topic,
            request.run,
            request.own,
            request.parameters,
            request.wait_for,
            {name: found for name, found in request.inputs.items() if found},
            request.again,
        )
        try:
            sent = pack(call.parts(), self._client, lambda value: self.large.place(self._client, value))
        except Exception as error:
            raise explain(request.task, request.parameters, error) from error
        request.future.held = sent.held
        results = [getattr(future, "wrapped_future", future) for future in sent.futures]
        data = sent.data
        packed: Any = self.large.bytes(self._client, data) if len(data) >= LARGE else data
        if getattr(self._local, "batch", None) is None:
            self.large.forget_objects()
        key = f"{request.task.name}-{request.run.hex}"
        return _Packed(packed, results, request.annotations, request.future, key)

    def _code(self, task: Task[Any, Any]) -> str:
        known: dict[int, tuple[Task[Any, Any], str]] | None = getattr(self._local, "tasks", None)
        if known is not None and id(task) in known:
            return known[id(task)][1]
        name = self.store.put(dumps(task))
        if known is not None:
            known[id(task)] = task, name
        return name

    # Sending

    def _enqueue(self, packed: list[_Packed]) -> None:
        with self._changed:
            self._queue.extend(packed)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="prefect-coiled-submit", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._queue and not self._changed.wait_for(lambda: bool(self._queue), 5.0):
                    self._thread = None
                    return
                batch = [self._queue.popleft() for _ in range(min(_GRAPH, len(self._queue)))]
            self._send(batch)

    def _send(self, batch: Sequence[_Packed]) -> None:
        for annotated, group in groupby(batch, key=lambda packed: packed.annotations):
            some = list(group)
            try:
                futures = self._graph(some, annotated)
            except Exception as error:
                # Who submitted them has gone on: the futures are what is left to tell it to.
                for packed in some:
                    packed.future.fail(error)
                continue
            for packed, future in zip(some, futures, strict=True):
                packed.future.bind(future)

    def _graph(self, some: list[_Packed], annotated: dict[str, Any]) -> list[distributed.Future]:
        with dask.annotate(**annotated) if annotated else nullcontext():
            # Not PrefectDaskClient's, which is slower. An explicit key: a task run is never the same as
            # another, and hashing it is dear.
            if len(some) == 1:
                one = some[0]
                return [
                    distributed.Client.submit(
                        self._client, run_task, one.call, one.results, key=one.key, pure=False
                    )
                ]
            return list(
                distributed.Client.map(
                    self._client,
                    run_task,
                    [packed.call for packed in some],
                    [packed.results for packed in some],
                    key=[packed.key for packed in some],
                    pure=False,
                )
            )


def inputs_of(parameters: dict[str, Any], more: dict[str, set[RunInput]] | None) -> dict[str, set[RunInput]]:
    """The task runs that a task depends on, by parameter.

    Args:
        more: Those that somebody else has found, of parameters.
    """
    inputs: dict[str, set[RunInput]] = {
        name: set(collect_task_run_inputs_sync(value)) for name, value in parameters.items()
    }
    for name, found in (more or {}).items():
        if name in inputs:
            inputs[name] = inputs[name] | found
    return inputs


def wait_for_others(*values: Any) -> None:
    """Wait for the futures of other task runners, of which a task is given the states that they came to."""

    def visit(value: Any) -> Any:
        if isinstance(value, quote):  # what is in it is nobody's to look at
            raise StopVisiting
        if isinstance(value, PrefectWrappedFuture) and not isinstance(value, PrefectDaskFuture):
            value.wait()
        return value

    visit_collection(list(values), visit_fn=visit, return_data=False)


def as_lists(wait_for: Any) -> Any:
    """What a task waits for, with lists in place of what a worker could not read, or only once.

    A state is no key and no member of a set, and an iterator ends.
    """
    if isinstance(wait_for, (str, bytes)):
        return wait_for
    if isinstance(wait_for, dict):
        return [as_lists(part) for pair in wait_for.items() for part in pair]
    if isinstance(wait_for, (list, set, frozenset, Iterator)):
        return [as_lists(part) for part in wait_for]
    if type(wait_for) is tuple:
        return tuple(as_lists(part) for part in wait_for)
    return wait_for
