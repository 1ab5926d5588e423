"""`Event`, the one type of what is told, and `Stream`, on which it is told. Nothing is drawn or sent here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from prefect_coiled.records import ClusterRecord, Record, Removal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that happened, or is about to.

    Attributes:
        kind: One of `rows.EVENT_TYPES`, which are kept; or what is shown only: "call" (before it is made) and
            "reply" (after), "step" (progress), "workers" (so many have joined), "dashboard" (its link with
            the token: for terminals alone), "provisioning" (this flow run makes the cluster), "attached",
            "failed", "leaving" (the way down begins), "ended", "examination" (of the doctor), and "server" (a
            temporary one of Prefect's is about to be started).
        text: What was done, for a person; of a step, its state.
        step: The step that it is progress of, such as "network".
        action: The call to AWS, such as "ec2:CreateVpc".
        ids: Ids of machines, or of what the kind names.
        seconds: How long it took.
        level: A level of `logging`.
        reply: What AWS answered.
        of: Workers that there are.
        resources: What the cluster consists of, a row each.
        cost: What it cost, as text.
        spans: How it came up; see `events.spans`.
        at: When it was over, UTC.
        number: The number of the AWS account, where it is known.
        source: The stream that is of one cluster, where it was told on one.
    """

    kind: str
    text: str = ""
    step: str = ""
    action: str = ""
    account: str = ""
    region: str = ""
    cluster: str = ""
    uid: str = ""
    ids: tuple[str, ...] = ()
    seconds: float = 0.0
    level: int = logging.INFO
    error: BaseException | None = None
    reply: Mapping[str, Any] = field(default_factory=dict)
    ready: int = 0
    of: int = 0
    record: ClusterRecord | None = None
    resources: tuple[dict[str, str], ...] = ()
    removal: Removal | None = None
    cost: str = ""
    spans: tuple[Record, ...] = ()
    number: str = ""
    source: Stream | None = field(default=None, compare=False, repr=False)
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


Subscriber = Callable[[Event], None]


class Stream:
    """Tells its subscribers, and then those of the stream in which it was made.

    Attributes:
        of: The name of the cluster that all is about that is told here, empty while it has none; None where
            it may be about several, or about none.
    """

    def __init__(self, parent: Stream | None = None, of: str | None = None) -> None:
        self._parent = parent
        self.of = of
        self._subscribers: list[tuple[Subscriber, bool]] = []

    def subscribe(self, subscriber: Subscriber, *, shows: bool = False) -> None:
        """Have all that is told from now on.

        Args:
            subscriber: Called with each event; it must not wait.
            shows: Whether it shows a person the steps, so that nobody else has to print them.
        """
        self._subscribers.append((subscriber, shows))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Hear nothing more."""
        self._subscribers = [pair for pair in self._subscribers if pair[0] != subscriber]

    def tell(self, event: Event) -> None:
        """Tell everybody. A subscriber's error is in the log, and nowhere else."""
        if event.source is None and (source := self._source()) is not None:
            event = replace(event, source=source)
        for subscriber, _ in self._all():
            try:
                subscriber(event)
            except Exception:  # what is told is the same whoever cannot hear it
                logger.warning("A subscriber failed at %s %s", event.kind, event.step, exc_info=True)

    def enter(self) -> None:
        """Be the stream of the present context, for good."""
        _here.set(self)

    @property
    def subscribers(self) -> tuple[Subscriber, ...]:
        """Who subscribed to this very stream."""
        return tuple(subscriber for subscriber, _ in self._subscribers)

    @property
    def everybody(self) -> tuple[Subscriber, ...]:
        """Everybody who hears what is told here."""
        return tuple(subscriber for subscriber, _ in self._all())

    @property
    def is_shown(self) -> bool:
        """Whether a subscriber shows the steps to a person."""
        return any(shows for _, shows in self._all())

    def _source(self) -> Stream | None:
        if self.of is not None:
            return self
        return self._parent._source() if self._parent is not None else None

    def _all(self) -> list[tuple[Subscriber, bool]]:
        around = self._parent._all() if self._parent is not None else []
        return [*self._subscribers, *around]


# What is told anywhere in this process.
EVERYWHERE = Stream()
_here: ContextVar[Stream] = ContextVar("prefect_coiled_events", default=EVERYWHERE)


def here() -> Stream:
    """The stream of this context."""
    return _here.get()


@contextmanager
def hearing(*subscribers: Subscriber, shows: bool = False) -> Iterator[Stream]:
    """Have what is told in this context inside the block, and in those that are copied from it there."""
    stream = Stream(here())
    for subscriber in subscribers:
        stream.subscribe(subscriber, shows=shows)
    token = _here.set(stream)
    try:
        yield stream
    finally:
        _here.reset(token)


def tell(event: Event) -> None:
    """Tell whoever hears what is told in this context."""
    here().tell(event)


def step(name: str, state: str) -> None:
    """Tell how far a step is."""
    tell(Event("step", state, step=name))


class Watch:
    """Measures the seconds of something."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._begun
