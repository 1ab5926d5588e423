"""Runs prefect-dask's own task-runner tests against `CoiledTaskRunner`.

Give the directory of those tests (src/integrations/prefect-dask/tests of the Prefect repository):

    PREFECT_DASK_TESTS=DIR pytest tests/upstream

`PREFECT_DASK_TESTS_ON=sandbox` runs them on clusters of the sandbox; by default on local ones.
As a plugin it puts our class in the place of `prefect_dask.DaskTaskRunner` before collection.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import dask
import distributed
import prefect_dask
import prefect_dask.task_runners
from distributed.utils import get_mp_context
from prefect.testing import utilities

from prefect_coiled.task_runner import CoiledTaskRunner

# Each test starts workers, as processes of their own: forked from one that has imported what they need.
dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
get_mp_context().set_forkserver_preload(["distributed", "prefect_coiled.task_runner.worker"])

# What upstream's fixtures say of a local cluster and a cluster of machines does not know.
LOCAL_ONLY = ("processes", "dashboard_address")

# Their harness gives its server half a minute to start, which a busy machine may need more of.
utilities.prefect_test_harness = partial(utilities.prefect_test_harness, server_startup_timeout=120)


class UpstreamTaskRunner(CoiledTaskRunner):
    """Ours, with the cluster that upstream's tests expect when they name none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not (args or kwargs.get("cluster") or kwargs.get("address") or kwargs.get("cluster_class")):
            if os.environ.get("PREFECT_DASK_TESTS_ON") == "sandbox":
                given = kwargs.get("cluster_kwargs") or {}
                wanted = {k: v for k, v in given.items() if k not in LOCAL_ONLY}
                kwargs["cluster_kwargs"] = {"n_workers": 2, "nthreads": 2, **wanted}
            else:
                kwargs["cluster_class"] = distributed.LocalCluster
        super().__init__(*args, **kwargs)


prefect_dask.DaskTaskRunner = UpstreamTaskRunner  # type: ignore[misc]
prefect_dask.task_runners.DaskTaskRunner = UpstreamTaskRunner  # type: ignore[misc]
