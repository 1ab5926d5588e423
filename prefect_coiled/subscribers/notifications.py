"""Keeps what happens to an account's resources: in its log group, and as Prefect events.

Nobody waits for it: rows go into a buffer that a thread of its own sends, and what cannot be kept is dropped
with one word in the log. Where the interpreter ends no thread can be started: there, all is sent at the end,
by whoever ends it.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextvars import Context, copy_context
from typing import Any

from prefect.events import Event as PrefectEvent
from prefect.events import Resource, emit_event

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.logs import write_log
from prefect_coiled.errors import (
    AlreadyExistsError,
    AwsError,
    NoCapacityError,
    NotFoundError,
    PrefectCoiledError,
)
from prefect_coiled.events import Event
from prefect_coiled.events.rows import EVENT_TYPES, OF_CALLS, STREAM, Notification
from prefect_coiled.internals.api_errors import without_user
from prefect_coiled.plan.aws_codes import SLOW_DOWN

logger = logging.getLogger(__name__)

# Seconds between two sends, how long the end waits for the last one, and how long a log group may be away:
# a set-up makes it in less.
_EVERY, _LAST, _AWAY = 2.0, 5.0, 300.0
_MOST = 5_000
# Where replies name what was made.
_IDS = (
    *("VpcId", "SubnetId", "InternetGatewayId", "RouteTableId", "VpcEndpointId"),
    *("NatGatewayId", "GroupId", "ImageId"),
)


class Notifications:
    """Keeps the notifications of one account in one region.

    Attributes:
        threads: Whether threads can be started; not while the interpreter ends.
    """

    def __init__(self, aws: Aws) -> None:
        self.threads = True
        # With the context of whoever told, in which Prefect finds the flow run.
        self._events: list[tuple[Context, PrefectEvent]] = []
        # Its own door: a stop does not end it.
        self._door = aws.beside()
        self._rows: list[Notification] = []
        self._lost = 0
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def are_of(self, account: str, region: str, number: str = "") -> bool:
        """Whether they are of that account in that region, and in that AWS account, as far as it is known."""
        same = {number, self._door.known_number} - {""}  # a slug may be given to another AWS account
        return (self._door.account, self._door.region) == (account, region) and len(same) < 2

    def __call__(self, event: Event) -> None:
        """Keep it, if it is of this account and of a kind that is kept."""
        if not self.are_of(event.account, event.region, event.number):
            return
        kind, level, error = event.kind, event.level, event.error
        if kind == "reply":
            kind = OF_CALLS.get(event.action, "")
            if isinstance(error, (AlreadyExistsError, NotFoundError)):
                return  # both are answers that an idempotent step lives by
            if isinstance(error, AwsError):
                if error.code in SLOW_DOWN:
                    return  # it is made again
                level = logging.WARNING if isinstance(error, NoCapacityError) else logging.ERROR
        if kind not in EVENT_TYPES:
            return
        data: dict[str, Any] = {"region": event.region, "cluster": event.cluster, "uid": event.uid}
        data |= {"InstanceIds": list(event.ids), **_ids(event.reply)}
        if event.spans:
            data["spans"] = [span.model_dump(mode="json", exclude_defaults=True) for span in event.spans]
        if error is not None:
            data["error"] = " ".join(str(error).split())
        row = Notification(
            time=event.at,
            id=uuid.uuid4().hex[:12],
            level=level,
            event_type=kind,
            elapsed=round(event.seconds, 3),
            msg=event.text,
            data={key: value for key, value in data.items() if value},
        )
        with self._lock:
            self._events.append((copy_context(), _event(self._door.account, row)))
            if len(self._rows) < _MOST:
                self._rows.append(row)
            else:
                self._lost += 1
            # What is told after the end (a machine that is let go) is sent all the same.
            if self._thread is None and self.threads:
                self._hurry.clear()
                self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Send what is left; wait for that for a bounded time."""
        if not self.threads:
            self._end(sent=self._send())
            _post([event for _, event in self._taken()])
            return
        self._hurry.set()
        thread = self._thread
        if thread is not None:
            thread.join(_LAST)

    def _run(self) -> None:
        """Send what is there, until nothing is there any more; the next row begins anew."""
        kept = time.monotonic()
        while True:
            hurried = self._hurry.wait(_EVERY)
            for context, event in self._taken() if self.threads else ():
                # Prefect may have to start a server first: that is nothing for whoever tells.
                context.run(_emit, event)
            sent = self._send()
            now = time.monotonic()
            kept = now if sent else kept
            given_up = hurried or now - kept > _AWAY  # hurried, nobody waits any longer
            with self._lock:
                self._end(sent=sent or not given_up)
                if not self._rows and not (self._events and self.threads):
                    self._thread = None
                    return

    def _end(self, *, sent: bool) -> None:
        """Give up what could not be sent, and say of how many that and want of room is true."""
        if not sent:
            self._lost += len(self._rows)
            self._rows.clear()
        if self._lost:
            logger.info("%d notifications of account %s were not kept", self._lost, self._door.account)
            self._lost = 0

    def _taken(self) -> list[tuple[Context, PrefectEvent]]:
        with self._lock:
            events, self._events = self._events, []
        return events

    def _send(self) -> bool:
        """Send the rows; says whether they are kept now."""
        with self._sending:  # the thread may be at it while the interpreter ends
            with self._lock:
                rows = list(self._rows)
            if not rows:
                return True
            try:
                write_log(self._door, STREAM, [(r.time, r.encode()) for r in rows])
            except NotFoundError:
                return False  # the log group is not there yet: it is made meanwhile
            except PrefectCoiledError as error:
                logger.debug("Notifications were not written: %s", error)
                return False
            with self._lock:
                del self._rows[: len(rows)]
            return True


def _ids(reply: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in (reply, *(v for v in reply.values() if isinstance(v, dict))):
        found.update({k: part[k] for k in _IDS if k in part})
    machines = [*reply.get("Instances", ()), *reply.get("TerminatingInstances", ())]
    if machines:
        found["InstanceIds"] = [m["InstanceId"] for m in machines]
    return found


def _event(account: str, row: Notification) -> PrefectEvent:
    cluster = row.data.get("cluster")
    name = f"prefect-coiled.cluster.{account}.{cluster}" if cluster else f"prefect-coiled.account.{account}"
    return PrefectEvent(
        occurred=row.time,
        event=f"prefect-coiled.{row.event_type}",
        resource=Resource({"prefect.resource.id": name, "prefect.resource.name": str(cluster or account)}),
        payload=row.row(),
    )


def _emit(event: PrefectEvent) -> None:
    try:
        emit_event(
            event=event.event,
            resource=dict(event.resource.items()),
            occurred=event.occurred,
            payload=event.payload,
        )
    except Exception as error:  # Prefect may be going down; nothing depends on its hearing of this
        logger.debug("A notification was not sent to Prefect: %s", without_user(str(error)))


def _post(events: list[PrefectEvent]) -> None:
    """Tell events with one request. Prefect's own way needs a thread, and would start a server for it."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    if not events or not (PREFECT_API_URL.value() or _temporary_server_runs()):
        return
    bounds = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})
    listed = [event.model_dump(mode="json") for event in events]
    try:
        with bounds, get_client(sync_client=True, httpx_settings={"timeout": _LAST}) as client:
            client.request("POST", "/events", json=listed).raise_for_status()
    except Exception as error:  # as in `_emit`
        logger.debug("%d notifications were not sent to Prefect: %s", len(events), without_user(str(error)))


def _temporary_server_runs() -> bool:
    # Not imported for this: where nobody has, none runs.
    servers: Any = sys.modules.get("prefect.server.api.server")
    return servers is not None and bool(servers.SubprocessASGIServer().running)
