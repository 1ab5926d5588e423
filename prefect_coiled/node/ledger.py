"""Writes down what the cluster has cost, on the scheduler's machine: it is kept when the cluster is gone.

    AWS's list of the cluster's machines ─▶ `Bill` ─▶ a record ─▶ a log stream of its own

A record now and then, and a last one: whichever way the machine ends, what is not written is little. Whatever
fails is tried again with the next one; no work waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from prefect_coiled.node.bill import Bill
from prefect_coiled.node.logs import LogShipper
from prefect_coiled.plan import tags
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.plan.spending import EARLY_S, LATER_S, STREAMS

logger = logging.getLogger("distributed.node")

# Seconds between two looks where a lid on the cost is held to what AWS lists.
_HELD_S = 60.0
# Seconds for the last look and for sending the last record.
_LAST_LOOK_S, _LAST_WORD_S = 3.0, 3.0


class Ledger:
    """Keeps the records of one cluster.

    Args:
        machine: The id of the scheduler's own machine.
        client: Makes a client of an AWS service, of the machine's role.
        pace: By what all pauses are multiplied.
        listed: Told at which second, by the monotonic clock, the cluster had cost how many US dollars by
            AWS's list, and how many it costs an hour. Then AWS is asked once a minute at least.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        machine: str,
        client: Callable[[str], Any],
        pace: float = 1.0,
        listed: Callable[[float, float, float], None] | None = None,
    ) -> None:
        assert config.billed is not None
        self._listed = listed
        self._bill = Bill(config.billed, config.cluster, machine)
        self._filters = tags.filters(tags.cluster_filter(config.account, config.cluster, config.billed.uid))
        self._make_client = client
        self._ec2: Any = None
        self._shipper = LogShipper(
            lambda: client("logs"), config.log_group, f"{STREAMS}{machine}", interval_s=2.0
        )
        self._pace = pace
        self._written = 0
        self._next_at = time.monotonic()
        self._lock = asyncio.Lock()
        self._end: asyncio.Future[None] | None = None
        self._said = False

    async def turn(self) -> None:
        """Write a record, if it is time for one."""
        if self._lock.locked() or self._end is not None or time.monotonic() < self._next_at:
            return
        async with self._lock:
            pause = EARLY_S[self._written] if self._written < len(EARLY_S) else LATER_S
            pause = self._pace * (pause if self._listed is None else min(pause, _HELD_S))
            self._next_at = time.monotonic() + pause
            if await self._write(pause):
                self._written += 1

    async def close(self) -> None:
        """Write the last record, within a bounded time; whoever else closes it waits for that too."""
        if self._end is None:
            self._end = asyncio.ensure_future(self._finish())
        await asyncio.shield(self._end)

    async def _finish(self) -> None:
        try:
            await asyncio.wait_for(self._last_look(), _LAST_LOOK_S)
        except asyncio.TimeoutError:
            logger.info("what the cluster cost at last is not written: AWS did not say what runs")
        if self._written:
            await asyncio.to_thread(self._shipper.close, _LAST_WORD_S)

    async def _last_look(self) -> None:
        async with self._lock:  # a look that is on its way may hang in its call
            await self._write(0.0)

    async def _write(self, good_for: float) -> bool:
        try:
            now, listed = await asyncio.to_thread(self._look)
            self._bill.seen(now, listed)
        except (BotoCoreError, ClientError) as error:
            self._ec2 = None
            if not self._said:  # once: an account may be of a version that does not permit it
                logger.info("what the cluster costs is not written yet: %s", error)
            self._said = True
            return False
        record = self._bill.record(now, good_for)
        if record is None:
            return False
        if self._listed is not None:
            self._listed(time.monotonic(), record.usd, record.usd_per_hour)
        self._shipper.start()
        self._shipper.line(record.encode())
        return True

    def _look(self) -> tuple[datetime, list[dict[str, Any]]]:
        """The time and the cluster's machines, both by AWS; those that ended are in its list for an hour.

        This machine's own time of day may be wrong, and when machines were launched is told by AWS's.
        """
        if self._ec2 is None:
            self._ec2 = self._make_client("ec2")
        found: list[dict[str, Any]] = []
        parameters: dict[str, Any] = {"Filters": self._filters, "MaxResults": 1000}
        while True:
            reply = self._ec2.describe_instances(**parameters)
            found += [item for reservation in reply["Reservations"] for item in reservation["Instances"]]
            if not reply.get("NextToken"):
                told = reply["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
                now = parsedate_to_datetime(told) if told else datetime.now(timezone.utc)
                return now, found
            parameters["NextToken"] = reply["NextToken"]
