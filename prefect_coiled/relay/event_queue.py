"""Events of users' code on their way from a worker: gathered, and sent as few requests.

Prefect sends them by a socket that confirms nothing. Here they wait until the API took them; where they are
too many, whoever sends more waits. One that the API or the relay refuses is told in the worker's log, and
does not keep the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from prefect_coiled.relay.exchange import Answer

logger = logging.getLogger("prefect_coiled.relay")

# Seconds that a batch is gathered for; events and bytes in one.
_GATHER, _BATCH, _BATCH_BYTES = 0.1, 200, 1_000_000
# Events, and bytes of them, that wait.
_MOST, _MOST_BYTES = 10_000, 16_000_000
# Seconds of the pause after an answer that says "later": the first, and the longest.
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class EventQueue:
    """For one flow run; in one event loop.

    Args:
        ask: Asks the API.
    """

    def __init__(self, ask: Callable[[str, str, bytes], Awaitable[Answer]]) -> None:
        self._ask = ask
        self._events: deque[bytes] = deque()
        self._size = 0
        self._changed = asyncio.Condition()
        self._hurry = False
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many have not been taken yet."""
        return len(self._events)

    async def put(self, event: bytes) -> None:
        """Have one sent, once there is room for it."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._events) < _MOST and self._size < _MOST_BYTES)
            self._events.append(event)
            self._size += len(event)
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def settle(self, seconds: float) -> bool:
        """Wait until all have gone; says whether they have."""
        self._hurry = True
        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(lambda: not self._events), seconds)
        except asyncio.TimeoutError:
            return False
        finally:
            self._hurry = False
        return True

    def close(self) -> None:
        """Send no more."""
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        pause = _PAUSE
        try:
            while self._events:
                if not self._hurry and len(self._events) < _BATCH:
                    await asyncio.sleep(_GATHER)
                batch = self._batch()
                if await self._send(batch):
                    await self._forget(len(batch))
                    pause = _PAUSE
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._task = None

    def _batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        for event in self._events:
            size += len(event)
            if len(batch) == _BATCH or (batch and size > _BATCH_BYTES):
                break
            batch.append(event)
        return batch

    async def _send(self, batch: list[bytes]) -> bool:
        """Whether that is done with, taken or refused."""
        status, _, words = await self._ask("POST", "/events", b"[" + b",".join(batch) + b"]")
        if status < 400:
            return True
        if status in (408, 429) or status >= 500:
            return False
        if status != 410 and len(batch) > 1:
            # One of them is refused, and all with it.
            for number, event in enumerate(batch):
                if not await self._send([event]):
                    await self._forget(number)
                    return False
            return True
        logger.warning("%d events were refused (%d): %s", len(batch), status, words.decode(errors="replace"))
        return True

    async def _forget(self, count: int) -> None:
        async with self._changed:
            for _ in range(count):
                self._size -= len(self._events.popleft())
            self._changed.notify_all()
