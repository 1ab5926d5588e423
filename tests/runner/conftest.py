"""A Prefect server and a TLS Dask cluster of processes, shared by the tests of the task runner."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import dask
import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import TaskRun
from prefect.settings import get_current_settings

from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.task_runner.recording import wait_until_recorded

from . import apart

# Whether the folder's tests run on workers that have no way to the Prefect API: `make relay-test`.
APART = os.environ.get("PREFECT_COILED_WORKERS", "")
# What the suite sets for its Prefect servers, for processes that start one of their own.
FAST = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


@pytest.fixture(scope="session", autouse=True)
def needs_a_server(prefect_server: None) -> Iterator[None]:
    """Each test talks to the suite's Prefect server, which does not end before it knows all."""
    yield
    wait_until_recorded()


@pytest.fixture(scope="session")
def security() -> Security:
    return Security.temporary()


@pytest.fixture(scope="session")
def dask_cluster(
    security: Security, prefect_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    """Two worker processes of two threads, TLS; a task whose worker dies is given up at once."""
    # Scheduler and workers read it as they are made: tests of other clusters follow in this process.
    theirs = {
        "distributed.scheduler.allowed-failures": 0,
        # What a worker of ours has in its own configuration.
        "distributed.comm.tls.ca-file": security.tls_ca_file,
        "distributed.comm.tls.client.cert": security.tls_client_cert,
        "distributed.comm.tls.client.key": security.tls_client_key,
    }
    with ExitStack() as stack:
        with dask.config.set(theirs):
            cluster = stack.enter_context(_made(security, theirs, tmp_path_factory))
        yield cluster


@pytest.fixture(autouse=True)
def patient_with_workers() -> Iterator[None]:
    """A nanny starts its worker again; on a busy machine that may take longer than Dask's 15 s."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "5 minutes"}):
        yield


def _made(
    security: Security, config: dict[str, Any], folders: pytest.TempPathFactory
) -> AbstractContextManager[Any]:
    if APART:
        api = str(get_current_settings().api.url)
        return apart.cluster(security, api, folders.mktemp("apart"), APART != "walled")
    local: AbstractContextManager[Any] = LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        processes=True,
        dashboard_address=None,
        protocol="tls://",
        security=security,
        config=config,  # also of workers that take the place of lost ones, which are made much later
    )
    return local


@pytest.fixture
def runner(dask_cluster: LocalCluster, security: Security) -> CoiledTaskRunner:
    """A runner on the shared cluster."""
    dask_cluster.sync(dask_cluster._correct_state)
    kwargs: dict[str, Any] = {"client_kwargs": {"security": security}}
    if APART:
        kwargs["api_relay"] = "always"
    return CoiledTaskRunner(address=dask_cluster.scheduler_address, **kwargs)


@pytest.fixture
def relayed(dask_cluster: LocalCluster, security: Security) -> Callable[..., CoiledTaskRunner]:
    """Makes runners on the shared cluster whose tasks ask through the flow's process."""

    def make(**more: Any) -> CoiledTaskRunner:
        dask_cluster.sync(dask_cluster._correct_state)
        kwargs = {"client_kwargs": {"security": security}, "api_relay": "always", **more}
        return CoiledTaskRunner(address=dask_cluster.scheduler_address, **kwargs)

    return make


@pytest.fixture
def client() -> Iterator[Any]:
    """Prefect's client."""
    with get_client(sync_client=True) as made:
        yield made


def task_runs(flow_run_id: Any) -> list[TaskRun]:
    with get_client(sync_client=True) as client:
        return client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
            task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[flow_run_id])),
        )


def eventually(check: Callable[[], Any], timeout: float = 300.0) -> Any:
    """Poll until a check gives something true; the API lags behind the runs."""
    deadline = time.monotonic() + timeout
    while not (value := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout} s; the last value was {value!r}")
        time.sleep(0.1)
    return value


def states_of(flow_run_id: Any) -> dict[str, list[str]]:
    """The state names of a flow run's task runs, by task name."""
    states: dict[str, list[str]] = {}
    for run in task_runs(flow_run_id):
        name = run.name.rsplit("-", 1)[0]
        states.setdefault(name, []).append(run.state.name if run.state else "none")
    return {name: sorted(found) for name, found in states.items()}


def shown(flow_run_id: Any, **states: list[str]) -> None:
    """Wait until the API shows these tasks, no others, in these states: it records after the flow ends."""
    eventually(lambda: states_of(flow_run_id) == states)


def flow_run_state(flow_run_id: Any) -> str:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        return state.name if state and state.name else "none"
