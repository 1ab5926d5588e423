"""Dask's `Adaptive` for machines that AWS may refuse: that is said once, and tried again later."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed.deploy.adaptive import Adaptive as DaskAdaptive

from prefect_coiled.errors import PrefectCoiledError

logger = logging.getLogger(__name__)

# Seconds after which what was refused is asked for again: Dask asks each `interval`, of a second by default,
# and each refusal is a traceback; where there is no capacity, it comes back in minutes.
AGAIN = 60.0


class Adaptive(DaskAdaptive):
    """As Dask's own, and no machine that is refused ends it.

    Attributes:
        again: From when on, by `time.monotonic()`, more machines are asked for, or fewer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.again = {"more": 0.0, "fewer": 0.0}
        super().__init__(*args, **kwargs)

    async def scale_up(self, n: int) -> None:
        """Ask for so many workers."""
        if time.monotonic() >= self.again["more"]:
            with self._patience("more"):
                await super().scale_up(n)

    async def scale_down(self, workers: list[Any]) -> None:
        """Let these workers go: that more were refused is no reason to pay for these."""
        if time.monotonic() >= self.again["fewer"]:
            with self._patience("fewer"):
                await super().scale_down(workers)

    @contextmanager
    def _patience(self, which: str) -> Iterator[None]:
        try:
            yield
        except PrefectCoiledError as error:
            self.again[which] = time.monotonic() + AGAIN
            logger.warning(
                "Cluster %s asks for no %s workers for %.0f seconds: %s",
                self.cluster.name,
                which,
                AGAIN,
                error,
            )


def limits(adaptive: Any, *, asks: bool) -> dict[str, Any]:
    """What the scheduler's machine is told of an `Adaptive`: it goes on when the client is gone.

    Args:
        asks: Whether Dask's own rule says how many workers there are to be.
    """
    most = adaptive.maximum
    return {
        "minimum": int(adaptive.minimum),
        "maximum": None if most is None or math.isinf(most) else int(most),
        "interval": float(getattr(adaptive, "interval", None) or 1.0),
        "wait_count": int(getattr(adaptive, "wait_count", 3)),
        "target_duration": getattr(adaptive, "target_duration", None),
        "asks": asks,
    }
