"""Looks at AWS as long as machines are on their way: one that has ended never joins, and Dask cannot know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prefect_coiled.errors import PrefectCoiledError

logger = logging.getLogger(__name__)

EVERY_S = 10.0
# So many that ended one after the other were no accident: whoever adapts would launch more for ever.
MOST_IN_A_ROW = 5


class Arrivals:
    """The machines of a cluster that were launched and whose workers have not joined.

    Args:
        awaited: Gives their names.
        look: Asks AWS, after which those that have ended are not awaited any more.
        has_joined: Whether the worker of that name is there.
        is_meant: Whether that one is to end, so that it is no accident.
    """

    def __init__(
        self,
        awaited: Callable[[], set[str]],
        look: Callable[[], Awaitable[None]],
        has_joined: Callable[[str], bool],
        is_meant: Callable[[str], bool],
    ) -> None:
        self._awaited, self._look = awaited, look
        self._has_joined, self._is_meant = has_joined, is_meant
        self._in_a_row = 0
        self._task: asyncio.Task[None] | None = None

    def expect(self) -> None:
        """Machines were launched."""
        if (self._task is None or self._task.done()) and self._in_a_row < MOST_IN_A_ROW:
            self._task = asyncio.ensure_future(self._watch())

    def anew(self) -> None:
        """Somebody asked for a size: what ended before counts no more."""
        self._in_a_row = 0

    def joined(self) -> None:
        """A worker has joined."""
        self._in_a_row = 0

    def stop(self) -> None:
        """Nobody is awaited any more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while before := self._awaited():
            await asyncio.sleep(EVERY_S)
            try:
                await self._look()
            except PrefectCoiledError as error:
                logger.debug("The next look may be answered: %s", error)
                continue
            left = before - self._awaited()
            self._in_a_row += sum(not self._has_joined(name) and not self._is_meant(name) for name in left)
            if self._in_a_row >= MOST_IN_A_ROW:
                logger.warning(
                    "%d machines ended before their workers joined (`prefect-coiled logs` says why)."
                    " Those that are still to come count as there.",
                    self._in_a_row,
                )
                return
