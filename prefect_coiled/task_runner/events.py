"""Sends the states of task runs to the Prefect API in batches, beside the tasks, and sees that they arrive.

The API takes a task run's states as events. Prefect sends them one by one over a socket that confirms
nothing, and a server whose queue is full drops them. Here they are kept until the API shows each run's end:

    a task ─▶ add ─▶ batch ─▶ POST /events ─▶ in flight ─▶ "how many of these have ended?" ─▶ forgotten

What runs is told first, then the ends, and last, when the API has those, what the runs were before: the API
knows sooner which have ended, and all of it in the end.

How many states may be in flight follows from how fast the API records them. What seems lost goes again: the
API takes an event twice as once, and an older state never replaces a newer one. Each costs it time though, so
nothing goes twice that may only be waiting there: a server works through its events in their order.

A process has one `Outbox` for each flow run and its settings. Knows nothing of Dask.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context

import orjson
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.logging import get_logger

from prefect_coiled.internals.api_errors import without_user
from prefect_coiled.task_runner.event_batches import Batch, Event, Flight, Waiting
from prefect_coiled.task_runner.event_requests import missing, send

logger = get_logger("prefect_coiled.task_runner.events")

# Events in a request: about 300 KB.
_BATCH = 100
# Seconds that a batch is gathered for. In a flood, of so many events in that time, it is as long as it lasts,
# and so many seconds at most: a server on the machine of the flow would take its cores meanwhile.
_GATHER, _FLOOD, _LONGEST_FLOOD = 0.1, 10, 2.0
# Events in flight: at first, at least and at most. A server's queue holds 10,000 by default.
_WINDOW, _LEAST, _MOST = 200, 100, 5_000
# Seconds between two questions, and without anything recorded after which the oldest goes again.
_ASK, _AGAIN = 1.0, 45.0
# What was sent so many seconds before something that is recorded, and is not recorded itself, was lost.
_OVERTAKEN = 10.0
# Seconds from sending to recorded up to which the API can take more, and above which it gets less at once.
_QUICK, _SLOW = 3.0, 8.0
# For how long what runs were before may have to wait for the ends of others.
_PATIENCE = 30.0
# How often a batch goes before its runs are given up: those of a flow run that somebody deleted, say.
_TIMES = 5
# Seconds without anything to do after which the thread ends; the next event starts another.
_IDLE = 30.0
# Seconds of the pause after an API that does not answer: the first, and the longest.
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class Outbox:
    """Sends events from a thread of its own, in the context that it was made with.

    Args:
        context: Holds the settings of the API to send to. It is entered by the thread alone.
        related: Gives the resources that every event is related to; called once, in the context.
    """

    def __init__(self, context: Context, related: Callable[[], list[dict[str, str]]] = list) -> None:
        self._context, self._related = context, related
        self._resources: list[bytes] | None = None
        self._waiting = Waiting()
        self._flights: deque[Flight] = deque()
        self._window = _WINDOW
        # Whether something had to wait since it was changed last.
        self._full = False
        # When something was recorded last, and when what was recorded had been sent.
        self._progress = self._newest = 0.0
        self._changed = threading.Condition()
        self._busy = False
        self._hurry = False
        self._gathered_since = self._added = 0.0
        # Since when there is something that says what runs were before.
        self._past_since = 0.0
        self._thread: threading.Thread | None = None
        #: Requests made, by kind: for tests, and for who wonders what a flow run costs its API.
        self.requests = {"events": 0, "questions": 0}

    def __len__(self) -> int:
        """How many events are not known to be recorded."""
        with self._changed:
            return len(self._waiting) + sum(len(flight.events) for flight in self._flights)

    def add(self, events: Iterable[Event]) -> None:
        """Have events sent, in their order; returns at once."""
        with self._changed:
            before = len(self._waiting)
            self._added = time.monotonic()
            for event in events:
                self._put(event)
            self._wake()
            # Whoever gathers a batch is not woken for each event.
            if not before or before < _BATCH <= len(self._waiting):
                self._changed.notify_all()

    def take(self, batches: Iterable[Batch]) -> None:
        """See to what another outbox handed over: send what it did not, and watch over what it did."""
        now = time.monotonic()
        with self._changed:
            for batch in batches:
                if batch.age is None:
                    for event in batch.events:
                        self._put(event, batch.past)
                else:
                    self._flights.append(Flight(batch.events, max(now - batch.age, 1e-3), times=1))
            self._flights = deque(sorted(self._flights, key=lambda flight: flight.sent or now))
            if self._waiting or self._flights:
                self._wake()
            self._changed.notify_all()

    def _put(self, event: Event, past: bool = False) -> None:
        before = self._waiting.past
        self._waiting.put(event, past)
        if not before and self._waiting.past:
            self._past_since = time.monotonic()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prefect-coiled-events", daemon=True)
            self._thread.start()

    def settle(self, timeout: float) -> bool:
        """Wait until all is recorded, at most `timeout` seconds; say whether it is."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            try:
                while self._waiting or self._flights:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    self._changed.wait(min(left, 1.0))
            finally:
                self._hurry = False
        return True

    def hand_over(self, timeout: float = 10.0) -> list[Batch]:
        """Give away all that is not known to be recorded, to who will see to it.

        Args:
            timeout: Seconds to wait for a request that is under way.

        Returns:
            Batches for `take`.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._busy and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, 1.0))
            now = time.monotonic()
            batches = [Batch(f.events, now - f.sent if f.sent else None) for f in self._flights]
            if urgent := self._waiting.take(len(self._waiting)):
                batches.append(Batch(urgent))
            if past := self._waiting.take_past(len(self._waiting)):
                batches.append(Batch(past, past=True))
            self._flights.clear()
            self._changed.notify_all()
        return batches

    # The thread

    def _run(self) -> None:
        self._context.copy().run(self._work)

    def _work(self) -> None:
        pause = _PAUSE
        client: SyncPrefectClient | None = None
        while flight := self._next():
            try:
                if client is None:
                    # With settings of its own it is not the flow run's, which ends with the flow.
                    client = get_client(httpx_settings={}, sync_client=True)
                    client.__enter__()
                if flight.sent:
                    self._ask(client, flight)
                else:
                    self._send(client, flight)
                pause = _PAUSE
            except Exception as error:  # whatever it is, what was to be sent is kept, and goes later
                logger.debug("The Prefect API took no events: %s", without_user(str(error)))
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        if client is not None:
            client.__exit__(None, None, None)

    def _next(self) -> Flight | None:
        """Wait for a flight to send or to ask about; None after a time without any."""
        idle_until = time.monotonic() + _IDLE
        with self._changed:
            while True:
                flight, seconds = self._choose()
                if flight is not None:
                    self._busy = True
                    return flight
                if not self._flights and not self._waiting and time.monotonic() > idle_until:
                    self._thread = None
                    return None
                self._changed.wait(seconds)

    def _choose(self) -> tuple[Flight | None, float]:
        """What to do now; or nothing, and for how many seconds."""
        unsent = next((flight for flight in self._flights if not flight.sent), None)
        if unsent is not None:
            return unsent, 0.0
        now = time.monotonic()
        room = sum(len(flight.events) for flight in self._flights) < self._window
        self._full |= not room and bool(self._waiting)
        urgent, seconds = self._waiting.urgent, _IDLE
        if room and urgent:
            self._gathered_since = self._gathered_since or now
            seconds = self._gathered_since + self._gather_for(now, urgent) - now
            if seconds <= 0 or self._hurry:
                if urgent <= _BATCH:
                    self._gathered_since = 0.0
                return self._launched(self._waiting.take(_BATCH)), 0.0
            seconds = min(seconds, _GATHER)
        if room and self._waiting.past and self._is_turn_of_past(now):
            return self._launched(self._waiting.take_past(_BATCH)), 0.0
        if not self._flights:
            return None, seconds
        oldest = self._flights[0]
        left = max(oldest.sent, oldest.asked) + (_ASK / 4 if self._hurry else _ASK) - now
        return (oldest, 0.0) if left <= 0 else (None, min(left, seconds))

    def _gather_for(self, now: float, urgent: int) -> float:
        """Seconds from the first event of a batch until it goes."""
        lasts = urgent >= _FLOOD and now - self._added < _GATHER
        return _LONGEST_FLOOD if lasts else 0.0 if urgent >= _BATCH else _GATHER

    def _launched(self, events: list[Event]) -> Flight:
        # In flight before it is sent: nobody who looks meanwhile misses it.
        self._flights.append(Flight(events))
        return self._flights[-1]

    def _is_turn_of_past(self, now: float) -> bool:
        """Whether what runs were before may go: another process may have ends that the API takes first."""
        if not self._waiting.urgent and (self._hurry or not any(flight.ended for flight in self._flights)):
            return True
        return now - self._past_since > _PATIENCE

    def _send(self, client: SyncPrefectClient, flight: Flight) -> None:
        if self._resources is None:
            self._resources = [orjson.dumps(resource) for resource in self._related()]
        self.requests["events"] += 1
        send(client, flight.events, self._resources)
        flight.sent, flight.times = time.monotonic(), flight.times + 1

    def _ask(self, client: SyncPrefectClient, flight: Flight) -> None:
        """Forget what the API shows, from the oldest flight on; send again what is lost."""
        self.requests["questions"] += 1
        age = time.monotonic() - flight.sent
        left = missing(client, flight)
        now = flight.asked = time.monotonic()
        with self._changed:
            if left < (flight.total if flight.missing is None else flight.missing):
                self._progress = now
            flight.missing = left
            if not left:
                self._forget(flight)
                self._newest = max(self._newest, flight.sent)
                if age < _QUICK and self._full:
                    self._window, self._full = min(2 * self._window, _MOST), False
                elif age > _SLOW:
                    self._window = max(self._window // 2, _LEAST)
            elif not self._is_lost(flight, now):
                return
            elif flight.times == _TIMES:
                self._forget(flight)
                logger.error("The Prefect API does not record %d states of task runs", left)
            else:
                logger.debug("%d states are not recorded after %.0f s: sent again", left, age)
                self._window = max(self._window // 2, _LEAST)
                flight.sent = 0.0

    def _is_lost(self, flight: Flight, now: float) -> bool:
        """Whether the API will not record it any more, as far as can be told."""
        overtaken = self._newest - flight.sent > _OVERTAKEN
        return overtaken or now - max(flight.sent, self._progress) > _AGAIN

    def _forget(self, flight: Flight) -> None:
        if flight in self._flights:
            self._flights.remove(flight)
