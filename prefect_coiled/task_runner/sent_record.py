"""The record of a result as its worker has it; what cannot be sent, or be read elsewhere, comes as an error.

Dask would try for ever to bring such a result to a task on another worker, and its own error names no task.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

from pickle import PickleBuffer
from typing import Any
from uuid import UUID

from distributed.protocol.pickle import dumps, loads
from prefect.client.schemas.objects import State
from prefect.results import ResultRecord  # type: ignore[attr-defined]

from prefect_coiled.errors import ResultError
from prefect_coiled.internals.distributed import is_spilling

_INSTEAD = "Return what it is made from, such as an address or a file's name."


class SentRecord(ResultRecord[Any]):
    """A record that comes elsewhere as a record or, where that fails, as a `ResultError`."""

    _whose: tuple[str, UUID]

    @classmethod
    def take_place(cls, state: State[Any], task: str, run: UUID) -> None:
        """Put one into the state of a task that has completed, which is about to be told."""
        record = state.data
        if isinstance(record, ResultRecord):
            made = cls.model_construct(metadata=record.metadata, result=record.result)
            made._whose = task, run
            state.data = made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The result by itself, its buffers apart: Dask moves them without copying them (PEP 574).

        The scheduler, by which clients fetch what they cannot fetch from workers, takes protocol 4 alone.
        """
        apart = protocol >= 5
        buffers: list[PickleBuffer] = []
        try:
            pickled = dumps(self.result, buffer_callback=buffers.append if apart else None)
        except Exception as error:  # whatever pickling raises
            if is_spilling():
                raise  # it stays in memory, where tasks beside it are given it
            return _failed, (self._whose, f"cannot be pickled: {error}", _INSTEAD)
        return _read, (self._whose, self.metadata, PickleBuffer(pickled) if apart else pickled, buffers)


def _read(whose: tuple[str, UUID], metadata: Any, pickled: Any, buffers: list[Any]) -> Any:
    try:
        result = loads(pickled, buffers=buffers)
    except Exception as error:  # whatever unpickling raises
        unread = _UnreadError(*_words(whose, f"cannot be read here: {type(error).__name__}: {error}", ""))
        unread.sent = whose, metadata, bytes(pickled), [bytes(one) for one in buffers]
        return unread
    return ResultRecord(metadata=metadata, result=result)


def _failed(whose: tuple[str, UUID], why: str, step: str) -> ResultError:
    return ResultError(*_words(whose, why, step))


def _words(whose: tuple[str, UUID], why: str, step: str) -> tuple[str, str, str]:
    what = f"fetching the result of task {whose[0]!r} (run {whose[1]}), which has completed"
    return what, f"its result {why}", step


class _UnreadError(ResultError):
    """One that could not be read where it came to. Who is given this copy of it reads it anew."""

    sent: tuple[Any, ...]

    def __reduce__(self) -> Any:
        return _read, self.sent
