"""The flow's half of the relay: takes what tasks ask from the scheduler, and gives the answers back.

    opened, once there is a cluster ─▶ take, answer, give ... ─▶ closed, with the cluster's client

Runs in a thread and an event loop of its own, beside the flow, with connections of its own to the scheduler:
a flow that blocks Dask's loop, or its own, does not keep its tasks from the API.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from concurrent.futures import TimeoutError as LateError
from contextlib import suppress
from contextvars import copy_context
from typing import Any
from uuid import UUID, uuid4

from distributed.core import rpc
from prefect.client.orchestration import get_client

from prefect_coiled.relay.answering import Answering
from prefect_coiled.relay.cloud_events import stream
from prefect_coiled.relay.exchange import Answer, Asked, Exchange
from prefect_coiled.relay.needs import LARGEST
from prefect_coiled.relay.ownership import Own

logger = logging.getLogger("prefect_coiled.relay")

# Requests to the API at a time: as many as Prefect's client has connections.
_AT_ONCE = 16
# Requests that are taken, with those that wait for their turn: more are taken once so few are left.
_MOST, _FEW = 4 * _AT_ONCE, 2 * _AT_ONCE
# Seconds that one may wait for its turn. Who asked may have given up then.
_STALE = 5.0
# Seconds of a take, and after which its connection counts as broken.
_TAKE, _BROKEN = 10.0, 25.0
# Seconds of the pause after a scheduler that cannot be reached: the first, and the longest.
_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# Seconds for what is under way when it is closed.
_LAST = 2.0


class Relay:
    """Answers the tasks of one flow run, from `open` to `close`.

    Args:
        own: What its tasks may name.
    """

    def __init__(self, own: Own) -> None:
        self.id = uuid4().hex
        self.own = own
        self._owner = secrets.token_urlsafe(32)
        self._client = ""
        self._loop = asyncio.new_event_loop()
        self._over, self._changed = asyncio.Event(), asyncio.Event()
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._answering: Answering | None = None
        # What was taken, and what is not given back yet.
        self._have: set[str] = set()
        self._under_way: set[asyncio.Task[None]] = set()
        self._answers: list[tuple[str, Answer]] = []

    @property
    def counts(self) -> dict[str, int]:
        """Requests that were answered and refused."""
        return dict(self._answering.counts) if self._answering is not None else {}

    def task_run(self, id_: UUID) -> None:
        """A task run that the flow has submitted: the API does not have to be asked whose it is."""
        self.own.task_runs.update([id_])

    def open(self, client: Any) -> None:
        """Answer from now on; returns once tasks may ask.

        Args:
            client: A Dask client, connected.

        Raises:
            Exception: The scheduler does not take it, or Prefect's client cannot be made.
        """
        client.register_plugin(Exchange())
        address, connection = client.scheduler.address, client.security.get_connection_args("client")
        self._client = client.id
        # Prefect's settings, its key among them, are those of the context in which this is opened.
        context = copy_context()
        self._thread = threading.Thread(
            target=context.run,
            args=(self._run, address, connection),
            name="prefect-coiled-relay",
            daemon=True,
        )
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End: what is asked from now on is told that the flow run is over."""
        if self._thread is None:
            return
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(2 * _LAST + 5.0)

    def _run(self, address: str, connection: dict[str, Any]) -> None:
        try:
            self._loop.run_until_complete(self._serve(address, connection))
        except BaseException as error:  # told to who opens it; afterwards there is the log
            if self._ready.is_set():
                logger.exception("Tasks are cut off from the Prefect API.")
            self._failure = error
        finally:
            self._ready.set()
            with suppress(LateError):
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self, address: str, connection: dict[str, Any]) -> None:
        # With settings of its own it is not the flow run's client, which ends with the flow.
        async with get_client(httpx_settings={}) as client:
            scheduler = rpc(address, connection_args=connection)
            self._answering = Answering(client, self.own, stream)
            # The first one opens the relay.
            await self._take(scheduler, 0.0)
            self._ready.set()
            taking = asyncio.create_task(self._taking(scheduler))
            giving = asyncio.create_task(self._giving(scheduler))
            await self._over.wait()
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            await self._finish()
            self._changed.set()
            await asyncio.wait([giving], timeout=_LAST)
            giving.cancel()
            with suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(scheduler.relay_close(relay=self.id, owner=self._owner), _LAST)
                await scheduler.close_rpc()

    async def _taking(self, scheduler: Any) -> None:
        pause = _PAUSE
        while True:
            try:
                room = await self._room()
                # Where there is none, to be heard of: who is away for long is not waited for.
                if not await self._take(scheduler, _TAKE if room else 0.0, room):
                    # Another one with that id: this one was away for so long that it was given up, and the
                    # next call opens it anew.
                    await asyncio.sleep(pause)
                pause = _PAUSE
            except Exception as error:  # whatever it is, tasks wait, and the next one may do
                logger.debug("The scheduler gave nothing to ask: %r", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _room(self) -> int:
        """How many more requests may be taken, once there are few here; after a while in any case."""
        until = time.monotonic() + _TAKE
        while len(self._under_way) > _FEW and (left := until - time.monotonic()) > 0:
            await asyncio.wait(self._under_way, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return max(_MOST - len(self._under_way), 0)

    async def _take(self, scheduler: Any, seconds: float, most: int = 0) -> bool:
        call = scheduler.relay_take(
            relay=self.id,
            owner=self._owner,
            client=self._client,
            have=sorted(self._have),
            most=most,
            seconds=seconds,
        )
        taken = await asyncio.wait_for(call, seconds + _BROKEN - _TAKE)
        for id_, asked in taken or ():
            if id_ not in self._have:
                self._have.add(id_)
                task = asyncio.create_task(self._answer(id_, asked))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        return taken is not None

    async def _answer(self, id_: str, asked: Asked) -> None:
        assert self._answering is not None
        taken = time.monotonic()
        async with self._free:
            if time.monotonic() - taken > _STALE and not self._over.is_set():
                # It is taken again, if anybody still waits for it.
                self._have.discard(id_)
                return
            answer = await self._answering.answer(asked)
        self._answers.append((id_, answer))
        self._changed.set()

    async def _giving(self, scheduler: Any) -> None:
        pause = _PAUSE
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._answers:
                some = self._some()
                try:
                    call = scheduler.relay_give(relay=self.id, owner=self._owner, answers=some)
                    await asyncio.wait_for(call, _BROKEN)
                except Exception as error:  # likewise
                    logger.debug("The scheduler took no answers: %r", error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    continue
                pause = _PAUSE
                del self._answers[: len(some)]
                self._have.difference_update(id_ for id_, _ in some)
            if self._over.is_set() and not self._under_way:
                return

    def _some(self) -> list[tuple[str, Answer]]:
        """Answers for one message."""
        size = 0
        for number, (_, answer) in enumerate(self._answers):
            size += len(answer[2])
            if number and size > LARGEST:
                return self._answers[:number]
        return list(self._answers)

    async def _finish(self) -> None:
        """See what is under way to its end, for a while."""
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=_LAST)
        for task in list(self._under_way):
            task.cancel()
