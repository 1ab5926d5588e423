"""Where requests wait for the flow's process: in the scheduler, in memory, for seconds.

    a worker: relay_ask ─▶ waits here ─▶ relay_take: the flow's process ─▶ the API
                       ◀─ the answer  ◀─ relay_give                     ◀─

Workers and clients reach the scheduler anyway, each by its own certificate; nobody listens anywhere else. A
request stays here until it is answered, so that one that was taken and got lost on its way is taken again:
who takes says each time what he has. Who has been away too long is not waited for: what is asked of him is
answered in words, with a time after which Prefect's client asks again.

What is asked faster than the API answers is given up here: who takes says how many, and gets none that nobody
would wait for until there is an answer.

Runs in the scheduler. Each worker has few requests under way, which bounds what waits.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

#: A request on its way: method, path and query, body.
Asked = tuple[str, str, bytes]
#: An answer on its way: status, headers, body.
Answer = tuple[int, dict[str, str], bytes]

# The part of an asker's time that has to be left for who takes to answer in.
_LEFT = 0.2
# Bytes of bodies in one take; one that is larger goes alone.
_TAKEN_BYTES = 16_000_000
# Answers that are kept for who was cut off, each of how many bytes at most, and for how many seconds.
_KEPT, _KEPT_BYTES, _KEPT_SECONDS = 64, 250_000, 60.0
# Seconds without a take after which who asks is told so at once; and after which it is over.
_AWAY, _GONE = 240.0, 900.0

OVER = "The flow run that this task belonged to has ended: nobody asks the Prefect API for it any more."
_ABSENT = (
    "The process that runs the flow has not been heard of for {away:.0f} s. It asks the Prefect API for the"
    " tasks: it may sleep, have lost the network, or be gone."
)
_BUSY = "The process that runs the flow did not answer in {seconds:.0f} s, or has too much to ask already."


@dataclass(eq=False)
class _Waiting:
    asked: Asked
    answer: asyncio.Future[Answer]
    #: Until when it is worth taking.
    until: float = 0.0
    askers: int = 0


@dataclass(eq=False)
class _Box:
    """What waits for one flow run's process.

    Attributes:
        owner: A hash of what who takes knows.
        client: The Dask client of that process.
        seen: When it was heard of last.
        left: Whether Dask has lost its client.
        taken: What who takes has.
        asked: Set when there is something to take, or it is over.
    """

    owner: str
    client: str = ""
    seen: float = field(default_factory=lambda: time.monotonic())
    left: bool = False
    takes: int = 0
    waiting: OrderedDict[str, _Waiting] = field(default_factory=OrderedDict)
    taken: set[str] = field(default_factory=set)
    answered: OrderedDict[str, tuple[float, Answer]] = field(default_factory=OrderedDict)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    @property
    def away(self) -> float:
        """For how many seconds who takes has not been heard of."""
        return 0.0 if self.takes and not self.left else time.monotonic() - self.seen

    @property
    def absent(self) -> bool:
        """Whether nobody is to be waited for."""
        return self.left or self.away > _AWAY

    def drop(self, id_: str) -> None:
        """Let nobody take a request any more."""
        self.waiting.pop(id_, None)
        self.taken.discard(id_)


class Exchange(SchedulerPlugin):
    """Lets workers ask, and the processes of flows answer."""

    name = "prefect-coiled-relay"
    idempotent = True

    def __init__(self) -> None:
        self._boxes: dict[str, _Box] = {}

    def __reduce__(self) -> Any:
        return Exchange, ()

    async def start(self, scheduler: Any) -> None:
        """Have the scheduler take these calls."""
        scheduler.handlers.update(
            relay_ask=self.ask, relay_take=self.take, relay_give=self.give, relay_close=self.close_relay
        )

    async def ask(
        self, comm: Any = None, relay: str = "", id: str = "", asked: Any = (), seconds: float = 30.0
    ) -> Answer:
        """For a worker: ask, and wait for the answer.

        Args:
            relay: The flow run's relay.
            id: What tells this request from others; asked again with the same, it is asked once.
            asked: Method, path and query, body.
            seconds: How long to wait.
        """
        box = self._boxes.get(relay)
        if box is None or box.over:
            return 410, {}, OVER.encode()
        if id in box.answered:
            return box.answered[id][1]
        waiting = box.waiting.get(id)
        if waiting is None:
            if box.absent:
                return self._absent(relay, box)
            method, target, body = asked
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            waiting = box.waiting[id] = _Waiting((method, target, body), answer)
        waiting.until = max(waiting.until, time.monotonic() + (1 - _LEFT) * seconds)
        box.asked.set()
        waiting.askers += 1
        try:
            done, _ = await asyncio.wait([waiting.answer], timeout=seconds)
        finally:
            waiting.askers -= 1
            if not waiting.askers and box.waiting.get(id) is waiting:
                # Nobody waits for it any more; what was taken may have been done.
                box.drop(id)
        if done:
            return waiting.answer.result()
        return self._absent(relay, box) if box.absent else _later(_BUSY.format(seconds=seconds))

    def _absent(self, relay: str, box: _Box) -> Answer:
        away = box.away
        if away > _GONE:
            self._boxes.pop(relay, None)
        return _later(_ABSENT.format(away=away))

    async def take(
        self,
        comm: Any = None,
        relay: str = "",
        owner: str = "",
        client: str = "",
        have: Any = (),
        most: int = 16,
        seconds: float = 10.0,
    ) -> list[tuple[str, Asked]] | None:
        """For the process of a flow: what is asked, once there is something; the first call opens the relay.

        Args:
            owner: What proves that the caller is who opened it.
            client: The caller's Dask client.
            have: What the caller has taken and not given an answer to: all else that was taken got lost.
            most: How many requests at most.
            seconds: How long to wait for something.

        Returns:
            Requests with their ids; none after the time; None if it is over.
        """
        box = self._boxes.get(relay)
        if box is None:
            # Of processes that were killed, whose tasks ask no more, nobody else takes note.
            for name in [name for name, other in self._boxes.items() if other.away > _GONE]:
                del self._boxes[name]
            box = self._boxes[relay] = _Box(_hash(owner), client)
        if not _owns(box, owner) or box.over:
            return None
        box.left = False
        box.taken = set(have)
        until = time.monotonic() + seconds
        box.takes += 1
        try:
            while not box.over:
                box.asked.clear()
                found = self._untaken(box, most)
                if found or not await _is_set(box.asked, until - time.monotonic()):
                    return found
        finally:
            box.takes -= 1
            box.seen = time.monotonic()
        return None

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Called by Dask when it has lost a client: who waits for that process is not to wait any longer."""
        for box in self._boxes.values():
            if box.client and box.client == client:
                box.left = True
                words = _ABSENT.format(away=box.away)
                for waiting in box.waiting.values():
                    if not waiting.answer.done():
                        waiting.answer.set_result(_later(words))

    @staticmethod
    def _untaken(box: _Box, most: int) -> list[tuple[str, Asked]]:
        found: list[tuple[str, Asked]] = []
        size, now = 0, time.monotonic()
        for id_, waiting in box.waiting.items():
            if len(found) >= most:
                break
            if id_ in box.taken or waiting.answer.done() or waiting.until < now:
                continue
            size += len(waiting.asked[2])
            if found and size > _TAKEN_BYTES:
                break
            box.taken.add(id_)
            found.append((id_, waiting.asked))
        return found

    async def give(self, comm: Any = None, relay: str = "", owner: str = "", answers: Any = ()) -> bool:
        """For the process of a flow: the answers to what it took.

        Args:
            answers: Id, and status, headers and body, of each.
        """
        box = self._boxes.get(relay)
        if box is None or not _owns(box, owner):
            return False
        now = box.seen = time.monotonic()
        for id_, answer in answers:
            waiting = box.waiting.get(id_)
            if waiting is not None and not waiting.answer.done():
                waiting.answer.set_result((int(answer[0]), dict(answer[1]), answer[2]))
                if len(answer[2]) <= _KEPT_BYTES:
                    box.answered[id_] = now, waiting.answer.result()
            box.drop(id_)
        while len(box.answered) > _KEPT or (box.answered and _oldest(box) < now - _KEPT_SECONDS):
            box.answered.popitem(last=False)
        return True

    async def close_relay(self, comm: Any = None, relay: str = "", owner: str = "") -> None:
        """For the process of a flow: it is over; what waits is told so."""
        box = self._boxes.get(relay)
        if box is None or not _owns(box, owner):
            return
        del self._boxes[relay]
        box.over = True
        box.asked.set()
        for waiting in box.waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_result((410, {}, OVER.encode()))


def _later(words: str) -> Answer:
    """Prefect's client asks again after such an answer: https://docs.prefect.io/v3/api-ref/settings-ref."""
    return 503, {"Retry-After": "2"}, words.encode()


def _hash(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()


def _owns(box: _Box, owner: str) -> bool:
    return hmac.compare_digest(box.owner, _hash(owner))


def _oldest(box: _Box) -> float:
    return next(iter(box.answered.values()))[0]


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event; False if it did not come in that time."""
    if seconds <= 0:
        return False
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True
