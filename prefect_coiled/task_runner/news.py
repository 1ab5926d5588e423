"""The news that a task run has ended, from the worker to who submitted it, ahead of its result.

A worker tells it by a topic of Dask's: some 200 bytes for each task, in the stream that the worker has with
the scheduler anyway. So waiting for a task, and its state, move no result. One that is plain and tiny comes
along with the news.

    worker: tell ─▶ scheduler ─▶ client: News ─▶ the future
"""

from __future__ import annotations

import datetime
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from sys import intern
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from prefect.client.schemas.objects import TERMINAL_STATES, State, StateDetails, StateType
from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]

from prefect_coiled.task_runner.event_batches import encodable

PREFIX = "prefect-coiled-"

# Bytes of a result that comes along.
_TINY = 1_000
_WHOSE = frozenset({"flow_run_id", "task_run_id"})
_SCALARS = (bool, int, float, str, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task run ended, as its worker tells it.

    Attributes:
        at: When, in seconds of UTC.
        result: The result, pickled; None where that is with the worker.
        again: Whether it may be run again if its result is lost.
        persisted: Where its result is kept, as JSON, if it is.
        transaction: What its part of a transaction came to, pickled, if it ran in one.
        details: What the state says of itself beside whose it is, as JSON, if anything.
    """

    kind: str
    name: str
    message: str | None
    at: float
    state_id: str
    result: bytes | None
    worker: str
    again: bool = False
    persisted: bytes | None = None
    transaction: bytes | None = None
    details: str | None = None

    @property
    def final(self) -> bool:
        """Whether the state is a last one: a run that waits for others in vain has none."""
        return StateType(self.kind) in TERMINAL_STATES

    @property
    def completed(self) -> bool:
        """Whether the task run is Completed."""
        return self.kind == StateType.COMPLETED.value

    def known_result(self) -> tuple[bool, Any]:
        """Whether the result came along; and the result, made anew each time."""
        known = self.completed and self.result is not None
        return known, pickle.loads(self.result or b"") if known else None

    def with_metadata(self) -> State[Any]:
        """The state, with where its result is kept."""
        assert self.persisted is not None
        state = self.state()
        state.data = ResultRecordMetadata.load_bytes(self.persisted)
        return state

    def state(self) -> State[Any]:
        """The state, without its data."""
        known = {"state_details": StateDetails.model_validate_json(self.details)} if self.details else {}
        return State(
            **known,
            id=UUID(self.state_id),
            type=StateType(self.kind),
            name=self.name,
            message=self.message,
            timestamp=datetime.datetime.fromtimestamp(self.at, datetime.timezone.utc),
        )


def tell(
    worker: Any,
    topic: str,
    run: UUID,
    state: State[Any],
    again: bool = False,
    transaction: bytes | None = None,
) -> None:
    """On a worker: say that a task run has ended.

    Args:
        topic: Who is to know it, as the call says.
        again: Whether it may be run again if its result is lost.
        transaction: What its part of a transaction came to.
    """
    record = state.data if isinstance(state.data, ResultRecord) else None
    persisted = record.serialize_metadata() if record is not None and record.is_persisted else None
    news = [
        run.bytes,
        worker.get_current_task(),
        state.type.value,
        encodable(state.name or ""),
        encodable(state.message),
        state.timestamp.timestamp(),
        str(state.id),
        _tiny(state),
        worker.address,
        again,
        persisted,
        transaction,
        _details(state),
    ]
    worker.log_event(topic, news)


def _details(state: State[Any]) -> str | None:
    """Such as the span in which it came about. Most have none: to look costs less than to write JSON."""
    details = state.state_details
    said = {n for n in details.model_fields_set - _WHOSE if getattr(details, n) not in (None, False)}
    return details.model_dump_json(include=said) if said else None


def _tiny(state: State[Any]) -> bytes | None:
    if not state.is_completed() or not isinstance(state.data, ResultRecord):
        return None
    result = state.data.result
    if not _is_plain(result, 2):
        return None
    data = pickle.dumps(result, protocol=5)
    return data if len(data) <= _TINY else None


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in (str, bytes):
        return len(value) <= _TINY
    if kind in _SCALARS:
        return True
    if depth and kind in (list, tuple) and len(value) <= _TINY // 10:
        return all(_is_plain(part, depth - 1) for part in value)
    if depth and kind is dict and len(value) <= _TINY // 10:
        return all(_is_plain(part, depth - 1) for pair in value.items() for part in pair)
    return False


class News:
    """The client's side: gives each ending to the future that stands for the run.

    Args:
        space: Where the flow run's things are kept (see `store`): both are forgotten together.
    """

    def __init__(self, client: Any, space: str) -> None:
        self.topic = f"{PREFIX}{space}"
        self._futures: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
        #: What ended on each worker: the task and how. A worker that dies may not have told the API.
        self.ended: dict[str, dict[UUID, tuple[Any, Ending]]] = {}
        self._lock = threading.Lock()
        self._client = client
        client.subscribe_topic(self.topic, self._arrived)

    def close(self) -> None:
        """Listen no more."""
        self.ended.clear()  # Dask's client keeps this object for as long as it lives
        self._client.unsubscribe_topic(self.topic)

    def expect(self, run: UUID, future: Any) -> None:
        """Give the ending of a run to a future, by its `note`; it is not held for that."""
        with self._lock:
            self._futures[run.bytes] = future

    def _arrived(self, event: tuple[float, Any]) -> None:
        run, _, kind, name, *rest = event[1]
        with self._lock:
            future = self._futures.pop(bytes(run), None)
            if future is not None:
                # Of many endings most words are the same.
                told = Ending(intern(kind), intern(name), *rest)
                self.ended.setdefault(told.worker, {})[future.task_run_id] = future.task, told
        if future is not None:
            note: Callable[[Ending], None] = future.note
            note(told)
