"""The Prefect API as tasks on a worker see it: an HTTP server on the loopback, which asks nobody itself.

What comes goes to the flow's process by the exchange in the scheduler, and what that answers goes back. Who
asks has to know a token that this process made up. One server serves all flow runs whose tasks this process
runs, each below a path of its own.

    http://127.0.0.1:PORT/RELAY/...   ─▶ relay_ask
    ws://127.0.0.1:PORT/RELAY/events/in ─▶ batches of events ─▶ relay_ask

It has a thread and an event loop of its own, and connections of its own to the scheduler: a task that blocks
the worker's loop does not keep others from the API. Imports nothing that a bare worker lacks; Tornado is
Dask's.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import os
import secrets
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.request import getproxies_environment
from uuid import uuid4

import tornado.httpserver as httpserver
import tornado.netutil as netutil
import tornado.web as web
import tornado.websocket as websocket
from distributed.core import rpc

from prefect_coiled.relay.event_queue import EventQueue
from prefect_coiled.relay.exchange import Answer
from prefect_coiled.relay.rules import LARGEST, too_large

logger = logging.getLogger("prefect_coiled.relay")

# Seconds that a request may take: less than the 60 that Prefect's client waits for an answer by default
# (https://docs.prefect.io/v3/api-ref/settings-ref#request_timeout), so that it gets words instead.
_SECONDS = 45.0
# Seconds on top of these after which the scheduler itself counts as gone.
_GRACE = 10.0
# Requests that this process has under way at a time; further ones wait here.
_AT_ONCE = 16
# Bytes of a request that are read and thrown away, so that who sends too much hears why.
_READ = 1 << 40


class Door:
    """The way of one flow run's tasks in this process to the API.

    Args:
        scheduler: The scheduler, as the worker reaches it.
    """

    def __init__(self, relay: str, scheduler: str, connection: dict[str, Any]) -> None:
        self.relay = relay
        self._scheduler, self._connection = scheduler, connection
        self._rpc: Any = None
        self._free = asyncio.Semaphore(_AT_ONCE)
        self.events = EventQueue(self.ask)

    async def ask(self, method: str, target: str, body: bytes) -> Answer:
        """Ask the flow's process; an answer in any case."""
        id_ = uuid4().hex
        async with self._free:
            if self._rpc is None:
                self._rpc = rpc(self._scheduler, connection_args=self._connection)
            for again in (True, False):
                try:
                    call = self._rpc.relay_ask(
                        relay=self.relay, id=id_, asked=(method, target, body), seconds=_SECONDS
                    )
                    status, headers, content = await asyncio.wait_for(call, _SECONDS + _GRACE)
                    return status, headers, content
                except (OSError, asyncio.TimeoutError) as error:
                    # The same id: what was asked before the connection broke is not asked twice.
                    logger.debug("The scheduler did not take a request: %s", error)
                    if not again:
                        words = f"The scheduler could not be asked to ask the Prefect API: {error}"
                        return 503, {"Retry-After": "2"}, words.encode()
        raise AssertionError

    async def close(self) -> None:
        """Give up what is under way."""
        self.events.close()
        if self._rpc is not None:
            await self._rpc.close_rpc()


class Forwarder:
    """The server of this process. `here` gives it."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self.port = 0
        self._doors: dict[str, Door] = {}
        self._of_flow_run: dict[str, Door] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="prefect-coiled-relay", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._listen())
        except BaseException as error:  # told to who waits
            self._failed = error
            return
        finally:
            self._ready.set()
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self) -> None:
        sockets = netutil.bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        application = web.Application(
            [
                (r"/([0-9a-f]+)(/events/in)", _EventsIn, {"forwarder": self}),
                (r"/([0-9a-f]+)(/.*)", _Requests, {"forwarder": self}),
            ],
            log_function=lambda handler: None,
            websocket_max_message_size=LARGEST,
        )
        self._server = httpserver.HTTPServer(application, max_body_size=_READ, idle_connection_timeout=300)
        self._server.add_sockets(sockets)

    def url(self, relay: str) -> str:
        """The address of the API for the tasks of a flow run."""
        return f"http://127.0.0.1:{self.port}/{relay}"

    def open(self, relay: str, worker: Any, flow_run_id: str = "") -> str:
        """Let tasks of a flow run ask; the address of the API for them.

        Args:
            worker: Dask's worker, which knows its scheduler.
            flow_run_id: The flow run, whose events go this way, whichever socket they come by.
        """
        with self._lock:
            door = self._doors.get(relay)
            if door is None:
                connection = worker.security.get_connection_args("worker")
                door = self._doors[relay] = Door(relay, worker.scheduler.address, connection)
            if flow_run_id:
                self._of_flow_run[flow_run_id] = door
        return self.url(relay)

    def door(self, relay: str) -> Door | None:
        """The way of a flow run's tasks, where there is one."""
        return self._doors.get(relay)

    def door_of(self, flow_run_id: str) -> Door | None:
        """The way of a flow run."""
        return self._of_flow_run.get(flow_run_id)

    def knows(self, authorization: str) -> bool:
        """Whether somebody may ask, by what an HTTP request says."""
        kind, _, said = authorization.partition(" ")
        wanted = base64.b64encode(self.token.encode()).decode() if kind == "Basic" else self.token
        return kind in ("Basic", "Bearer") and _same(said.strip(), wanted)

    def flush(self, relay: str, seconds: float) -> bool:
        """Wait until the events of a flow run's tasks have gone; says whether they have."""
        door = self._doors.get(relay)
        if door is None:
            return True
        return bool(self._run(door.events.settle(seconds), seconds + 1.0))

    def close(self) -> None:
        """Listen no more, and end the thread."""
        self._run(self._stop(), 10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)

    async def _stop(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()
        for door in self._doors.values():
            await door.close()

    def _run(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)


_here: Forwarder | None = None
_making = threading.Lock()


def here() -> Forwarder:
    """The forwarder of this process, which is started at first use."""
    global _here
    with _making:
        if _here is None:
            _past_proxies()
            _here = Forwarder()
        return _here


def relay_of(url: str) -> str:
    """The relay that an API's address of this process leads to; empty if it is another one."""
    if _here is None:
        return ""
    before = f"http://127.0.0.1:{_here.port}/"
    return url.removeprefix(before).partition("/")[0] if url.startswith(before) else ""


def _past_proxies() -> None:
    """A machine that reaches others by a proxy does not reach itself by it."""
    if getproxies_environment():
        for name in {"NO_PROXY", *(n for n in ("no_proxy",) if n in os.environ)}:
            held = os.environ.get(name)
            os.environ[name] = f"{held},127.0.0.1" if held else "127.0.0.1"


def _same(said: str, wanted: str) -> bool:
    return hmac.compare_digest(said.encode(), wanted.encode())


# Tornado's handlers


@web.stream_request_body
class _Requests(web.RequestHandler):
    """Any request of Prefect's HTTP client."""

    SUPPORTED_METHODS = ("GET", "POST", "PATCH", "PUT", "DELETE")

    def initialize(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._size = 0
        self._chunks: list[bytes] = []

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def prepare(self) -> None:
        # Browsers name where a page comes from, and have nothing to ask here.
        knows = self._forwarder.knows(self.request.headers.get("Authorization", ""))
        self._allowed = knows and "Origin" not in self.request.headers

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._allowed and self._size <= LARGEST:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    async def _answer(self, relay: str, path: str) -> None:
        # After the body has come: who still sends would miss the answer.
        if not self._allowed:
            self._refuse(401, "This is for the tasks of a flow run on this machine alone.")
            return
        if self._size > LARGEST:
            self._refuse(413, too_large(self._size))
            return
        if path == "/csrf-token":
            # In these words Prefect's client hears that it needs none; the flow's process sends its own.
            self._refuse(422, "CSRF protection is disabled.")
            return
        door = self._forwarder.door(relay)
        if door is None or self.request.headers.get("Upgrade"):
            # Prefect's sockets for reading: events/out and logs/out.
            self._refuse(403, "The relay gives no stream of events and logs.")
            return
        query = self.request.query
        target = self.request.path.removeprefix(f"/{relay}")
        status, headers, body = await door.ask(
            self.request.method, f"{target}?{query}" if query else target, b"".join(self._chunks)
        )
        if status >= 400 and "content-type" not in headers:
            self._refuse(status, body.decode(), headers)
            return
        self.set_status(status)
        self.clear_header("Content-Type")
        for name, value in headers.items():
            self.set_header(name, value)
        if status not in (204, 304):
            self.write(body)
        await self.finish()

    get = post = patch = put = delete = _answer

    def _refuse(self, status: int, words: str, headers: dict[str, str] | None = None) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            self.set_header(name, value)
        self.finish(json.dumps({"detail": words}))

    def compute_etag(self) -> None:
        return None


class _EventsIn(websocket.WebSocketHandler):
    """Prefect's socket for events: https://docs.prefect.io/v3/concepts/events."""

    def initialize(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._known = False

    def check_origin(self, origin: str) -> bool:
        return False

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "prefect" if "prefect" in subprotocols else None

    async def get(self, relay: str, path: str) -> None:
        if not self._forwarder.knows(self.request.headers.get("Authorization", "")):
            self.set_status(401)
            await self.finish()
            return
        await super().get(relay, path)

    def open(self, relay: str, path: str) -> None:
        self._door = self._forwarder.door(relay)

    async def on_message(self, message: str | bytes) -> None:
        """Take one; the next is read once there is room for it, which its sender feels."""
        try:
            told: dict[str, Any] = json.loads(message)
            if not self._known:
                self._known = _same(str(told.get("token")), self._forwarder.token)
                if not self._known or told.get("type") != "auth":
                    self.close(1008, "Auth required")
                    return
                await self.write_message(json.dumps({"type": "auth_success"}))
                return
            door = self._forwarder.door_of(_flow_run_of(told)) or self._door
        except (ValueError, AttributeError, TypeError) as error:
            logger.warning("An event could not be read: %s", error)
            return
        if door is not None:
            await door.events.put(message if isinstance(message, bytes) else message.encode())


def _flow_run_of(event: dict[str, Any]) -> str:
    """The flow run that an event is related to: one process may have tasks of several, and one socket."""
    for resource in event.get("related") or ():
        if resource.get("prefect.resource.role") == "flow-run":
            return str(resource.get("prefect.resource.id")).rpartition(".")[2]
    return ""
