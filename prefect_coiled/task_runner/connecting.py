"""A task runner's cluster and its Dask client: made at first use, in the flow's context."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import distributed
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.utilities.asyncutils import run_coro_as_sync

from prefect_coiled.errors import OptionsError, PrefectCoiledError
from prefect_coiled.node.silence import TOLD, bear
from prefect_coiled.relay.ownership import Own
from prefect_coiled.relay.serving import Relay
from prefect_coiled.task_runner.configuration import ConfiguredRunner
from prefect_coiled.task_runner.connection import Connection, OwnAddressClient
from prefect_coiled.task_runner.modules import Supply
from prefect_coiled.task_runner.once import Once
from prefect_coiled.task_runner.opening import open_target
from prefect_coiled.task_runner.parcel import FlowRunParcel
from prefect_coiled.task_runner.reach import check_reach
from prefect_coiled.task_runner.results import keep_results
from prefect_coiled.task_runner.submission import Submission
from prefect_coiled.task_runner.worker_logs import WorkerLogs


class ConnectedRunner(ConfiguredRunner):
    """A task runner that has a cluster; see `CoiledTaskRunner`."""

    _started: bool

    def _prepare_run(self) -> None:
        """Set what belongs to one run of this runner."""
        super()._prepare_run()
        self._connection = Connection(self._open_cluster, self._opened)
        self._in_flow = False
        self._parcel = FlowRunParcel()
        self._machines: WorkerLogs | None = None
        self._supply: Supply | None = None
        self._submission: Submission | None = None
        self._relay: Relay | None = None
        # Whether to look at where the next task keeps its results.
        self._disks_go = False

    # prefect_dask.get_dask_client reads these two, in this order, inside a flow.

    @property
    def client_kwargs(self) -> dict[str, Any]:
        """Keywords for a Dask client; with the cluster's TLS material while a flow runs here."""
        if self._started and not on_worker() and FlowRunContext.get() is not None:
            self._connected()
        kwargs = dict(self._client_kwargs)
        if self._security is not None:
            kwargs.setdefault("security", self._security)
        return kwargs

    @client_kwargs.setter
    def client_kwargs(self, value: dict[str, Any]) -> None:
        self._client_kwargs = value

    @property
    def _client(self) -> Any:
        return self._connected() if self._started else None

    @_client.setter
    def _client(self, value: Any) -> None:
        """Upstream's constructor clears it; there is nothing to clear here."""

    # The cluster

    def _opened(self) -> None:
        """Called once there is a cluster, or is none to come, in the thread that made it."""

    @property
    def client(self) -> Any:
        """The Dask client, connected to the cluster, which is made at first use.

        In an async flow this blocks the event loop while machines boot; `await runner.ready()` first.
        """
        return self._connected()

    async def ready(self) -> Any:
        """Make the cluster without blocking the event loop; return the Dask client."""
        return await asyncio.to_thread(self._connected)

    def _connected(self) -> Any:
        if on_worker():
            return distributed.get_client()
        self._connect()
        return self._connection.client()

    def _connect(self) -> None:
        if self._connection.start():
            self._in_flow = FlowRunContext.get() is not None

    def _open_cluster(self, stack: ExitStack, stop: threading.Event) -> OwnAddressClient:
        if self._lost_cluster:
            raise OptionsError(
                "CoiledTaskRunner", "its `cluster` cannot go to another process", "Use `name` or `address`."
            )
        context, log = FlowRunContext.get(), self._log()
        opened = open_target(
            self._given_cluster or self.address,
            self.resolved_cluster_class or self.cluster_class,
            self.cluster_kwargs,
            context.parameters if context else None,
            api_relay=self.api_relay,
            stack=stack,
            stop=stop,
            log=log,
        )
        self._cluster = opened.made or self._given_cluster
        self._disks_go = not opened.beside
        if opened.keeps:
            keep_results(context, self._cluster)
        if self.adapt_kwargs and self._cluster is not None:
            adapting = self._cluster.adapt(**self.adapt_kwargs)
            if asyncio.iscoroutine(adapting):
                run_coro_as_sync(adapting)
        elif opened.made is not None and not getattr(opened.made, "workers", True):
            log.warning("The cluster has no workers: tasks wait until somebody scales it (`n_workers`).")
        self._security = self._client_kwargs.get("security", getattr(self._cluster, "security", None))
        client: OwnAddressClient = stack.enter_context(OwnAddressClient(opened.target, **self._client_kwargs))
        _bear_silence(client)
        log.info("%s", opened.way)
        if opened.way.relay:
            self._relay = Relay(_own(context))
            self._relay.open(client)
            stack.callback(self._relay.close)
            self._parcel.relay = self._relay.id
        supply = Supply(client, getattr(self._cluster, "package_sync_ignore", ()))
        supply.send()
        self._supply = supply
        client.register_plugin(Once())
        self._submission = Submission(client, uuid4().hex[:12], self._parcel)
        stack.callback(self._submission.close)
        if self.performance_report_path:
            # The report finds its client by distributed.get_client().
            stack.enter_context(distributed.Client.as_current(client))
            stack.enter_context(distributed.performance_report(self.performance_report_path))
        if opened.ours:
            check_reach(client, self._parcel.data())
            self._machines = WorkerLogs(opened.made, log)
            log.info("What the machines say: %s", self._machines.where())
        if client.dashboard_link:
            # Without its query: the token that opens the dashboard belongs in no log.
            link = str(client.dashboard_link).partition("?")[0]
            known = opened.ours and opened.made is not None
            how = f": `prefect-coiled dashboard {opened.made.name}` opens it" if known else ""
            log.info("The Dask dashboard is available at %s%s", link, how)
        return client

    def _log(self) -> Any:
        """A flow run's own logger, whose lines the UI shows; there is none outside of a flow."""
        return get_run_logger() if FlowRunContext.get() else self.logger

    def _tell_interrupted(self) -> None:
        """Say what became of the cluster as the last line of this program, if Ctrl-C ends it."""
        from prefect_coiled.cluster import Cluster
        from prefect_coiled.cluster.interrupted import tell_at_the_end

        cluster = getattr(self, "_cluster", None)
        if isinstance(cluster, Cluster):
            cluster.tell_interrupted()
        elif isinstance(failure := self._connection.failure, PrefectCoiledError):
            tell_at_the_end(left=failure.left)

    def _last_words(self, name: str | None) -> str:
        """What the machine of a lost worker said, unless this flow run is in a hurry."""
        if self._machines is None or self._connection.stop.is_set():
            return ""
        return self._machines.last_words(name)


def _bear_silence(client: OwnAddressClient) -> None:
    """Wait for a scheduler of ours that is silent for as long as it waits for this client."""
    seconds = client.scheduler_info().get(TOLD)
    stream = getattr(client.scheduler_comm.comm, "stream", None) if client.scheduler_comm else None
    if seconds and stream is not None:
        bear(stream.socket, float(seconds))


def _own(context: FlowRunContext | None) -> Own:
    """What tasks of a flow run may name by its relay."""
    flow_run: Any = context.flow_run if context is not None else None
    if flow_run is None:
        return Own()
    return Own(
        flow_run.id,
        flow_run.flow_id,
        flow_run.deployment_id,
        flow_run.work_queue_id,
        flow_run.work_pool_name,
    )


def on_worker() -> bool:
    """Whether this thread runs a task of Dask's."""
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True
