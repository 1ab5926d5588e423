"""Notes when the time of day was set: what counts from it has to be set with it."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds. Less than that is how far apart two clocks are read, or what a time service slews.
_STEP = 5.0


class Clock:
    """The time of day beside a clock that nobody sets.

    Args:
        wall: Gives the time of day, in seconds.
        steady: A monotonic clock, in seconds.
    """

    def __init__(self, wall: Callable[[], float], steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._apart = wall() - steady()

    def step(self) -> float:
        """By how many seconds the time of day was set since the last call; 0.0 if it was not."""
        apart = self._wall() - self._steady()
        step = apart - self._apart
        if abs(step) < _STEP:
            return 0.0
        self._apart = apart
        return step
