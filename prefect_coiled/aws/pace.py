"""Keeps calls apart that AWS takes a few of in a second. Decides nothing but that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prefect_coiled.errors import StoppedError


class Pace:
    """Lets so many calls through in a second, one after the other, whatever their threads."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._apart = 1.0 / per_second
        self._clock = clock
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event, what: str) -> None:
        """Wait for this call's turn.

        Raises:
            StoppedError: When a stop is asked for.
        """
        with self._lock:
            turn = max(self._clock(), self._next)
            self._next = turn + self._apart
        pause = turn - self._clock()
        if pause > 0 and stop.wait(pause):
            raise StoppedError(what, "a stop was asked for")
