"""`CoiledTaskRunner`: runs the tasks of a Prefect flow on a Dask cluster of EC2 machines.

The life of a runner, in order:

1. `flow(task_runner=CoiledTaskRunner(...))` keeps a configuration. Nothing is made.
2. At each flow run (and each retry of one) Prefect enters a `duplicate` of it. Still nothing is made:
   the flow run is not in context yet, and workers enter runners too.
3. The first `submit`, `map` or `client` makes the cluster, in a copy of the flow's context that is
   kept: provisioning is a subflow of the flow run. In an async flow this happens in a thread; the
   tasks submitted meanwhile are sent once the cluster is there.
4. Before the flow run gets its final state, `settle` waits for every task. Lost ones are reported
   as Crashed, and fail the flow run unless it was handed their error.
5. On the way out the cluster is closed, in the kept context: teardown is a subflow too. Tasks that a
   failed or cancelled flow run leaves behind become Cancelled.

On a worker the same class provisions nothing: its client is the worker's own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import distributed
from prefect.client.schemas.objects import RunInput
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.tasks import Task
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.engine import collect_task_run_inputs_sync
from prefect_dask import DaskTaskRunner
from typing_extensions import Self, Unpack

from prefect_coiled.errors import OptionsError, TaskLostError
from prefect_coiled.options.keywords import ClusterOptions, taken
from prefect_coiled.task_runner import flow_end
from prefect_coiled.task_runner.connection import Connection, OwnAddressClient
from prefect_coiled.task_runner.futures import CoiledFuture
from prefect_coiled.task_runner.ledger import Ledger, as_one, unseen
from prefect_coiled.task_runner.lost_tasks import Ending, report
from prefect_coiled.task_runner.machines import Machines
from prefect_coiled.task_runner.modules import Supply
from prefect_coiled.task_runner.opening import open_target
from prefect_coiled.task_runner.reach import check_reach
from prefect_coiled.task_runner.shipping import (
    FlowRunParcel,
    dumps,
    flush_worker,
    is_shipping,
    pack,
    run_task,
    task_context,
)

__all__ = ["CoiledTaskRunner"]

R = TypeVar("R")
flow_end.install()

# Prefect kills a cancelled flow run 30 s after the signal; the cluster's own teardown comes first.
_REPORT_SECONDS_WHEN_STOPPED = 5.0
_REPORT_SECONDS = 30.0
_FLUSH_SECONDS = 20.0
_CANCEL_SECONDS = 5.0


class CoiledTaskRunner(DaskTaskRunner, flow_end.Settles):
    """Runs a flow's tasks on a fresh Dask cluster of EC2 machines, gone when the flow run ends.

    Without an account, the cluster comes up in the sandbox on this machine.

    Args:
        cluster: A running Dask cluster to use instead; it is left running.
        address: The address of a running scheduler to use instead.
        cluster_class: Another class (or its full name) to make the cluster with.
        cluster_kwargs: Keywords for the cluster, as an alternative to giving them directly.
        adapt_kwargs: Keywords for the cluster's `adapt`; without them the cluster does not scale.
        client_kwargs: Keywords for the `distributed.Client`.
        performance_report_path: Where to write Dask's performance report.
        **options: Any keyword of `prefect_coiled.cluster.Cluster`: `n_workers`, `name` (attaches to
            a running cluster of that name), `account`, `backend_options`, `worker_cpu`,
            `worker_memory`, `idle_timeout` and so on.

    Raises:
        OptionsError: A keyword is not one of the cluster's, or its value is none that it takes.
        ValueError: The arguments contradict each other.

    Example:
        ```python
        from prefect import flow, task
        from prefect_coiled.task_runner import CoiledTaskRunner

        @task
        def double(x):
            return 2 * x

        @flow(task_runner=CoiledTaskRunner(n_workers=4))
        def doubles():
            return double.map(range(100)).result()
        ```
    """

    def __init__(
        self,
        cluster: distributed.deploy.Cluster | None = None,
        address: str | None = None,
        cluster_class: str | Callable[..., distributed.deploy.Cluster] | None = None,
        cluster_kwargs: dict[str, Any] | None = None,
        adapt_kwargs: dict[str, Any] | None = None,
        client_kwargs: dict[str, Any] | None = None,
        performance_report_path: str | None = None,
        **options: Unpack[ClusterOptions],
    ) -> None:
        _check(options)
        if options and (cluster or address or cluster_class):
            given = ", ".join(sorted(options))
            raise ValueError(f"Cannot specify {given} together with `cluster`, `address` or `cluster_class`")
        self._prepare_run()
        self._security: Any = None
        super().__init__(
            cluster=cluster,
            address=address,
            cluster_class=cluster_class,
            cluster_kwargs={**(cluster_kwargs or {}), **options},
            adapt_kwargs=adapt_kwargs,
            client_kwargs=client_kwargs,
            performance_report_path=performance_report_path,
        )
        self._started: bool
        self._given_cluster = cluster
        self._lost_cluster = False
        if not (cluster or address or cluster_class):
            _check(self.cluster_kwargs)

    def _prepare_run(self) -> None:
        """Set what belongs to one run of this runner; never compared, duplicated or pickled."""
        self._run_lock = threading.RLock()
        self._connection = Connection(self._open_cluster, self._send_backlog)
        self._in_flow = False
        self._backlog: list[tuple[CoiledFuture[Any], Callable[[], distributed.Future]]] = []
        self._backlog_sent = False
        self._ledger = Ledger()
        self._settled = False
        self._parcel = FlowRunParcel()
        self._machines: Machines | None = None
        self._supply: Supply | None = None

    # Configuration

    def _configuration(self) -> dict[str, Any]:
        return {
            "cluster": self._given_cluster,
            "address": self.address,
            "cluster_class": self.cluster_class,
            "cluster_kwargs": self.cluster_kwargs,
            "adapt_kwargs": self.adapt_kwargs,
            "client_kwargs": self._client_kwargs,
            "performance_report_path": self.performance_report_path,
        }

    def duplicate(self) -> Self:
        """A new runner of the same configuration, which makes a cluster of its own."""
        new = type(self)(**self._configuration())
        new._lost_cluster = self._lost_cluster
        return new

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CoiledTaskRunner):
            return NotImplemented
        return type(self) is type(other) and self._configuration() == other._configuration()

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        """Configuration alone. For a worker not even that: it provisions nothing."""
        if is_shipping():
            return {}
        state = self._configuration()
        state["lost_cluster"] = state.pop("cluster") is not None
        # Certificates and keys stay here.
        state["client_kwargs"] = {k: v for k, v in state["client_kwargs"].items() if k != "security"}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        lost_cluster = state.pop("lost_cluster", False)
        self.__init__(**state)  # type: ignore[misc]
        self._lost_cluster = lost_cluster

    def __repr__(self) -> str:
        name = self.cluster_kwargs.get("name") or self.address or self._given_cluster
        return f"{type(self).__name__}({name or ''})"

    # prefect_dask.get_dask_client reads these two, in this order, inside a flow.

    @property
    def client_kwargs(self) -> dict[str, Any]:
        """Keywords for a Dask client; with the cluster's TLS material while a flow runs here."""
        if self._started and not _on_worker() and FlowRunContext.get() is not None:
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
        if _on_worker():
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
        # A flow run's own logger, whose lines the UI shows; there is none outside of a flow.
        context = FlowRunContext.get()
        log: Any = get_run_logger() if context else self.logger
        opened = open_target(
            self._given_cluster or self.address,
            self.resolved_cluster_class or self.cluster_class,
            self.cluster_kwargs,
            context.parameters if context else None,
            stack=stack,
            stop=stop,
            log=log,
        )
        self._cluster = opened.made or self._given_cluster
        if self.adapt_kwargs and self._cluster is not None:
            adapting = self._cluster.adapt(**self.adapt_kwargs)
            if asyncio.iscoroutine(adapting):
                run_coro_as_sync(adapting)
        self._security = self._client_kwargs.get("security", getattr(self._cluster, "security", None))
        client: OwnAddressClient = stack.enter_context(OwnAddressClient(opened.target, **self._client_kwargs))
        supply = Supply(client, getattr(self._cluster, "package_sync_ignore", ()))
        supply.send()
        self._supply = supply
        if self.performance_report_path:
            # The report finds its client by distributed.get_client().
            stack.enter_context(distributed.Client.as_current(client))
            stack.enter_context(distributed.performance_report(self.performance_report_path))
        if opened.ours:
            check_reach(client, self._parcel.data())
            self._machines = Machines(opened.made, log)
            log.info("What the machines say: %s", self._machines.where())
        if client.dashboard_link:
            # Without its query: the token that opens the dashboard belongs in no log.
            link = str(client.dashboard_link).partition("?")[0]
            log.info("The Dask dashboard is available at %s", link)
        return client

    def _last_words(self, name: str | None) -> str:
        """What the machine of a lost worker said, unless this flow run is in a hurry."""
        if self._machines is None or self._connection.stop.is_set():
            return ""
        return self._machines.last_words(name)

    def _send_backlog(self) -> None:
        """Send, or fail, what was submitted while the cluster was being made."""
        failure = self._connection.failure
        with self._run_lock:
            backlog, self._backlog = self._backlog, []
            for future, send in backlog:
                if failure is None:
                    self._send(future, send)
                else:
                    future.fail(failure)
            self._backlog_sent = True

    # Tasks

    def submit(
        self,
        task: Task[Any, R],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> CoiledFuture[R]:
        """Send a task to the cluster, which is made now if this is the first one.

        In an async flow this returns at once; a cluster that cannot be made is then reported by the
        futures and by the flow run's end.

        Args:
            task: The task.
            parameters: Its parameters; futures of this runner become dependencies inside Dask.
            wait_for: Futures that must have completed first.
            dependencies: Task runs that the parameters came from, for the record.

        Raises:
            RuntimeError: The runner has not been started.
        """
        if not self._started:
            raise RuntimeError("The task runner must be started before submitting work.")
        if self._supply is not None:
            self._supply.refresh()
        task_run_id = uuid4()
        inputs: dict[str, set[RunInput]] = {
            k: set(collect_task_run_inputs_sync(v)) for k, v in parameters.items()
        }
        for name, more in (dependencies or {}).items():
            if name in inputs:
                inputs[name] = inputs[name] | more
        shared, own = self._parcel.data(), dumps(task_context(task, task_run_id, inputs))
        packed_task = dumps(task)
        call = {
            "task_run_id": task_run_id,
            "parameters": parameters,
            "wait_for": list(wait_for) if wait_for else None,
            "dependencies": inputs,
        }

        def send() -> distributed.Future:
            client = distributed.get_client() if _on_worker() else self._connection.ready
            return distributed.Client.submit(
                client,
                run_task,
                packed_task,
                shared,
                own,
                *pack(call),
                # An explicit key: a task run is never the same as another, and hashing it is dear.
                key=f"{task.name}-{task_run_id.hex}",
                pure=False,
            )

        future: CoiledFuture[R] = CoiledFuture(task, task_run_id, self._last_words)
        if not _on_worker():
            self._connect()
            if not _in_event_loop():
                self._connected()
        with self._run_lock:
            if self._connection.failure is not None:
                raise self._connection.failure
            self._settled = False
            if self._backlog_sent or _on_worker():
                self._send(future, send)
            else:
                # With the context of this call, which holds dask.annotate.
                self._ledger.add(future)
                self._backlog.append((future, partial(copy_context().run, send)))
        return future

    def _send(self, future: CoiledFuture[Any], send: Callable[[], distributed.Future]) -> None:
        try:
            future.bind(send())
        except Exception as error:
            if not self._connection.is_opening_here:
                raise
            # Submitted before the cluster was there; the future is all that is left to tell it to.
            future.fail(error)
        self._ledger.add(future)

    def settle(self, returned: Any = None) -> None:
        """Wait until every task has ended, and report the lost ones.

        Args:
            returned: What the flow returned. Lost tasks whose futures are in it decide the flow's
                state by Prefect's own rule.

        Raises:
            TaskLostError: A task was lost and the flow was not handed the error by `result`.
        """
        lost = self._ledger.settle(_REPORT_SECONDS)
        self._flush()
        self._settled = True
        if silent := unseen(lost, returned, self._in_flow):
            raise as_one(silent)

    def _flush(self) -> None:
        """Let the workers send what they still hold for the Prefect API."""
        client = self._connection.ready
        if client is None or client.status != "running":
            return
        try:
            client.sync(client._run, flush_worker, on_error="return", callback_timeout=_FLUSH_SECONDS)
        except Exception as error:  # logs only: the states of tasks were sent before their results
            self.logger.warning("Some workers did not send their last logs: %s", error)

    # The way in and out

    def __enter__(self) -> Self:
        """Start taking tasks. Makes nothing: the flow run is not in context yet."""
        if self._started:
            raise RuntimeError("This task runner is already started")
        self._prepare_run()
        self._started = True
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Close the cluster; nothing that was submitted is left without a terminal state."""
        try:
            if _on_worker():
                if exc_type is None:
                    self.settle()
            else:
                self._shut_down(exc_type)
        finally:
            self._started = False

    def _shut_down(self, exc_type: Any) -> None:
        error: BaseException | None = None
        if not self._settled and self._ledger and not self._in_flow and exc_type is None:
            # Used without a flow, as a context manager: the end of the block is the end of the run.
            try:
                self.settle()
            except TaskLostError as lost:
                error = lost
        if exc_type is not None or not self._settled:
            self._connection.stop.set()
        endings: list[Ending] = []
        if not self._settled:
            endings = self._abandon()
            if exc_type is None:
                self._flush()
        try:
            self._connection.close()
        except Exception as failed:  # raised below, once the tasks are reported
            self.logger.exception("The cluster could not be closed.")
            error = error or failed
        if endings:
            seconds = _REPORT_SECONDS if exc_type is None else _REPORT_SECONDS_WHEN_STOPPED
            self._connection.run(report, endings, seconds)
        if error is not None and exc_type is None:
            raise error

    def _abandon(self) -> list[Ending]:
        with self._run_lock:
            self._backlog.clear()
            endings, given_up = self._ledger.abandon()
        client = self._connection.ready
        if given_up and client is not None:
            try:
                client.sync(client._cancel, given_up, callback_timeout=_CANCEL_SECONDS)
            except Exception as error:  # the cluster is about to be closed, which ends them for good
                self.logger.debug("Could not cancel the remaining tasks: %s", error)
        return endings


def _check(options: Mapping[str, Any]) -> None:
    taken(options, "CoiledTaskRunner", runner=True)


def _on_worker() -> bool:
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
