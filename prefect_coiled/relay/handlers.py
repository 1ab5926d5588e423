"""What the forwarder does with a request of Prefect's client, and with its socket for events."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from typing import Any, Protocol
from uuid import uuid4

import tornado.web as web
import tornado.websocket as websocket

from prefect_coiled.relay.needs import LARGEST, too_large

logger = logging.getLogger("prefect_coiled.relay")


class Doors(Protocol):
    """Who knows whose a request is."""

    token: str
    sockets: set[EventsIn]

    def knows(self, authorization: str) -> bool:
        """Whether somebody may ask, by what an HTTP request says."""

    def door(self, relay: str) -> Any:
        """The way of a flow run's tasks, where there is one."""

    def door_of(self, flow_run_id: str) -> Any:
        """The way of a flow run."""


def is_same(said: str, wanted: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell how far they are."""
    return hmac.compare_digest(said.encode(), wanted.encode())


@web.stream_request_body
class Requests(web.RequestHandler):
    """Any request of Prefect's HTTP client."""

    SUPPORTED_METHODS = ("GET", "POST", "PATCH", "PUT", "DELETE")

    def initialize(self, forwarder: Doors) -> None:
        """Tornado's way to give it what it needs."""
        self._forwarder = forwarder
        self._size = 0
        self._chunks: list[bytes] = []

    def set_default_headers(self) -> None:
        """Say nothing of what this is."""
        self.clear_header("Server")

    def prepare(self) -> None:
        """See whether who asks may, before the body has come."""
        # Browsers name where a page comes from, and have nothing to ask here.
        knows = self._forwarder.knows(self.request.headers.get("Authorization", ""))
        self._allowed = knows and "Origin" not in self.request.headers

    def data_received(self, chunk: bytes) -> None:
        """Keep the body as long as it is not too large."""
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
        """None: an answer is the API's."""
        return None


class EventsIn(websocket.WebSocketHandler):
    """Prefect's socket for events: https://docs.prefect.io/v3/concepts/events."""

    def initialize(self, forwarder: Doors) -> None:
        """Tornado's way to give it what it needs."""
        self._forwarder = forwarder
        self._known = False
        self._pongs: dict[bytes, asyncio.Future[None]] = {}

    def check_origin(self, origin: str) -> bool:
        """Browsers have nothing to say here."""
        return False

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """That in which Prefect's client shows its token."""
        return "prefect" if "prefect" in subprotocols else None

    async def get(self, relay: str, path: str) -> None:
        """Open a socket to who knows the token."""
        if not self._forwarder.knows(self.request.headers.get("Authorization", "")):
            self.set_status(401)
            await self.finish()
            return
        await super().get(relay, path)

    def open(self, relay: str, path: str) -> None:
        """Take note of whose it is, where events do not say."""
        self._door = self._forwarder.door(relay)
        self._forwarder.sockets.add(self)

    def on_close(self) -> None:
        """What came before was read."""
        self._forwarder.sockets.discard(self)
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_result(None)

    def on_pong(self, data: bytes) -> None:
        """The other side has answered a ping: what it had sent before that was read."""
        if (pong := self._pongs.get(data)) is not None and not pong.done():
            pong.set_result(None)

    async def drain(self) -> None:
        """Read whatever was sent until now.

        A socket keeps its order: the answer to a ping comes after all that was sent before it, and Prefect's
        client takes an event for sent that lies in the socket still.
        """
        data = uuid4().bytes
        self._pongs[data] = pong = asyncio.get_running_loop().create_future()
        try:
            self.ping(data)
            await pong
        except websocket.WebSocketClosedError:
            pass
        finally:
            del self._pongs[data]

    async def on_message(self, message: str | bytes) -> None:
        """Take one; the next is read once there is room for it, which its sender feels."""
        try:
            told: dict[str, Any] = json.loads(message)
            if not self._known:
                self._known = is_same(str(told.get("token")), self._forwarder.token)
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
