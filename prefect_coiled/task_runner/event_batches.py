"""States of task runs on their way to the API: what waits, what has been sent, and in which order it goes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID


def encodable(value: Any) -> Any:
    """A value whose texts no format refuses.

    A file's name that is not UTF-8 has halves of pairs in it, as Python reads it: they are written out.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {encodable(name): encodable(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [encodable(held) for held in value]
    return value


@dataclass(frozen=True)
class Event:
    """A state that a task run has got.

    Attributes:
        state: The state's id, which is the event's too.
        body: The event as JSON, without the resources that it is related to.
        related: How many related resources the event has already.
    """

    run: UUID
    state: UUID
    body: bytes
    final: bool
    related: int = 0


@dataclass(frozen=True)
class Batch:
    """Events that are not known to be recorded, on their way from one outbox to another.

    Attributes:
        age: Seconds since they were sent to the API; None if they were not.
        past: Whether they are what runs were before they ended, and the ends go, or have gone, by themselves.
    """

    events: list[Event]
    age: float | None = None
    past: bool = False


@dataclass(eq=False)
class Flight:
    """Events that go, or have gone, in one request.

    Attributes:
        sent: When they were sent, by the monotonic clock; 0 before.
        asked: When the API was asked about them last.
        missing: How many the API did not show when it was asked last.
    """

    events: list[Event]
    sent: float = 0.0
    asked: float = 0.0
    times: int = 0
    missing: int | None = None

    @property
    def ended(self) -> list[UUID]:
        """The runs whose ends are among them."""
        return list({event.run: None for event in self.events if event.final})

    @property
    def total(self) -> int:
        """How many states the API is asked about: the ends, or else the last one."""
        return len(self.ended) or 1


class Waiting:
    """Events that have not been sent, in the order in which they are to go."""

    def __init__(self) -> None:
        # By run, those of runs that have not ended; the ends; and what went before those.
        self._present: dict[UUID, list[tuple[int, Event]]] = {}
        self._ends: deque[tuple[int, Event]] = deque()
        self._past: deque[tuple[int, Event]] = deque()
        self._numbers = count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def past(self) -> int:
        """How many of them say what a run was before it ended."""
        return len(self._past)

    @property
    def urgent(self) -> int:
        """How many of them say where a run is now."""
        return self._size - self.past

    def put(self, event: Event, past: bool = False) -> None:
        """Have one wait.

        Args:
            past: Whether its run has ended, and the end is known to go by itself.
        """
        entry = next(self._numbers), event
        self._size += 1
        if past:
            self._past.append(entry)
        elif event.final:
            self._past.extend(self._present.pop(event.run, ()))
            self._ends.append(entry)
        else:
            self._present.setdefault(event.run, []).append(entry)

    def take(self, most: int) -> list[Event]:
        """Up to so many of the urgent ones, in the order in which they were put."""
        taken: list[tuple[int, Event]] = []
        while self._present and len(taken) < most:
            taken.extend(self._present.pop(next(iter(self._present))))
        while self._ends and len(taken) < most:
            taken.append(self._ends.popleft())
        return self._taken(taken)

    def take_past(self, most: int) -> list[Event]:
        """Up to so many of those that say what runs were before they ended, the longest waiting first."""
        return self._taken([self._past.popleft() for _ in range(min(most, len(self._past)))])

    def _taken(self, taken: list[tuple[int, Event]]) -> list[Event]:
        self._size -= len(taken)
        return [event for _, event in sorted(taken, key=lambda entry: entry[0])]
