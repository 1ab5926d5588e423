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
import logging
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as LateError
from typing import Any
from urllib.request import getproxies_environment
from uuid import uuid4

import tornado.httpserver as httpserver
import tornado.netutil as netutil
import tornado.web as web
from distributed.core import rpc

from prefect_coiled.relay.event_queue import EventQueue
from prefect_coiled.relay.exchange import Answer
from prefect_coiled.relay.handlers import EventsIn, Requests, is_same
from prefect_coiled.relay.needs import LARGEST

logger = logging.getLogger("prefect_coiled.relay")

# Seconds that a request may take: less than the 60 that Prefect's client waits for an answer by default
# (https://docs.prefect.io/v3/api-ref/settings-ref#request_timeout), so that it gets words instead.
_SECONDS = 45.0
# Seconds on top of these after which the scheduler itself counts as gone.
_GRACE = 10.0
# Requests that this process has under way at a time; further ones wait here.
_AT_ONCE = 16
# Flow runs whose way a process keeps: with more at a time on one cluster, the least used is opened anew.
_KEPT = 256
# Bytes of a request that are read and thrown away, so that who sends too much hears why.
_READ = 1 << 40


class Door:
    """The way of one flow run's tasks in this process to the API.

    Args:
        scheduler: Gives the connections to the scheduler.
    """

    def __init__(self, relay: str, scheduler: Callable[[], Any]) -> None:
        self.relay = relay
        self._scheduler = scheduler
        self._free = asyncio.Semaphore(_AT_ONCE)
        self.events = EventQueue(self.ask)

    async def ask(self, method: str, target: str, body: bytes) -> Answer:
        """Ask the flow's process; an answer in any case."""
        id_ = uuid4().hex
        async with self._free:
            for again in (True, False):
                try:
                    call = self._scheduler().relay_ask(
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


class Forwarder:
    """The server of this process. `here` gives it."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self.port = 0
        self.sockets: set[EventsIn] = set()
        self._doors: OrderedDict[str, Door] = OrderedDict()
        self._of_flow_run: dict[str, str] = {}
        self._rpcs: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="prefect-coiled-forwarder", daemon=True)
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
                (r"/([0-9a-f]+)(/events/in)", EventsIn, {"forwarder": self}),
                (r"/([0-9a-f]+)(/.*)", Requests, {"forwarder": self}),
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
        address, connection = worker.scheduler.address, worker.security.get_connection_args("worker")

        def scheduler() -> Any:
            if address not in self._rpcs:
                self._rpcs[address] = rpc(address, connection_args=connection)
            return self._rpcs[address]

        with self._lock:
            if relay not in self._doors:
                self._doors[relay] = Door(relay, scheduler)
            self._doors.move_to_end(relay)
            if flow_run_id:
                self._of_flow_run[flow_run_id] = relay
            for old in [name for name, door in list(self._doors.items())[:-_KEPT] if not len(door.events)]:
                del self._doors[old]
            self._of_flow_run = {run: of for run, of in self._of_flow_run.items() if of in self._doors}
        return self.url(relay)

    def door(self, relay: str) -> Door | None:
        """The way of a flow run's tasks, where there is one."""
        return self._doors.get(relay)

    def door_of(self, flow_run_id: str) -> Door | None:
        """The way of a flow run."""
        return self._doors.get(self._of_flow_run.get(flow_run_id, ""))

    def knows(self, authorization: str) -> bool:
        """Whether somebody may ask, by what an HTTP request says."""
        kind, _, said = authorization.partition(" ")
        wanted = base64.b64encode(self.token.encode()).decode() if kind == "Basic" else self.token
        return kind in ("Basic", "Bearer") and is_same(said.strip(), wanted)

    def flush(self, seconds: float) -> bool:
        """Wait until the events of tasks have gone; says whether they have."""
        try:
            return bool(self._run(self._settle(seconds / 2), seconds + 1.0))
        except LateError:
            return False

    async def _settle(self, seconds: float) -> bool:
        drained = [asyncio.ensure_future(socket.drain()) for socket in self.sockets]
        if drained:
            _, late = await asyncio.wait(drained, timeout=seconds)
            for one in late:
                one.cancel()
        doors = list(self._doors.values())
        return all(await asyncio.gather(*(door.events.settle(seconds) for door in doors)))

    def close(self) -> None:
        """Listen no more, and end the thread."""
        self._run(self._stop(), 10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)

    async def _stop(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()
        for door in self._doors.values():
            door.events.close()
        for connections in self._rpcs.values():
            await connections.close_rpc()

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


def flush(seconds: float) -> bool:
    """Wait until the events of tasks of this process have gone; says whether they have."""
    return _here is None or _here.flush(seconds)


def relay_of(url: str) -> str:
    """The relay that an API's address of this process leads to; empty if it is another one."""
    if _here is None:
        return ""
    before = f"http://127.0.0.1:{_here.port}/"
    return url.removeprefix(before).partition("/")[0] if url.startswith(before) else ""


def _past_proxies() -> None:
    """A machine that reaches others by a proxy does not reach itself by it."""
    if not getproxies_environment():
        return
    # Of both spellings only one may be set: a second one with less in it would hide it from some programs.
    for name in [n for n in ("NO_PROXY", "no_proxy") if n in os.environ] or ["NO_PROXY"]:
        held = os.environ.get(name, "")
        # With others beside it, a star means nothing to many.
        if "*" not in map(str.strip, held.split(",")):
            os.environ[name] = f"{held},127.0.0.1" if held else "127.0.0.1"
