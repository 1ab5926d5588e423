"""The requests to the Prefect API by which states of task runs get there, and are seen to be there."""

from __future__ import annotations

import asyncio
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    TaskRunFilter,
    TaskRunFilterId,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL, PREFECT_CLOUD_API_URL, get_current_settings

from prefect_coiled.internals.api_errors import without_user
from prefect_coiled.relay.cloud_events import stream
from prefect_coiled.task_runner.event_batches import Event, Flight

logger = get_logger("prefect_coiled.task_runner.events")

# Refusals that are not about what was sent: who sends, how fast, or whose API it is. All of it goes later.
_NOT_OF_EVENTS = (401, 403, 408, 410, 429)
#: Task runs in a question: as many as the API lists at a time.
IDS = 200


def send(client: SyncPrefectClient, events: list[Event], resources: list[bytes]) -> None:
    """Send events, each related to some resources."""
    bodies = [_with_related(event, resources) for event in events]
    if str(PREFECT_API_URL.value() or "").startswith(str(PREFECT_CLOUD_API_URL.value())):
        asyncio.run(stream(bodies))
        return
    try:
        _post(client, bodies)
    except PrefectHTTPStatusError as error:
        if not _is_about_events(error):
            raise
        _one_by_one(client, bodies)


def missing(client: SyncPrefectClient, flight: Flight) -> int:
    """How many states the API does not show, as far as one asks: the ends, or else the last one."""
    ended = flight.ended
    if not ended:
        last = flight.events[-1]
        answer = client.request("GET", "/task_run_states/", params={"task_run_id": str(last.run)})
        return 0 if str(last.state) in {state["id"] for state in answer.json()} else 1
    found = 0
    for first in range(0, len(ended), IDS):
        filter_ = _ended_among(ended[first : first + IDS])
        answer = client.request(
            "POST",
            "/task_runs/count",
            json={"task_runs": filter_.model_dump(mode="json", exclude_unset=True)},
        )
        found += int(answer.json())
    return len(ended) - found


def ended_among(client: SyncPrefectClient, runs: list[UUID]) -> set[UUID]:
    """Those of at most `IDS` task runs that the API has as ended."""
    found = client.read_task_runs(task_run_filter=_ended_among(runs), limit=IDS)
    return {run.id for run in found}


def _ended_among(runs: list[UUID]) -> TaskRunFilter:
    ended = TaskRunFilterState(type=TaskRunFilterStateType(any_=list(TERMINAL_STATES)))
    return TaskRunFilter(id=TaskRunFilterId(any_=runs), state=ended)


def _post(client: SyncPrefectClient, bodies: list[bytes]) -> None:
    """https://docs.prefect.io/v3/api-ref/rest-api/server/events: recorded as a batch."""
    content = b"[" + b",".join(bodies) + b"]"
    client.request("POST", "/events", content=content, headers={"Content-Type": "application/json"})


def _one_by_one(client: SyncPrefectClient, bodies: list[bytes]) -> None:
    """The API refused a batch: one that it cannot take must not keep the others."""
    for body in bodies:
        try:
            _post(client, [body])
        except PrefectHTTPStatusError as error:
            if not _is_about_events(error):
                raise
            logger.error("The Prefect API refused an event of a task run: %s", without_user(str(error)))


def _is_about_events(error: PrefectHTTPStatusError) -> bool:
    """Whether the API refused what was sent, and would again."""
    status = error.response.status_code
    return 400 <= status < 500 and status not in _NOT_OF_EVENTS


_RELATED = b',"related":['


def _with_related(event: Event, resources: list[bytes]) -> bytes:
    """Add resources to the list with which an event's JSON ends, as many as the API takes."""
    room = get_current_settings().server.events.maximum_related_resources - event.related
    more = b",".join(resources[: max(room, 0)])
    own = event.body[:-2]
    comma = b"," if more and not own.endswith(_RELATED) else b""
    return own + comma + more + b"]}"
