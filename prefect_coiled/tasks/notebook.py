"""Notes what happens to an account's resources: in its log group, and as Prefect events.

Whoever is noted never waits: rows go into a buffer that a thread of its own sends, and what cannot be sent
is dropped with one word in the log. The account's provisioning is the same with and without it. Where the
interpreter ends no thread can be started: there, all is sent at the end, from where it was noted.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from datetime import datetime, timezone
from typing import Any

from prefect.events import Event, Resource, emit_event

from prefect_coiled.aws.door import Aws, Report
from prefect_coiled.aws.logs import write_log
from prefect_coiled.errors import AlreadyExistsError, NoCapacityError, NotFoundError, PrefectCoiledError
from prefect_coiled.plan.aws_codes import SLOW_DOWN
from prefect_coiled.plan.notifications import OF_CALLS, STREAM, Notification

logger = logging.getLogger(__name__)

# Seconds between two sends, and how long the end waits for the last one.
_EVERY, _LAST = 2.0, 5.0
_MOST = 5_000
# Where replies name what was made.
_IDS = ("VpcId", "SubnetId", "InternetGatewayId", "RouteTableId", "VpcEndpointId", "NatGatewayId", "GroupId")


class Notebook:
    """Keeps the notifications of one provisioning session.

    Args:
        aws: The session's door; the rows are written through one of their own.
        threads: Whether threads can be started; not while the interpreter ends.
    """

    def __init__(self, aws: Aws, *, threads: bool = True) -> None:
        self._threads = threads
        self._events: list[Event] = []
        # Its own door: what is noted is no part of the session's calls, and a stop does not end it.
        self._door = aws.beside()
        self._rows: list[Notification] = []
        self._lock = threading.Lock()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def report(self, call: Report) -> None:
        """Note a call to AWS that made or removed something."""
        kind = OF_CALLS.get(call.action)
        if kind is None or isinstance(call.error, (AlreadyExistsError, NotFoundError)):
            return  # both are answers that an idempotent step lives by
        if call.error is not None and call.error.code in SLOW_DOWN:
            return  # it is made again
        level = logging.INFO
        if call.error is not None:
            level = logging.WARNING if isinstance(call.error, NoCapacityError) else logging.ERROR
        self.note(kind, call.what, elapsed=call.seconds, level=level, error=call.error, **_ids(call.reply))

    def note(
        self,
        event_type: str,
        msg: str,
        *,
        elapsed: float = 0.0,
        level: int = logging.INFO,
        error: BaseException | None = None,
        **data: Any,
    ) -> None:
        """Note something.

        Args:
            event_type: One of `plan.notifications.EVENT_TYPES`.
            msg: What was done, for a person.
            elapsed: Seconds that it took.
            level: A level of `logging`.
            error: Why it failed.
            data: Ids and names.
        """
        if error is not None:
            data["error"] = " ".join(str(error).split())
        row = Notification(
            time=datetime.now(timezone.utc),
            id=uuid.uuid4().hex[:12],
            level=level,
            event_type=event_type,
            elapsed=round(elapsed, 3),
            msg=msg,
            data={"region": self._door.region, **data},
        )
        with self._lock:
            if len(self._rows) < _MOST:
                self._rows.append(row)
            # What is noted after a session's end (a machine that is let go) is sent all the same.
            if self._thread is None and self._threads:
                self._hurry.clear()
                self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
                self._thread.start()
        event = _event(self._door.account, row)
        if self._threads:
            _emit(event)
        else:
            self._events.append(event)

    def close(self) -> None:
        """Send what is left; wait for that for a bounded time."""
        if not self._threads:
            self._send()
            events, self._events = self._events, []
            _post(events)
            return
        self._hurry.set()
        thread = self._thread
        if thread is not None:
            thread.join(_LAST)

    def _run(self) -> None:
        """Send what is there, until nothing is there any more; the next note begins anew."""
        while True:
            hurried = self._hurry.wait(_EVERY)
            sent = self._send()
            with self._lock:
                if hurried and not sent:  # nobody waits any longer
                    text = "%d notifications of account %s were not kept"
                    logger.info(text, len(self._rows), self._door.account)
                    self._rows.clear()
                if not self._rows:
                    self._thread = None
                    return

    def _send(self) -> bool:
        """Send the rows; says whether they are kept now."""
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


def _ids(reply: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in (reply, *(v for v in reply.values() if isinstance(v, dict))):
        found.update({k: part[k] for k in _IDS if k in part})
    machines = [*reply.get("Instances", ()), *reply.get("TerminatingInstances", ())]
    if machines:
        found["InstanceIds"] = [m["InstanceId"] for m in machines]
    return found


def _event(account: str, row: Notification) -> Event:
    cluster = row.data.get("cluster")
    name = f"prefect-coiled.cluster.{account}.{cluster}" if cluster else f"prefect-coiled.account.{account}"
    return Event(
        occurred=row.time,
        event=f"prefect-coiled.{row.event_type}",
        resource=Resource({"prefect.resource.id": name, "prefect.resource.name": str(cluster or account)}),
        payload=row.row(),
    )


def _emit(event: Event) -> None:
    try:
        emit_event(
            event=event.event,
            resource=dict(event.resource.items()),
            occurred=event.occurred,
            payload=event.payload,
        )
    except Exception as error:  # Prefect may be going down; nothing depends on its hearing of this
        logger.debug("A notification was not sent to Prefect: %s", error)


def _post(events: list[Event]) -> None:
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
        logger.debug("%d notifications were not sent to Prefect: %s", len(events), error)


def _temporary_server_runs() -> bool:
    # Not imported for this: where nobody has, none runs.
    servers: Any = sys.modules.get("prefect.server.api.server")
    return servers is not None and bool(servers.SubprocessASGIServer().running)


class Watch:
    """Measures the seconds of a step."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._begun
