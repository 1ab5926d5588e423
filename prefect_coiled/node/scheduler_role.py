"""A scheduler's machine at work: the scheduler, what keeps its workers and bill, and workers beside it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed.security import Security

from prefect_coiled.node import aws
from prefect_coiled.node.keeper import Dask, Keeper
from prefect_coiled.node.ledger import Ledger
from prefect_coiled.node.meter import Meter
from prefect_coiled.node.one_port import OnePort
from prefect_coiled.node.scheduler import NodeScheduler
from prefect_coiled.node.silence import patience
from prefect_coiled.node.timers import CLIENT_GRACE_S, Timers
from prefect_coiled.node.worker import WorkerRole
from prefect_coiled.plan.node_config import NodeConfig

logger = logging.getLogger(__name__)

# Seconds that a machine which runs may be without its worker: as a nanny takes to start one anew.
_PATIENCE_S = 30.0
# Seconds until workers beside the scheduler are started anew, and that they have to end.
_AGAIN_S = 3.0


class SchedulerRole:
    """Runs one scheduler.

    Args:
        order: What the agent ordered: "address", "instance_id", "dashboard_token", "client_grace_s",
            "keeper_pace"; and "aws_endpoint".
    """

    def __init__(self, config: NodeConfig, order: dict[str, Any]) -> None:
        timers = Timers(
            time.monotonic(),
            config.no_client_timeout,
            config.cluster_timeout,
            order.get("client_grace_s", CLIENT_GRACE_S),
        )
        dask.config.set({"distributed.scheduler.idle-timeout": config.idle_timeout})
        self._one_port = (
            OnePort(
                order["address"],
                config.one_port,
                config.scheduler_port,
                config.dashboard_port,
                patience(config.no_client_timeout),
            )
            if config.one_port
            else None
        )
        meter: Meter | None = None
        if config.max_total_cost is not None:
            meter = Meter(config.max_total_cost, config.base_usd, config.worker_usd, time.monotonic())
        self._scheduler = NodeScheduler(
            dashboard_token=order["dashboard_token"],
            timers=timers,
            meter=meter,
            own=order["instance_id"] if config.works else "",
            workers_per_vm=config.workers_per_vm,
            **({"origin": self._one_port.origin} if self._one_port is not None else {}),
            **{
                **config.scheduler_options,
                "host": order["address"],
                "port": config.scheduler_port,
                "protocol": "tls",
                "security": Security(),
                "dashboard": True,
                "dashboard_address": f"{order['address']}:{config.dashboard_port}",
            },
        )
        self._config, self._order = config, order
        self._beside: asyncio.Task[None] | None = None
        endpoint = order.get("aws_endpoint", "")
        if config.billed is not None:
            ledger = Ledger(
                config,
                machine=order["instance_id"],
                client=lambda service: aws.own_client(service, config.region, endpoint),
                pace=order.get("keeper_pace", 1.0),
                listed=None if meter is None else meter.listed,
            )
            self._scheduler.keep_ledger(ledger)
        if config.keep is not None:
            lost = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
            of = self._scheduler
            keeper = Keeper(
                config,
                machine=order["instance_id"],
                client=lambda: aws.own_client("ec2", config.region, endpoint),
                scheduler=Dask(of.machines, of.clusters, of.target, of.shrink, of.let_go, of.say_kept),
                patience=max(lost, _PATIENCE_S),
                pace=order.get("keeper_pace", 1.0),
            )
            of.keep_workers(keeper)

    @property
    def reason(self) -> str:
        """Why it closed."""
        return str(self._scheduler.closed_because or "closed")

    async def start(self) -> None:
        """Come up."""
        await self._scheduler
        if self._one_port is not None:
            await self._one_port.start()
        if self._config.works:
            self._beside = asyncio.create_task(self._work())

    async def _work(self) -> None:
        """Have workers on this machine too, as long as the scheduler runs."""
        config = self._config.model_copy(update={"scheduler_host": self._order["address"], "spot": False})
        while True:
            workers = WorkerRole(config, self._order)
            try:
                await workers.start()
                await workers.finished()
            except Exception as error:  # whatever keeps them from it, the scheduler goes on
                logger.warning("the workers beside the scheduler failed: %s", error)
            finally:
                # What lived on would keep the names that the next ones need, and nobody would end it.
                await workers.close("closed")
            if self._scheduler.closed_because:
                return
            logger.warning("the workers beside the scheduler ended: %s", workers.reason)
            await asyncio.sleep(_AGAIN_S)

    async def _end_work(self) -> None:
        if self._beside is not None:
            self._beside.cancel()
            await asyncio.wait([self._beside], timeout=_AGAIN_S)

    async def finished(self) -> None:
        """Wait for its end."""
        await self._scheduler.finished()
        await self._end_work()
        if self._scheduler.ledger is not None:
            await self._scheduler.ledger.close()

    async def close(self, reason: str) -> None:
        """Close it."""
        if self._one_port is not None:
            await self._one_port.close()
        await self._scheduler.close(reason=reason)
        await self._end_work()

    async def drain(self, limit_s: float) -> None:
        """A scheduler cannot hand over what it holds."""
