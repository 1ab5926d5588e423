"""Runs a task on a worker: reads the call, runs Prefect's engine, tells how it ended.

    call ─▶ the flow run's context of this thread ─▶ Prefect's task engine ─▶ events to the outbox
                                                                         └─▶ news to who submitted it

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import TimeoutError as LateError
from contextlib import nullcontext, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import distributed
from opentelemetry import propagate
from opentelemetry.context import attach
from prefect.client.schemas.objects import RunInput, State
from prefect.context import FlowRunContext, hydrated_context
from prefect.events.worker import EventsWorker
from prefect.exceptions import Abort, Pause
from prefect.logging import get_logger
from prefect.logging.handlers import APILogWorker
from prefect.results import ResultRecord  # type: ignore[attr-defined]
from prefect.states import exception_to_crashed_state
from prefect.task_engine import run_task_async, run_task_sync
from prefect.tasks import Task
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.collections import visit_collection

from prefect_coiled.events.links import log_stream_url
from prefect_coiled.internals.prefect import drain, enter_for_good, running_services, wait_until_sent
from prefect_coiled.node.denied import ACCOUNT_VARIABLE
from prefect_coiled.relay import forwarder
from prefect_coiled.task_runner import store
from prefect_coiled.task_runner.event_batches import Batch
from prefect_coiled.task_runner.futures import CoiledFuture
from prefect_coiled.task_runner.hints import add_api_hint, add_hint, advise, of_module
from prefect_coiled.task_runner.hydration import Hydrated, hydrated
from prefect_coiled.task_runner.kept_results import bring, lacks_result
from prefect_coiled.task_runner.large import Large
from prefect_coiled.task_runner.news import tell
from prefect_coiled.task_runner.outboxes import find, report_timeout
from prefect_coiled.task_runner.renewal import renew_if_stuck
from prefect_coiled.task_runner.sent_record import SentRecord
from prefect_coiled.task_runner.shipping import unpack
from prefect_coiled.task_runner.slot import own_place
from prefect_coiled.task_runner.time_limit import run_within
from prefect_coiled.task_runner.transactions import part_of, stand_for
from prefect_coiled.task_runner.unsendable import keep_words

# Seconds for each of what a process that is to be replaced still sends.
_LAST = 20.0


@dataclass
class Call:
    """What a worker needs to run a task, beside what many tasks have in common.

    Attributes:
        space: Where the flow run's things are kept (see `store`).
        shared: The name there of the flow run's context.
        task: The name there of the task.
        topic: Who is to know how it ended.
        own: What there is of the context that only this task has.
        wait_for: What it waits for.
        inputs: The task runs that the parameters come from, by parameter.
        again: Whether it may be run again if its result is lost.
    """

    space: str
    shared: str
    task: str
    topic: str
    run: UUID
    own: dict[str, Any]
    parameters: dict[str, Any]
    wait_for: Any = None
    inputs: dict[str, set[RunInput]] = field(default_factory=dict)
    again: bool = False

    def parts(self) -> tuple[Any, ...]:
        """What is sent: a third of what a dataclass takes."""
        names = self.space, self.shared, self.task, self.topic
        return (*names, self.run.bytes, self.own, self.parameters, self.wait_for, self.inputs, self.again)

    @classmethod
    def of(cls, parts: tuple[Any, ...]) -> Call:
        """The call of what was sent."""
        values: list[Any] = list(parts)
        values[4] = UUID(bytes=values[4])
        return cls(*values)


def run_task(call: bytes | Large, results: list[Any]) -> State[Any]:
    """Run one task, and return its final state.

    Args:
        results: What the futures in it came to.
    """
    try:
        results = [found.value() if isinstance(found, Large) else found for found in results]
        # Copies: others on this worker may be given the same.
        results = [found.model_copy() if lacks_result(found) else found for found in results]
        told = Call.of(unpack(call.value() if isinstance(call, Large) else call, results))
        task: Task[Any, Any] = store.load(told.space, told.task)
        here = hydrated(told.shared, partial(store.load, told.space, told.shared))
    except Exception as error:  # the task's code or an argument is not to be had here
        add_hint(error)
        raise
    except SystemExit as error:  # of a module: Dask would end the worker for it
        raise of_module(error) from error
    outer, trace = told.own.pop("transaction", None), told.own.pop("trace", None)
    transaction = stand_for(outer) if outer is not None else None
    try:
        state: State[Any] = here.run(_run, here, told, task, transaction, trace, results)
    except Exception as error:  # of the engine: what the task itself raises is in its state
        add_api_hint(error)
        raise
    except (Pause, Abort, GeneratorExit):  # a run that ends by these is reported by nobody
        raise
    except BaseException as error:
        state = _crashed(error, told.run, here.flow_run_id)
    if not state.is_completed():
        keep_words(state)
    part = part_of(transaction) if transaction is not None else None
    tell(distributed.get_worker(), told.topic, told.run, state, told.again, part)
    if state.is_completed():
        SentRecord.take_place(state, task.name, told.run)
    return state


def _crashed(error: BaseException, run: UUID, flow_run_id: str) -> State[Any]:
    """The state of a task that has ended its program, say by `sys.exit()`; its engine has reported it so.

    In a thread that ends the thread alone. Here Dask would end the worker, with all that runs on it, and run
    the task on others. A signal to the worker itself is raised in its main thread, and no affair of a task's.
    """
    state: State[Any] = run_coro_as_sync(exception_to_crashed_state(error))
    state.state_details.task_run_id = run
    state.state_details.flow_run_id = UUID(flow_run_id) if flow_run_id else None
    return state


def _run(
    here: Hydrated, call: Call, task: Task[Any, Any], transaction: Any, trace: Any, given: Iterable[Any]
) -> State[Any]:
    """In the flow run's context.

    Args:
        given: What the futures among the task's parameters came to.
    """
    for found in filter(lacks_result, given):
        bring(found)
    if trace is not None:
        attach(propagate.extract(trace))
    if transaction is not None:
        enter_for_good(transaction)
    about = _about(here, call, task)
    worker = distributed.get_worker()
    logger = get_logger("prefect.task_runs")
    logger.info("%s", where_it_runs(worker), extra=about)
    arguments: dict[str, Any] = {
        "task": task,
        "task_run_id": call.run,
        "parameters": call.parameters,
        "wait_for": call.wait_for,
        "dependencies": call.inputs,
        "return_type": "state",
    }
    with own_place(), hydrated_context(call.own) if call.own else nullcontext():
        if task.isasync:
            state: Any = here.run_async(partial(run_task_async, **arguments))
        elif task.timeout_seconds is not None:
            # Of its own: once it is given up it is tried no more, while others of the same task are.
            arguments["task"] = own = copy(task)
            attempt: Any = partial(run_task_sync, **arguments)
            left_behind = partial(renew_if_stuck, flush=partial(_settle, here.flow_run_id or ""), about=about)
            state = run_within(call.run, own, attempt, report_timeout, left_behind, about)
        else:
            state = run_task_sync(**arguments)
        if state.is_completed():
            _end_futures(state)
        if hint := advise(state):
            logger.error(hint, extra=about)
    result: State[Any] = state
    return result


def _end_futures(state: State[Any]) -> None:
    """Have no future of this process in a result: who asks for it gets those that have ended."""
    flow_run, record = FlowRunContext.get(), state.data
    if flow_run is None or not getattr(flow_run.task_runner, "has_given", False):
        return
    if isinstance(record, ResultRecord):

        def ended(part: Any) -> Any:
            return part.as_ended() if isinstance(part, CoiledFuture) else part

        record.result = visit_collection(record.result, visit_fn=ended, return_data=True)


def where_it_runs(worker: distributed.Worker) -> str:
    """The worker, and where AWS's console shows what its machine logs; the first line of a task run's log.

    Args:
        worker: The worker. One of a cluster of this library is named after its machine.
    """
    text = f"Runs on worker {worker.name} at {worker.address}"
    machine = re.match("i-[0-9a-f]+", str(worker.name))
    group, region = (os.environ.get(name) for name in (ACCOUNT_VARIABLE, "AWS_DEFAULT_REGION"))
    if not (machine and group and region) or "AWS_ENDPOINT_URL" in os.environ:
        # Another kind of cluster, or the sandbox, which AWS's console knows nothing of.
        return text
    return f"{text}; its log: {log_stream_url(region, group, machine[0])}"


def _about(here: Hydrated, call: Call, task: Task[Any, Any]) -> dict[str, str]:
    """What tells the API which run a log line belongs to."""
    extra = {"task_run_id": str(call.run), "task_name": task.name, "task_run_name": task.name}
    return {**extra, "flow_run_id": here.flow_run_id} if here.flow_run_id else extra


async def flush_worker(flow_run_id: str, seconds: float) -> list[Batch]:
    """Send the logs and the events of users that this process still holds for the Prefect API.

    Args:
        flow_run_id: The flow run that asks; empty without one.
        seconds: How long each of the steps may take.

    Returns:
        The states of the flow run's task runs that the API is not known to have: who asked sees to them.
    """
    await asyncio.to_thread(_send_events, seconds)
    with suppress(LateError):
        await asyncio.to_thread(_send_logs, seconds)
    return await asyncio.to_thread(
        lambda: [batch for outbox in find(flow_run_id) for batch in outbox.hand_over(seconds)]
    )


def _settle(flow_run_id: str) -> None:
    """Have the API know what it does not, before this process ends."""
    for outbox in find(flow_run_id):
        outbox.settle(_LAST)
    _send_events(_LAST)
    with suppress(LateError):
        _send_logs(_LAST)


def _send_events(timeout: float) -> None:
    """Wait until the events that go Prefect's way have been sent, at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for service in running_services(EventsWorker):
        if not wait_until_sent(service, deadline):
            return
    # Where they go through a relay, they have come as far as this process's half of it.
    forwarder.flush(max(deadline - time.monotonic(), 1.0))


def _send_logs(timeout: float) -> None:
    # Logs go in batches, and only the end of the service sends an incomplete one; the next log
    # starts a new service.
    for service in running_services(APILogWorker):
        drain(service, timeout)
