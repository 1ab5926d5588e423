"""How values are written for a worker, and read there.

While something is being serialised for a worker, a task runner gives its barest state (see `is_shipping`): a
worker needs no account, no keys and no options.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
import distributed
from prefect.client.schemas.objects import State
from prefect.futures import PrefectWrappedFuture
from prefect.utilities.annotations import BaseAnnotation
from prefect_dask.task_runners import PrefectDaskFuture

from prefect_coiled.internals.distributed import adopt
from prefect_coiled.task_runner.by_name import Pickler
from prefect_coiled.task_runner.ended_future import ended_state
from prefect_coiled.task_runner.remote_result import as_it_is, is_remote, with_result_here

_local = threading.local()
# Bytes from which on a value goes apart from the call that it belongs to, once a worker.
LARGE = 100_000


def is_shipping() -> bool:
    """Whether this thread is serialising something for a worker."""
    return bool(getattr(_local, "shipping", False))


@contextmanager
def _shipping() -> Iterator[None]:
    before = is_shipping()
    _local.shipping = True
    try:
        yield
    finally:
        _local.shipping = before


def dumps(value: Any) -> bytes:
    """Serialise a value for a worker."""
    buffer = io.BytesIO()
    with _shipping():
        Pickler(buffer).dump(value)
    return buffer.getvalue()


@dataclass
class Packed:
    """A value as it is sent.

    Attributes:
        data: What `unpack` reads.
        futures: Those of which it needs the results, in order: Dask's or Prefect's.
        held: Dask's futures that stay futures. They are to be held as long as the value is in use.
    """

    data: bytes
    futures: list[Any]
    held: list[distributed.Future]


def pack(
    value: Any,
    client: Any = None,
    place: Callable[[Any], distributed.Future | None] = lambda value: None,
) -> Packed:
    """Serialise a value whose parts may be futures.

    The futures are left out, for Dask to put their results in: wherever they sit, also where Dask
    does not look, such as in dataclasses and in Prefect's annotations (`allow_failure` is a tuple
    to Dask, which would come out as a bare one). Those of a Dask collection stay futures: a task that is
    given one computes on all workers, and not on data that was brought to its own.

    Args:
        client: Sends the value. What belongs to another one, or to another kind of task runner, is waited
            for and goes as the state that it came to.
        place: Gives the future of a value that is to travel apart; None for all others.
    """
    buffer = io.BytesIO()
    with _shipping():
        packer = _Packer(buffer, client, place)
        packer.dump(value)
    return Packed(buffer.getvalue(), packer.futures, packer.held)


def unpack(data: bytes, results: Sequence[Any]) -> Any:
    """Undo `pack`, with the results of the futures in their places."""
    unpacker = _Unpacker(io.BytesIO(data))
    unpacker.results = results
    return unpacker.load()


class _Packer(Pickler):
    def __init__(
        self,
        file: io.BytesIO,
        client: Any,
        place: Callable[[Any], distributed.Future | None],
        in_collection: bool = False,
    ) -> None:
        super().__init__(file)
        self.futures: list[Any] = []
        self.held: list[distributed.Future] = []
        self._client, self._place, self._in_collection = client, place, in_collection

    def persistent_id(self, value: Any) -> int | None:
        future = None if type(value) in _PLAIN else self._future_of(value)
        if future is None:
            return None
        self.futures.append(future)
        return len(self.futures) - 1

    def _future_of(self, value: Any) -> Any:
        """What gives a value on the worker; None if it is written itself."""
        if isinstance(value, State):
            # The state of a task that ran here: its result is where it was made.
            future = getattr(value.data, "remote_future", None)
            return future if future is not None and self._is_at_hand(future) else None
        if isinstance(value, PrefectDaskFuture):
            # One that was never sent raises why.
            never_sent = getattr(value, "failure", None) is not None
            return value if never_sent or self._is_at_hand(value.wrapped_future) else None
        if isinstance(value, distributed.Future):
            if not self._in_collection:
                return value
            self.held.append(value)
            return None
        return None if _is_collection(value) else self._place(value)

    def _is_at_hand(self, future: distributed.Future) -> bool:
        """Whether the scheduler knows a future as one of this client's."""
        if self._client is None:
            return True
        # One that was lost with its worker is known too, and made again.
        return future.client is self._client and future.status != "cancelled"

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, BaseAnnotation):
            # Plain pickling wraps what an annotation holds into one more tuple.
            return type(value), (value.unwrap(),)
        if isinstance(value, PrefectWrappedFuture):
            return as_it_is, (ended_state(value),)
        if isinstance(value, State) and is_remote(value):
            return as_it_is, (with_result_here(value),)
        if not self._in_collection and _is_collection(value):
            buffer = io.BytesIO()
            inner = _Packer(buffer, self._client, self._place, in_collection=True)
            inner.dump(value)
            self.held += inner.held
            return _collection, (buffer.getvalue(), inner.futures)
        return super().reducer_override(value)


_PLAIN = frozenset({int, float, str, bool, type(None), dict, list, tuple, set, type})


def _is_collection(value: Any) -> bool:
    # By its type first: to ask a value anything is the users' code.
    return hasattr(type(value), "__dask_graph__") and dask.is_dask_collection(value)


def _collection(data: bytes, results: Sequence[Any]) -> Any:
    """On a worker: a Dask collection, whose futures are its client's."""
    collection = unpack(data, results)
    adopt(distributed.futures_of(collection))
    return collection


class _Unpacker(pickle.Unpickler):
    results: Sequence[Any]

    def persistent_load(self, index: int) -> Any:
        return self.results[index]
