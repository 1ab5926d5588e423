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
from typing import Any

import distributed
from prefect.client.schemas.objects import State
from prefect.utilities.annotations import BaseAnnotation
from prefect_dask.task_runners import PrefectDaskFuture

from prefect_coiled.task_runner.by_name import Pickler

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


def pack(
    value: Any, place: Callable[[Any], distributed.Future | None] = lambda value: None
) -> tuple[bytes, list[Any]]:
    """Serialise a value whose parts may be futures.

    The futures are left out, for Dask to put their results in: wherever they sit, also where Dask
    does not look, such as in dataclasses and in Prefect's annotations (`allow_failure` is a tuple
    to Dask, which would come out as a bare one).

    Args:
        place: Gives the future of a value that is to travel apart; None for all others.

    Returns:
        The bytes, and the futures that `unpack` needs the results of, in order: Dask's or Prefect's.
    """
    buffer = io.BytesIO()
    with _shipping():
        packer = _Packer(buffer, place)
        packer.dump(value)
    return buffer.getvalue(), packer.futures


def unpack(data: bytes, results: Sequence[Any]) -> Any:
    """Undo `pack`, with the results of the futures in their places."""
    unpacker = _Unpacker(io.BytesIO(data))
    unpacker.results = results
    return unpacker.load()


class _Packer(Pickler):
    def __init__(self, file: io.BytesIO, place: Callable[[Any], distributed.Future | None]) -> None:
        super().__init__(file)
        self.futures: list[Any] = []
        self._place = place

    def persistent_id(self, value: Any) -> int | None:
        if type(value) in _PLAIN:
            return None
        if isinstance(value, State):
            # The state of a task that ran here: its result is where it was made.
            value = getattr(value.data, "remote_future", None)
        elif not isinstance(value, (PrefectDaskFuture, distributed.Future)):
            value = self._place(value)
        if value is None:
            return None
        self.futures.append(value)
        return len(self.futures) - 1

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, BaseAnnotation):
            # Plain pickling wraps what an annotation holds into one more tuple.
            return type(value), (value.unwrap(),)
        return super().reducer_override(value)


_PLAIN = frozenset({int, float, str, bool, type(None), dict, list, tuple, set, type})


class _Unpacker(pickle.Unpickler):
    results: Sequence[Any]

    def persistent_load(self, index: int) -> Any:
        return self.results[index]
