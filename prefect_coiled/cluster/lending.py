"""Lends AWS credentials of this machine to a cluster's tasks, again and again, while the cluster is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from prefect_coiled.aws.lending import Lender
from prefect_coiled.cluster.base import ClusterBase
from prefect_coiled.errors import PrefectCoiledError

logger = logging.getLogger(__name__)

# Seconds between two times; the scheduler gives up on a lender that says nothing for three minutes.
_EVERY_S = 60.0
_ANSWERS_S = 10.0


class Lending:
    """Tells one cluster's scheduler what is lent; runs in Dask's event loop."""

    def __init__(self, cluster: ClusterBase, lender: Lender) -> None:
        self._cluster, self._lender = cluster, lender
        self._task: asyncio.Future[None] | None = None
        self._failed = False

    async def start(self) -> None:
        """Lend now, and go on."""
        await self._lend()
        self._task = asyncio.ensure_future(self._go_on())

    async def stop(self) -> None:
        """Call back what was lent. Whoever holds it has it until it ends: an hour at most."""
        if self._task is not None:
            self._task.cancel()
            await self._tell(None)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._lend()

    async def _lend(self) -> None:
        try:
            await self._tell(await self._cluster.in_thread(self._lender.lend))
            self._failed = False
        except PrefectCoiledError as error:
            if not self._failed:  # once: what was lent before may still be good
                logger.warning("AWS credentials cannot be lent to tasks any more: %s", error)
            self._failed = True

    async def _tell(self, credentials: Mapping[str, str] | None) -> None:
        comm = self._cluster.scheduler_comm
        if comm is None:
            return
        try:
            await asyncio.wait_for(comm.lend(credentials=credentials), _ANSWERS_S)
        except Exception as error:  # the scheduler may be gone; not shown is what was sent
            logger.debug("The scheduler was not told what is lent: %s", type(error).__name__)
