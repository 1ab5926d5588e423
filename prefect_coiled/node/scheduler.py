"""The scheduler of a cluster: Dask's own, behind TLS and the gate, with timers that close it."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

import dask
from distributed import Scheduler, metrics
from distributed.core import CommClosedError
from distributed.scheduler import WorkerStatusPlugin
from distributed.security import Security
from tornado.ioloop import PeriodicCallback

from prefect_coiled.node.anteroom import Anteroom, guard_dask, guard_http
from prefect_coiled.node.clock import Clock
from prefect_coiled.node.denied import PLUGIN, denials_plugin
from prefect_coiled.node.gate import Gate
from prefect_coiled.node.meter import Meter
from prefect_coiled.node.one_port import OnePort
from prefect_coiled.node.timers import CLIENT_GRACE_S, Timers
from prefect_coiled.plan.node_config import DENIED_TOPIC, LEAVING_TOPIC, SPOT_TOPIC, NodeConfig

logger = logging.getLogger(__name__)

_PASSED_ON = {SPOT_TOPIC: "spot_notice", LEAVING_TOPIC: "leaving", DENIED_TOPIC: "denied"}
_REASONS = {"idle-timeout-exceeded": "idle", "unknown": "closed"}


class _WorkerStatus(WorkerStatusPlugin):  # type: ignore[misc]
    """Tells one `Cluster` object of workers; under a name of its own, or a second would replace it."""

    def __init__(self, scheduler: Scheduler, comm: Any) -> None:
        self.name = f"worker-status-{uuid.uuid4().hex}"
        super().__init__(scheduler, comm)

    def log_event(self, topic: str, msg: Any) -> None:
        """Pass on what workers say to watchers, and another object of those that it retires."""
        if topic in _PASSED_ON:
            with contextlib.suppress(CommClosedError):  # whoever listened is gone
                self.bcomm.send([_PASSED_ON[topic], msg])


# What Dask calls the client of a task (`get_client`, `worker_client`).
_OF_A_TASK = "Client-worker-"


class NodeScheduler(Scheduler):  # type: ignore[misc]
    """Dask's scheduler, whose pages need a token and which remembers why it closed."""

    idle_since: float | None

    def __init__(
        self,
        *,
        dashboard_token: str,
        timers: Timers,
        meter: Meter | None = None,
        origin: Callable[[int], str] = lambda port: "",
        **kwargs: Any,
    ) -> None:
        self._dashboard_token = dashboard_token
        self._origin = origin
        self._timers, self._meter = timers, meter
        self._cluster_comms: list[Any] = []
        self.closed_because = ""
        self._clock = Clock(lambda: metrics.time())  # looked up each time, as Dask's own scheduler does
        super().__init__(**kwargs)
        self.worker_plugins[PLUGIN] = denials_plugin()  # for each worker that joins
        # The loop checks no less often than once in ten seconds, and oftener for short timeouts, and costs.
        often = 5.0 if meter is not None else None
        shortest = min(filter(None, (timers.no_client_timeout, timers.cluster_timeout, often)), default=10.0)
        self.periodic_callbacks["node-timers"] = PeriodicCallback(
            self._check_timers, 1000 * min(max(shortest / 10, 0.1), 10.0)
        )

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        """Start it with the gate before every route; no request can come in between."""
        if not dask.config.get("distributed.scheduler.dashboard.tls.cert"):
            raise RuntimeError("the dashboard may not listen without TLS")
        super().start_http_server(*args, **kwargs)
        server, room = self.http_server, Anteroom(origin=self._origin)
        server.request_callback = Gate(server.request_callback, self._dashboard_token, server.port, room)
        guard_http(server, room)

    async def listen(self, *args: Any, **kwargs: Any) -> None:
        """Listen; who does not finish the handshake is let go."""
        await super().listen(*args, **kwargs)
        guard_dask(self.listeners[-1], Anteroom(origin=self._origin))

    def connected(self) -> int:
        """How many clients and `Cluster` objects are connected; clients of tasks do not count."""
        self._cluster_comms = [comm for comm in self._cluster_comms if not comm.closed()]
        clients = sum(1 for name in self.client_comms if not name.startswith(_OF_A_TASK))
        return clients + len(self._cluster_comms)

    async def add_client(self, comm: Any, client: str, versions: dict[str, Any]) -> None:
        """Called as a client comes; ends with it."""
        if not client.startswith(_OF_A_TASK):
            self._timers.client_came()
        await super().add_client(comm, client, versions)

    def subscribe_worker_status(self, comm: Any) -> dict[str, Any]:
        """Called over the network by each `Cluster` object, which then listens for changes."""
        self._timers.client_came()
        _WorkerStatus(self, comm)
        self._cluster_comms.append(comm)
        identity: dict[str, Any] = self.identity()
        for worker in identity["workers"].values():
            del worker["metrics"], worker["last_seen"]
        return identity

    async def check_worker_ttl(self) -> None:
        """Start workers anew that give no sign of life."""
        self._follow_clock()
        await super().check_worker_ttl()

    def check_idle(self) -> float | None:
        """Close after a time without work; gives since when there is none."""
        self._follow_clock()
        since: float | None = super().check_idle()
        return since

    def _follow_clock(self) -> None:
        """Set with the time of day by what Dask tells who is silent, and since when nothing is done.

        A step of it, by a time service at a machine's start for instance, would end every worker.
        """
        if not (step := self._clock.step()):
            return
        logger.warning("The time of day was set by %+.0f s", step)
        now = metrics.time()
        for one in (*self.workers.values(), *self.clients.values()):
            one.last_seen = min(one.last_seen + step, now)
        if self.idle_since:
            self.idle_since = min(self.idle_since + step, now)

    def _check_timers(self) -> None:
        self._follow_clock()
        reason = self._timers.check(time.monotonic(), self.connected())
        machines = ("-".join(str(worker.name).split("-")[:2]) for worker in self.workers.values())
        if self._meter is not None and self._meter.check(time.monotonic(), machines):
            reason = "cost-limit"
        if reason:
            self._ongoing_background_tasks.call_soon(self.close, reason=reason)

    async def close(self, timeout: float | None = None, reason: str = "unknown") -> None:
        """Close, and keep the first reason."""
        self.closed_because = self.closed_because or _REASONS.get(reason, reason)
        await super().close(timeout=timeout, reason=reason)


# By which `scheduler_info` and Dask's own messages tell of it.
NodeScheduler.__name__ = Scheduler.__name__


class SchedulerRole:
    """Runs one scheduler.

    Args:
        order: What the agent ordered: "address", "dashboard_token", "client_grace_s".
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
            OnePort(order["address"], config.one_port, config.scheduler_port, config.dashboard_port)
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

    @property
    def reason(self) -> str:
        """Why it closed."""
        return str(self._scheduler.closed_because or "closed")

    async def start(self) -> None:
        """Come up."""
        await self._scheduler
        if self._one_port is not None:
            await self._one_port.start()

    async def finished(self) -> None:
        """Wait for its end."""
        await self._scheduler.finished()

    async def close(self, reason: str) -> None:
        """Close it."""
        if self._one_port is not None:
            await self._one_port.close()
        await self._scheduler.close(reason=reason)

    async def drain(self, limit_s: float) -> None:
        """A scheduler cannot hand over what it holds."""
