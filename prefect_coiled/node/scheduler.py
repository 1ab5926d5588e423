"""The scheduler of a cluster: Dask's own, behind TLS and the gate, with timers that close it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import dask
from distributed import Scheduler, metrics
from distributed.core import CommClosedError
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import WorkerState, WorkerStatusPlugin
from tornado.ioloop import PeriodicCallback

from prefect_coiled.node.anteroom import Anteroom, guard_dask, guard_http
from prefect_coiled.node.clock import Clock
from prefect_coiled.node.denied import PLUGIN, denials_plugin
from prefect_coiled.node.gate import Gate
from prefect_coiled.node.keeper import TURN_S, Keeper
from prefect_coiled.node.ledger import Ledger
from prefect_coiled.node.lent import Lent
from prefect_coiled.node.meter import Meter
from prefect_coiled.node.silence import LEAST, TOLD, bear, patience
from prefect_coiled.node.timers import Timers
from prefect_coiled.plan.node_config import (
    DENIED_TOPIC,
    KEPT_TOPIC,
    LEAVING_TOPIC,
    RENEWED,
    SPOT_TOPIC,
    machine_of,
)

logger = logging.getLogger(__name__)

_PASSED_ON = {
    SPOT_TOPIC: "spot_notice",
    LEAVING_TOPIC: "leaving",
    DENIED_TOPIC: "denied",
    KEPT_TOPIC: "kept",
}
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
        own: str = "",
        workers_per_vm: int = 1,
        **kwargs: Any,
    ) -> None:
        # The machine of this scheduler, where it has workers; and how many each machine has.
        self._own, self._workers_per_vm = own, workers_per_vm
        self._dashboard_token = dashboard_token
        self._origin = origin
        self._timers, self._meter = timers, meter
        self._cluster_comms: list[Any] = []
        self._meant_to_go: set[str] = set()
        self.closed_because = ""
        self._patience = patience(timers.no_client_timeout)
        self._heard: float | None = None
        self._clock = Clock(lambda: metrics.time())  # looked up each time, as Dask's own scheduler does
        self.keeper: Keeper | None = None
        self.ledger: Ledger | None = None
        super().__init__(**kwargs)
        self.handlers["keep"] = self.keep
        self._lent = Lent()
        self.handlers["lend"] = self.lend
        self.handlers["lent"] = self.lent
        self.worker_plugins[PLUGIN] = denials_plugin()  # for each worker that joins
        if own:
            self.add_plugin(_Stays(own))
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
            self._came()
            self._bear(comm)
        await super().add_client(comm, client, versions)

    def _came(self) -> None:
        """Somebody is there, who may be gone again before the timers are looked at."""
        self._heard = time.monotonic()
        self._timers.client_came()

    def _bear(self, comm: Any) -> None:
        # What no client of a network has, such as one in this very process.
        if (stream := getattr(comm, "stream", None)) is not None:
            bear(stream.socket, self._patience)

    def identity(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What Dask's tells, and how long a client may be silent."""
        return {**super().identity(*args, **kwargs), TOLD: self._patience}

    def subscribe_worker_status(self, comm: Any) -> dict[str, Any]:
        """Called over the network by each `Cluster` object, which then listens for changes."""
        self._came()
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

    def keep_workers(self, keeper: Keeper) -> None:
        """Let a keeper keep the wanted number of workers up."""
        self.keeper = keeper
        self.periodic_callbacks["node-keeper"] = PeriodicCallback(keeper.turn, 1000 * TURN_S)

    def keep_ledger(self, ledger: Ledger) -> None:
        """Let a ledger write down what the cluster costs."""
        self.ledger = ledger
        self.periodic_callbacks["node-ledger"] = PeriodicCallback(ledger.turn, 1000 * TURN_S)

    def lend(self, credentials: dict[str, str] | None = None) -> None:
        """Called over the network by a `Cluster` object that lends AWS credentials to tasks."""
        self._lent.take(time.monotonic(), credentials)

    def lent(self) -> dict[str, str]:
        """Called over the network by machines of the cluster."""
        return self._lent.give(time.monotonic()) if self.connected() else {}

    async def keep(self, **told: Any) -> dict[str, Any]:
        """Called over the network by `Cluster` objects; see `Keeper.told`."""
        return await self.keeper.told(**told) if self.keeper is not None else {}

    def workers_to_close(
        self,
        memory_ratio: float | None = None,
        n: int | None = None,
        key: Any = None,
        minimum: int | None = None,
        target: int | None = None,
        attribute: str = "address",
    ) -> list[str]:
        """Dask's own, but for machines: their workers go together, and those of this machine stay.

        Args:
            n: So many machines; `minimum` and `target` likewise.
        """
        count = self._workers_per_vm
        if count == 1 and not self._own:
            return list(super().workers_to_close(memory_ratio, n, key, minimum, target, attribute))
        n, minimum, target = (None if one is None else one * count for one in (n, minimum, target))
        found = super().workers_to_close(memory_ratio, n, key or _machine_of, minimum, target, attribute)
        return list(found) if attribute != "name" else sorted(_machines_of(map(str, found)))

    def machines(self) -> set[str]:
        """The machines that have a worker here."""
        return _machines_of(str(state.name) for state in self.workers.values())

    def log_event(self, topic: Any, msg: Any) -> None:
        """Log it, and note which machines are about to go."""
        if topic in (LEAVING_TOPIC, SPOT_TOPIC):
            self._meant_to_go.update(map(str, msg))
        if topic == LEAVING_TOPIC and self.keeper is not None:
            self.keeper.keeping.going(map(str, msg))
        if topic == SPOT_TOPIC and self.keeper is not None:
            self.keeper.keeping.announced(time.monotonic(), map(str, msg))
        super().log_event(topic, msg)

    async def remove_worker(self, address: str, **kwargs: Any) -> Any:
        """Called when a worker is lost, or leaves."""
        state = self.workers.get(address)
        if self.keeper is not None and state is not None:
            self.keeper.keeping.left(time.monotonic(), _machines_of([str(state.name)]))
        return await super().remove_worker(address, **kwargs)

    async def retire_workers(self, *args: Any, stimulus_id: str | None = None, **kwargs: Any) -> Any:
        """Retire workers; those that a client retires by hand are not wanted any more."""
        before = self.machines()
        if kwargs.get("names"):
            kwargs["names"] = self._workers_of(kwargs["names"])
            if not kwargs["names"]:
                return {}
        found = await super().retire_workers(*args, stimulus_id=stimulus_id, **kwargs)
        by_itself = str(stimulus_id or "").startswith(("worker-close-gracefully", RENEWED))
        if self.keeper is not None and kwargs.get("remove", True) and not by_itself:
            retired = _machines_of(str(info["name"]) for info in found.values()) & before
            gone = retired - self.machines()  # one of several workers of a machine is no machine
            if by_hand := gone - self._meant_to_go:
                await self.keeper.told(fewer=len(by_hand))
        return found

    def _workers_of(self, names: Iterable[Any]) -> list[Any]:
        """The names of workers, where some are those of machines, whose workers are meant."""
        given = [name for name in names if str(name) != self._own]
        if self._workers_per_vm == 1:
            return given
        meant, machines = set(given), {str(name) for name in given}
        listed = [state.name for state in self.workers.values()]
        return [name for name in listed if name in meant or _machines_of([str(name)]) & machines]

    def adaptive_target(self, target_duration: Any = None) -> int:
        """Called over the network by a client's `Adaptive`."""
        if self.keeper is not None:
            self.keeper.asked()
        return self.target(target_duration)

    def target(self, duration: Any) -> int:
        """Dask's own target, in machines."""
        return -(-int(super().adaptive_target(target_duration=duration)) // self._workers_per_vm)

    async def shrink(self, count: int) -> None:
        """Retire the workers that can best be done without, until so many are left."""
        chosen = self.workers_to_close(target=count)
        self._meant_to_go |= _machines_of(str(self.workers[one].name) for one in chosen)
        await super().retire_workers(workers=chosen, close_workers=True, remove=True)

    async def let_go(self, machines: set[str], count: int) -> list[str]:
        """Retire up to so many of these machines: of those whose workers have nothing to do."""
        busy = _machines_of(
            str(state.name) for state in self.workers.values() if state.processing or state.actors
        )
        chosen = sorted((machines & self.machines()) - busy - {self._own})[:count]
        self._meant_to_go.update(chosen)
        if names := self._workers_of(chosen):
            await super().retire_workers(names=names, close_workers=True, remove=True)
        return [machine for machine in chosen if machine not in self.machines()]

    def clusters(self) -> int:
        """How many `Cluster` objects are connected."""
        return self.connected() and len(self._cluster_comms)

    def say_kept(self, text: str, ids: list[str], warns: bool) -> None:
        """Tell the `Cluster` objects that listen what the keeper did."""
        self.log_event(KEPT_TOPIC, {"text": text, "ids": ids, "warns": warns})

    def _check_timers(self) -> None:
        self._follow_clock()
        now, clients = time.monotonic(), self.connected()
        if clients:
            silent = [
                metrics.time() - state.last_seen
                for name, state in self.clients.items()
                if name in self.client_comms and not name.startswith(_OF_A_TASK)
            ]
            # A `Cluster` object says nothing while all is well; a client a word in some seconds.
            word = min(silent) if silent and not self._cluster_comms else 0.0
            self._heard = now - (word if word > LEAST else 0.0)
        reason = self._timers.check(now, clients, self._heard)
        if self._meter is not None and self._meter.check(now, self.machines() - {self._own}):
            reason = "cost-limit"
        if reason:
            self._ongoing_background_tasks.call_soon(self.close, reason=reason)

    async def close(self, timeout: float | None = None, reason: str = "unknown") -> None:
        """Close, and keep the first reason."""
        self.closed_because = self.closed_because or _REASONS.get(reason, reason)
        if self.keeper is not None:  # nothing is launched while all of it goes
            await self.keeper.stop()
        written = asyncio.ensure_future(self.ledger.close()) if self.ledger is not None else None
        await super().close(timeout=timeout, reason=reason)
        if written is not None:
            await written


def _machine_of(worker: WorkerState) -> str:
    return machine_of(str(worker.name))


class _Stays(SchedulerPlugin):  # type: ignore[misc]
    """No worker of the scheduler's own machine is closed by scaling: the machine runs on without it."""

    name = "prefect-coiled-stays"

    def __init__(self, machine: str) -> None:
        self._machine = machine

    def valid_workers_downscaling(self, scheduler: Any, workers: list[WorkerState]) -> list[WorkerState]:
        """Those that may be closed."""
        return [worker for worker in workers if _machine_of(worker) != self._machine]


def _machines_of(names: Iterable[str]) -> set[str]:
    """The machines of workers, by their names: the machine's id, with a number where it has several.

    What else connects as a worker is no machine of the cluster's.
    """
    return {machine_of(name) for name in names if name.startswith("i-")}


# By which `scheduler_info` and Dask's own messages tell of it.
NodeScheduler.__name__ = Scheduler.__name__
