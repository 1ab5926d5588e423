"""Lets other tasks have a worker's thread while a task waits for those that it submitted itself.

Without it, tasks that wait for tasks fill the workers and wait for ever. Nothing happens off a worker.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import distributed

from prefect_coiled.internals.distributed import Place

_place: ContextVar[Place | None] = ContextVar("prefect_coiled_place", default=None)


@contextmanager
def own_place() -> Iterator[None]:
    """While a task runs: what it leaves in another thread of its own is this thread's place."""
    place = Place()
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)
        place.end()


def leave() -> bool:
    """Leave the worker's pool, unless that was done before. Returns whether this thread may come back."""
    try:
        distributed.get_worker()
        distributed.secede()
    except AttributeError:  # another thread of the task's, such as one of `asyncio.to_thread`
        if (place := _place.get()) is not None:
            place.leave()
    except (ValueError, KeyError, AssertionError):
        pass
    else:
        return True
    return False


class Slot:
    """A slot that was given back."""

    def __init__(self) -> None:
        self.comes_back = leave()

    def stay_away(self) -> None:
        """Do not come back: that takes as long as others run, and who waited has waited long enough."""
        self.comes_back = False


@contextmanager
def slot_given_back() -> Iterator[Slot]:
    """Let another task have this worker thread meanwhile; after a timeout, for as long as this one runs."""
    slot = Slot()
    try:
        yield slot
    except (TimeoutError, CancelledError):  # the second is how Prefect's own time limits come
        slot.stay_away()
        raise
    finally:
        if slot.comes_back:
            distributed.rejoin()
