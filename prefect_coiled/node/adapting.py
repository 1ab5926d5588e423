"""How many workers are wanted while no client's `Adaptive` decides it. Pure: told the time and Dask's target.

`Cluster.adapt` says between which limits. As long as the object that said so is there, its `Adaptive`
decides, and asks the scheduler again and again for its target. When it is gone, the scheduler's machine goes
on alone.
"""

from __future__ import annotations

from dataclasses import dataclass

# Seconds without a question after which nobody decides any more, if the interval is not a long one.
_SILENT_S = 15.0
_INTERVALS = 3


@dataclass
class Adapting:
    """The limits, and who decides between them.

    Attributes:
        maximum: None where none was said: then it never grows without a client.
        interval: Seconds between two decisions.
        wait_count: How often in a row fewer must do before some are retired.
        target_duration: Seconds that the work shall take, by which Dask finds its target.
        asks: Whether the client's class asks for Dask's target; else it decides as long as it is connected.
        asked_at: When it asked last.
    """

    minimum: int
    maximum: int | None
    interval: float
    wait_count: int
    target_duration: float | None
    asks: bool
    asked_at: float
    _next: float = 0.0
    _fewer: int = 0

    def is_clients(self, now: float, connected: int) -> bool:
        """Whether a client decides.

        Args:
            connected: How many `Cluster` objects are.
        """
        silent = max(_SILENT_S, _INTERVALS * self.interval)
        return connected > 0 and (not self.asks or now - self.asked_at < silent)

    def due(self, now: float) -> bool:
        """Whether it is time to decide."""
        if now < self._next:
            return False
        self._next = now + self.interval
        return True

    def decide(self, target: int, wanted: int) -> int:
        """How many are wanted from now on."""
        most = max(wanted, self.minimum) if self.maximum is None else self.maximum
        bound = max(min(target, most), self.minimum)
        self._fewer = self._fewer + 1 if bound < wanted else 0
        if bound < wanted and self._fewer < self.wait_count:
            return wanted
        self._fewer = 0
        return bound
