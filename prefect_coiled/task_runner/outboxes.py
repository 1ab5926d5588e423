"""Which outbox the states of a task run go to: that of the flow run whose task it is.

On a worker, the states of what `CoiledTaskRunner` runs are put into the outbox of the flow run, instead of
going the way of Prefect's own events, which costs more than a small task: two threads are changed for each
event, and each is written as JSON twice. Everything else goes Prefect's way.
"""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import Any
from uuid import UUID, uuid4

import orjson
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TERMINAL_STATES, State
from prefect.context import FlowRunContext
from prefect.events.related import related_resources_from_run_context
from prefect.events.utilities import TIGHT_TIMING

from prefect_coiled.internals.prefect import route_task_run_events
from prefect_coiled.task_runner.event_batches import Event, encodable
from prefect_coiled.task_runner.events import Outbox
from prefect_coiled.task_runner.time_limit import Limit, present_limit, run_of

_MARK = "_prefect_coiled_routes"
# Flow runs whose outbox a process keeps; one that is not empty is kept anyway.
_KEPT = 16
_outboxes: OrderedDict[str, tuple[Outbox, str]] = OrderedDict()
_lock = threading.Lock()
_present: ContextVar[tuple[Outbox, str] | None] = ContextVar("prefect_coiled_outbox", default=None)
_FINAL = {str(kind.value) for kind in TERMINAL_STATES}


class Sent:
    """What Prefect needs of an event to say that the next one follows it."""

    def __init__(self, id_: UUID, occurred: datetime.datetime) -> None:
        self.id, self.occurred = id_, occurred


def use_outbox(name: str, flow_run_id: str) -> Outbox:
    """Have the states of task runs in the present context go to the outbox of that name.

    Args:
        flow_run_id: The flow run; states of task runs of another one go Prefect's way.
    """
    install()
    with _lock:
        if name not in _outboxes:
            _outboxes[name] = Outbox(copy_context(), related_of_flow_run), flow_run_id
        _outboxes.move_to_end(name)
        empty = [old for old, (box, _) in list(_outboxes.items())[:-_KEPT] if not len(box)]
        for old in empty:
            del _outboxes[old]
        _present.set(_outboxes[name])
        return _outboxes[name][0]


def find(flow_run_id: str) -> list[Outbox]:
    """The outboxes of a flow run that this process has: one for each of the settings that it had."""
    with _lock:
        return [outbox for outbox, owner in _outboxes.values() if owner == flow_run_id]


def present() -> Outbox | None:
    """The outbox that states of task runs go to here; None on a client."""
    found = _present.get()
    return found[0] if found is not None else None


def install() -> None:
    """Route the states of task runs, once a process."""
    route_task_run_events(_route)


def _route(emit: Callable[..., Any]) -> Callable[..., Any]:
    if getattr(emit, _MARK, False):
        return emit

    @wraps(emit)
    def emit_event(**event: Any) -> Any:
        present = _present.get()
        if present is None or present[1] != _flow_run_id():
            return emit(**event)
        limit = present_limit()
        if limit is not None and not limit.note(event):
            return Sent(event["id"], event["occurred"])
        return _put(present[0], **event)

    setattr(emit_event, _MARK, True)
    return emit_event


def _flow_run_id() -> str:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context is not None and context.flow_run is not None else ""


def _put(
    outbox: Outbox,
    event: str,
    resource: dict[str, str],
    occurred: datetime.datetime,
    related: list[dict[str, str]],
    payload: dict[str, Any],
    id: UUID | None = None,
    follows: Any = None,
) -> Sent:
    body: dict[str, Any] = {
        "id": id or uuid4(),
        "occurred": occurred.isoformat(),
        "event": event,
        "resource": resource,
        "payload": payload,
    }
    if follows is not None and abs(occurred - follows.occurred) < TIGHT_TIMING:
        body["follows"] = follows.id
    # The last of all, as the outbox adds to it.
    body["related"] = related
    run = run_of(resource)
    final = resource.get("prefect.state-type") in _FINAL
    try:
        written = orjson.dumps(body)
    except TypeError:
        written = orjson.dumps(encodable(body))
    outbox.add([Event(run, body["id"], written, final, len(related))])
    return Sent(body["id"], occurred)


def report_timeout(limit: Limit, state: State[Any]) -> None:
    """Tell the API of a task run that was given up, by what its last event said of it."""
    present, last = _present.get(), limit.last
    if present is None:
        return
    kind = str(state.type.value)
    resource = {
        **last["resource"],
        "prefect.state-message": state.message or "",
        "prefect.state-name": state.name or "",
        "prefect.state-timestamp": state.timestamp.isoformat(),
        "prefect.state-type": kind,
    }
    before = last["payload"]["validated_state"]
    validated: dict[str, Any] = {
        "type": kind,
        "name": state.name,
        "message": state.message,
        "state_details": {},
        "data": None,
    }
    payload = {
        **last["payload"],
        "intended": {"from": before["type"], "to": kind},
        "initial_state": {name: value for name, value in before.items() if name != "data"},
        "validated_state": {**validated, "state_details": {}},
        "task_run": {**last["payload"]["task_run"], "end_time": state.timestamp.isoformat()},
    }
    event = f"prefect.task-run.{state.name}"
    follows = Sent(last["id"], last["occurred"])
    _put(present[0], event, resource, state.timestamp, last["related"], payload, state.id, follows)


def related_of_flow_run() -> list[dict[str, str]]:
    """The flow run, its flow, its deployment and so on, as Prefect adds them to each event."""

    async def ask() -> list[dict[str, str]]:
        async with get_client() as client:
            return [dict(found.root) for found in await related_resources_from_run_context(client)]

    return asyncio.run(ask())
