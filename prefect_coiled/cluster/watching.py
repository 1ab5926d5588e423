"""What happens to a cluster's workers while a `Cluster` object watches: lost ones, and spot notices.

Each becomes a notification of the account and a Prefect event, many at once one row. What is meant to go
(scaling down, closing, what AWS announced) is not lost. Runs in Dask's event loop and never blocks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

# Seconds in which further ones are told of together.
_TOGETHER = 1.0


class Watching:
    """Collects the names of workers, and tells of them a moment later.

    Args:
        tell: Tells an event: kind, text, `ids` of the workers.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._leaving: set[str] = set()
        self._lost: dict[str, None] = {}
        self._announced: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def expect(self, names: Iterable[str]) -> None:
        """These are about to go, and that is meant."""
        self._leaving.update(names)

    def expects(self, name: str) -> bool:
        """Whether this one is meant to go."""
        return name in self._leaving

    def joined(self, names: Iterable[str]) -> None:
        """These are there; if they go again, that is news."""
        self._leaving.difference_update(names)

    def gone(self, name: str) -> None:
        """The scheduler has lost a worker, or let it go."""
        if name not in self._leaving:
            self._lost[name] = None
            self._soon()

    def announced(self, names: Iterable[str]) -> None:
        """AWS takes these spot machines back in two minutes; they are handing over."""
        for name in names:
            self._leaving.add(name)
            self._announced[name] = None
        self._soon()

    def stop(self) -> None:
        """What goes from now on goes with the cluster; what was seen so far is told now."""
        if self._task is not None:
            self._task.cancel()
        self._tell_now()

    def _soon(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._tell_soon())

    async def _tell_soon(self) -> None:
        while self._lost or self._announced:
            await asyncio.sleep(_TOGETHER)
            self._tell_now()

    def _tell_now(self) -> None:
        # Adapting lets a worker go first and says so afterwards.
        lost, self._lost = [n for n in self._lost if n not in self._leaving], {}
        announced, self._announced = list(self._announced), {}
        for event_type, names, what in (
            ("spot_notice", announced, "AWS takes back"),
            ("worker_lost", lost, "lost"),
        ):
            if names:
                text = f"{what} {len(names)} worker{'s' if len(names) != 1 else ''}"
                self._tell(event_type, text, ids=tuple(names))
