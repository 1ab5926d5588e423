"""Of Prefect. Seen in 3.8.8 and 3.9.1."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import prefect
import prefect.concurrency.services as _services
import prefect.concurrency.v1.services as _services_v1
import prefect.utilities.engine as _engine
from prefect._flow_run_suspension import (
    raise_if_flow_run_suspension_requested as raise_if_flow_run_suspension_requested,
)
from prefect._internal.concurrency.services import QueueService
from prefect.blocks.core import Block
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.context import AssetContext, ContextModel, FlowRunContext, TagsContext, TaskRunContext
from prefect.events.clients import EventsClient, PrefectEventsClient
from prefect.events.worker import EventsWorker, emit_events_to_cloud
from prefect.settings import get_current_settings
from prefect.transactions import BaseTransaction
from prefect.types._concurrency import ConcurrencyLeaseHolder

B = TypeVar("B", bound=Block)
_BY_API = "_prefect_coiled_by_api"
_HAS_CONNECTED = "_has_connected"
# Addresses of APIs that answered this process.
_reached: set[str] = set()
_TAKE_SLOTS: tuple[Any, ...] = (
    _services.ConcurrencySlotAcquisitionService,
    _services.ConcurrencySlotAcquisitionWithLeaseService,
    _services_v1.ConcurrencySlotAcquisitionService,
)


async def send_once(client: PrefectClient, method: str, target: str, content: bytes | None) -> httpx.Response:
    """Send a request as Prefect's client does, with its headers and its CSRF token, but once.

    What the client would wait for and try again is for the caller, who may know how long he has.

    Args:
        target: Path and query, below the API's address.
        content: JSON.

    Raises:
        httpx.HTTPError: There was no answer.
    """
    inner: Any = client._client
    headers = {} if content is None else {"Content-Type": "application/json"}
    request = inner.build_request(method, target, content=content, headers=headers)
    inner._add_attribution_headers(request)
    if inner.enable_csrf_support and method != "GET":
        await inner._add_csrf_headers(request)
    response: httpx.Response = await httpx.AsyncClient.send(inner, request)
    if response.status_code == 403 and "Invalid CSRF token" in response.text:
        inner.csrf_token = None
    return response


class _HasConnected:
    """Whether a client had an answer of its API; also where another of this process had one."""

    def __get__(self, client: Any, kind: type[Any]) -> Any:
        if client is None:
            return self
        return vars(client).get(_HAS_CONNECTED, False) or str(client.base_url) in _reached

    def __set__(self, client: Any, value: bool) -> None:
        vars(client)[_HAS_CONNECTED] = value
        if value:
            _reached.add(str(client.base_url))


def try_again_where_reached() -> None:
    """Have each client of an API that this process has reached try again where a connection is refused.

    Prefect's does so once it had an answer itself: a wrong address fails at once. One that is made while a
    server is started anew, in the middle of a flow run, would give up. When that moves: find what decides in
    `prefect.client.base` whether `httpx.ConnectError` is among what is tried again.
    """
    for kind in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        setattr(kind, _HAS_CONNECTED, _HasConnected())


def is_reached(client: SyncPrefectClient) -> None:
    """Know a client's API as one that was reached: by who sent this process its work."""
    try_again_where_reached()
    inner: Any = client._client
    inner._has_connected = True


def is_known_revision(revision: str) -> bool:
    """Whether the Prefect that is installed knows this revision of its SQLite database.

    Its migrations are files that have the revision in their names, `prefect/server/database/_migrations`.
    """
    migrations = Path(prefect.__file__).parent / "server/database/_migrations/versions/sqlite"
    # Where there are none, Prefect keeps them elsewhere by now, and nothing is known.
    return not migrations.is_dir() or any(migrations.glob(f"*_{glob.escape(revision)}_*.py"))


def running_services(kind: type[Any]) -> list[Any]:
    """The services of a kind that run in this process: those of all kinds share one table."""
    services: dict[int, Any] = QueueService._instances  # type: ignore[misc]
    return [service for service in list(services.values()) if isinstance(service, kind)]


class _Names(frozenset[str]):
    """Names of limits of one API."""

    def __hash__(self) -> int:
        return hash((frozenset(self), get_current_settings().api.url))


def keep_services_by_api() -> None:
    """Have services of Prefect's that ask the API be one for each API, in a process that talks to several.

    Prefect keeps one that sends events for the process, and one that takes slots for the names of the limits,
    with the API that whoever came first had. When that moves: `instance` of `EventsWorker`, and of what
    `prefect.concurrency` takes slots by.
    """
    if getattr(EventsWorker, _BY_API, False):
        return
    of_events = EventsWorker.instance

    def events_worker(cls: type[EventsWorker], client_type: Any = None) -> EventsWorker:
        url = get_current_settings().api.url
        if client_type is None and cls._client_override is None and url and not emit_events_to_cloud():
            return super(EventsWorker, cls).instance(PrefectEventsClient, (("api_url", url),))
        return of_events(client_type)

    def slots(cls: type[Any], names: frozenset[str]) -> Any:
        return super(cls, cls).instance(_Names(names))

    changed: Any = EventsWorker
    changed.instance = classmethod(events_worker)
    for kind in _TAKE_SLOTS:
        kind.instance = classmethod(slots)
    setattr(EventsWorker, _BY_API, True)


def wait_until_sent(service: Any, deadline: float) -> bool:
    """Wait until a service has sent all that it was given; says whether it has, by a time of `monotonic`."""
    queue = service._queue
    with queue.all_tasks_done:
        while queue.unfinished_tasks and not service._stopped:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            queue.all_tasks_done.wait(min(left, 1.0))
    return True


async def confirm(client: EventsClient) -> None:
    """Have the API confirm what it has not; the client's own clock may have asked in between."""
    sent: Any = client
    if sent._unconfirmed_events:
        sent._checkpoint_every = 1
        await sent._checkpoint()


def unconfirmed(client: EventsClient) -> int:
    """How many events a client has sent of which it does not know that the API has them.

    It asks after each `checkpoint_every` of them.
    """
    sent: Any = client
    return len(sent._unconfirmed_events)


def drain(service: Any, timeout: float) -> None:
    """End a service once it has sent what it holds, an incomplete batch too; the next item starts another."""
    service._drain().result(timeout=timeout)


def enter_for_good(context: ContextModel) -> None:
    """Have a context found in the present `contextvars.Context`, which ends without leaving it."""
    context.__var__.set(context)


def leave_all() -> None:
    """Take no run, no transaction and no tags into the present `contextvars.Context`.

    A thread's context may come by way of an event loop from another task, which is over by now. A transaction
    that is over takes whatever is open for its parent, and so may be its own ancestor.
    """
    for kind in (FlowRunContext, TaskRunContext, AssetContext, BaseTransaction):
        variable: Any = kind.__var__
        variable.set(None)
    TagsContext.__var__.set(TagsContext())


def route_task_run_events(route: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Have the events that tell of task runs' states sent another way; those of users' code are not touched.

    Prefect's `emit_task_run_state_change_event` calls its own module's `emit_event` with an event's parts.
    When that moves: find what `prefect.task_engine` calls with a state, and the call of `emit_event` in it.

    Args:
        route: Gets the `emit_event` that is there, and gives the one to take its place.
    """
    engine: Any = _engine
    engine.emit_event = route(engine.emit_event)


def stored_values(transaction: Any) -> dict[str, Any]:
    """What was set in a transaction by its `set`, itself: to read, and to add to."""
    values: dict[str, Any] = transaction._stored_values
    return values


def slot_holder(flow_run_id: UUID) -> ConcurrencyLeaseHolder:
    """A flow run as the holder of a slot."""
    return ConcurrencyLeaseHolder(type="flow_run", id=flow_run_id)


def block_of(kind: type[B], document: BlockDocument) -> B:
    """The block of a document that was read."""
    return kind._from_block_document(document)


def saved_as(block: Block, document: BlockDocument) -> None:
    """Let a block know which document it is, so that a block that holds it names that one."""
    block._block_document_id, block._block_document_name = document.id, document.name


def known_again(block: Block) -> None:
    """Let a block that travelled as a mapping know which document it is: Prefect sends that, and forgets it.

    Without it the record of a result does not say where the result is.
    """
    sent = block.model_extra or {}
    if block._block_document_id is None and (document := sent.get("_block_document_id")):
        block._block_document_id = UUID(str(document))
        block._block_document_name = sent.get("_block_document_name")


def loaded_from(block: Block, document: BlockDocument) -> None:
    """The same, for a block that was made of what a document says; blocks in it know theirs as well."""
    saved_as(block, document)
    block._define_metadata_on_nested_blocks(document.block_document_references)


def is_saved_apart(block: Block) -> bool:
    """Whether a block within another one is a document of its own."""
    return bool(block._block_document_name) and not block._is_anonymous


def id_of(block: Block) -> str:
    """The id of the document that a block was saved to or loaded from; empty if it was not."""
    return str(block._block_document_id or "")


def name_of(block: Block) -> str:
    """The name under which a block was saved or loaded; empty if it was not."""
    return block._block_document_name or ""
