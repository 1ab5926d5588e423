"""The workers of a machine: nannies of Dask, behind TLS, that can be drained before a spot end.

On a machine with a GPU, where `dask_cuda` is installed, they are those of its `CUDAWorker`. That is no worker
class for a nanny: it makes the nanny itself, with the GPU's number in its environment, a preload that opens
CUDA's context before anything else does, and a store that spills from the GPU's memory. It is used like that
also where `worker_class` names it. https://docs.rapids.ai/api/dask-cuda/stable/
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from dask.system import CPU_COUNT
from distributed import Nanny
from distributed.core import Status, connect, rpc
from distributed.security import Security
from distributed.utils import import_term

from prefect_coiled.node.lent import Counter
from prefect_coiled.plan.node_config import SPOT_TOPIC, NodeConfig

logger = logging.getLogger("distributed.node")

_REASONS = {
    "worker-handle-scheduler-connection-broken": "scheduler-lost",
    "scheduler-close": "closed",
    "worker-lifetime-reached": "lifetime",
    "nanny-instantiate-timeout": "start-timeout",
}
# What workers leave of a machine that is the scheduler's too: a vCPU, and this part of its memory.
_FOR_SCHEDULER = 0.25
_CUDA = "dask_cuda.CUDAWorker"
_CUDA_NAMES = (_CUDA, "dask_cuda.cuda_worker.CUDAWorker")
# Seconds in which a worker process has to start and register, once the scheduler answers.
_START_S = 120.0
# Seconds in which a nanny closes: it has ten for its worker.
_CLOSES_S = 30.0
# Of a nanny whose worker left for good.
_OVER = (Status.closing_gracefully, Status.closing, Status.closed)


class NodeNanny(Nanny):  # type: ignore[misc]
    """Dask's nanny, which remembers why it closed."""

    closed_because = ""

    def _remember(self, reason: str) -> None:
        self.closed_because = self.closed_because or _REASONS.get(reason, reason)

    def close_gracefully(self, reason: str = "nanny-close-gracefully") -> None:
        """The worker is about to end, and is not to be started again."""
        self._remember(reason)
        super().close_gracefully(reason=reason)

    async def close(self, timeout: float = 5, reason: str = "nanny-close") -> Any:
        """Close worker and nanny, and keep the first reason."""
        self._remember(reason)
        return await super().close(timeout=timeout, reason=reason)


class WorkerRole:
    """Runs the nannies of one machine.

    Args:
        order: What the agent ordered: "address", "instance_id", "scratch".
    """

    def __init__(self, config: NodeConfig, order: dict[str, Any]) -> None:
        self._config = config
        self._order = order
        self._security = Security()
        self._scheduler = f"tls://{config.scheduler_host}:{config.scheduler_port}"
        self._nannies: list[Any] = []
        self._counter: Counter | None = None
        self._lost = ""

    @property
    def reason(self) -> str:
        """Why they closed."""
        reasons = (getattr(nanny, "closed_because", "") for nanny in self._nannies)
        return self._lost or next(filter(None, reasons), "closed")

    async def start(self) -> None:
        """Wait for the scheduler, which boots at the same time, and come up."""
        await self._reach_scheduler()
        if self._config.lends:
            self._counter = Counter(self._lent)
            self._counter.open()
        count = self._config.workers_per_vm
        name = self._order["instance_id"]
        if self._uses_cuda():
            self._nannies = self._cuda_nannies(name)
        else:
            self._nannies = [self._nanny(name if count == 1 else f"{name}-{i}") for i in range(count)]
        # Each is waited for, also if another fails: one that is on its way cannot be closed for certain.
        # Where this is cancelled they go on: a start that is cancelled leaves its worker process behind.
        starts = asyncio.gather(*self._nannies, return_exceptions=True)
        failed = [one for one in await asyncio.shield(starts) if isinstance(one, BaseException)]
        if failed:
            await self.close("start-failed")
            raise failed[0]

    def _uses_cuda(self) -> bool:
        said = self._config.worker_class
        if said is None and self._config.gpu:
            return importlib.util.find_spec("dask_cuda") is not None
        return said in _CUDA_NAMES

    def _cuda_nannies(self, name: str) -> list[Any]:
        """The nannies that `dask_cuda` makes, one for each GPU of the machine."""
        worker = import_term(_CUDA)
        module = sys.modules[worker.__module__]
        if getattr(module, "Nanny", None) is Nanny:
            module.Nanny = NodeNanny  # type: ignore[attr-defined]  # ours remember why they closed
        # One thread is what it gives a GPU unless told otherwise.
        own = {"nthreads": self._config.nthreads or 1, **self._config.worker_options}
        made = worker(self._scheduler, **{**self._soft(), **own, **self._owned(name)})
        logger.info("workers of dask_cuda: %d", len(made.nannies))
        return list(made.nannies)

    async def finished(self) -> None:
        """Wait until all have closed, or one has no worker process for too long."""
        ends = asyncio.gather(*(nanny.finished() for nanny in self._nannies))
        bare_since: float | None = None
        while not ends.done():
            await asyncio.wait([ends], timeout=1.0)
            # A nanny that failed to start its worker again stays as it is, for ever. One whose worker was
            # retired has closed, and leaves its neighbours to their work.
            if all(nanny.is_alive() or nanny.status in _OVER for nanny in self._nannies):
                bare_since = None
            elif bare_since is None:
                bare_since = time.monotonic()
            elif time.monotonic() - bare_since > self._config.scheduler_lost_timeout:
                self._lost = "no-worker-process"
                await self.close(self._lost)
                # One that could not be closed never says that it ended.
                ends.add_done_callback(lambda over: over.cancelled() or over.exception())
                ends.cancel()
                return
        await ends

    async def close(self, reason: str) -> None:
        """Close all of them, their workers too; one that cannot be closed keeps no other from it."""
        if self._counter is not None:
            self._counter.close()
        # One that failed to start was closed by that.
        left = [nanny for nanny in self._nannies if nanny.status != Status.failed]
        closes = (asyncio.wait_for(nanny.close(timeout=10, reason=reason), _CLOSES_S) for nanny in left)
        for error in await asyncio.gather(*closes, return_exceptions=True):
            if isinstance(error, BaseException):
                logger.warning("a worker of this machine could not be closed: %r", error)

    async def drain(self, limit_s: float) -> None:
        """Move results to other workers and let running tasks end, then leave the cluster."""
        workers = [nanny.worker_address for nanny in self._nannies if nanny.worker_address]
        if not workers:
            return
        try:
            await asyncio.wait_for(self._drain(workers), limit_s)
        except asyncio.TimeoutError:
            logger.warning("not everything could be moved within %.0f s", limit_s)
        except OSError as error:
            logger.warning("the scheduler cannot be asked to move results: %s", error)

    async def _drain(self, workers: list[str]) -> None:
        arguments = self._security.get_connection_args("worker")
        async with rpc(self._scheduler, connection_args=arguments) as scheduler:
            # For the `Cluster` objects that watch.
            await scheduler.log_event(topic=SPOT_TOPIC, msg=[self._order["instance_id"]])
            while True:
                # Answers {} while there are results that it could not move yet.
                moved = await scheduler.retire_workers(workers=workers, close_workers=False, remove=False)
                busy = await scheduler.processing(workers=workers)
                if set(workers) <= set(moved) and not any(busy.values()):
                    break
                await asyncio.sleep(0.5)
            # Now for good: an expected end, which counts against no task.
            await scheduler.retire_workers(workers=workers, close_workers=True, remove=True)
            logger.info("results of %d worker(s) moved to other workers", len(workers))

    async def _lent(self) -> Mapping[str, str]:
        """The credentials that a client lends now."""
        arguments = self._security.get_connection_args("worker")
        async with rpc(self._scheduler, connection_args=arguments) as scheduler:
            found: Mapping[str, str] = await scheduler.lent()
        return found

    async def _reach_scheduler(self) -> None:
        """Poll until the scheduler answers.

        Dask's own connect backs off further and further, so that a worker may sleep for long after the
        scheduler is up.
        """
        deadline = time.monotonic() + self._config.boot_timeout
        pause, patience = 0.1, 2.0
        arguments = self._security.get_connection_args("worker")
        while True:
            began = time.monotonic()
            try:
                comm = await connect(self._scheduler, timeout=patience, **arguments)
            except OSError as error:
                if time.monotonic() > deadline or "certificate" in str(error).lower():
                    raise
                if time.monotonic() - began < 1.5 * patience and "Timed out" in str(error):
                    patience = min(patience * 1.5, 20.0)
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 1.0)
            else:
                await comm.close()
                return

    def _nanny(self, name: str) -> Any:
        owned = self._owned(name)
        if self._config.worker_class:
            owned["worker_class"] = import_term(self._config.worker_class)
        return NodeNanny(self._scheduler, **{**self._soft(), **owned})

    def _soft(self) -> dict[str, Any]:
        """What worker_options may say otherwise."""
        config, count = self._config, self._config.workers_per_vm
        cores = CPU_COUNT - 1 if config.works else CPU_COUNT
        limit: str | float = config.memory_limit or "auto"
        if limit == "auto" and (config.works or count > 1):  # Dask's own would go by the threads
            limit = (1.0 - _FOR_SCHEDULER if config.works else 1.0) / count
        return {
            "nthreads": config.nthreads or max(1, cores // count),
            "memory_limit": limit,
            **config.worker_options,
        }

    def _owned(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "host": self._order["address"],
            "protocol": "tls",
            "security": self._security,
            "local_directory": self._order["scratch"],
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
            "death_timeout": max(_START_S, self._config.scheduler_lost_timeout),
        }
