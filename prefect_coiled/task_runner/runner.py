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
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakSet

import distributed
from prefect.client.schemas.objects import RunInput
from prefect.context import FlowRunContext
from prefect.tasks import Task
from typing_extensions import Self

from prefect_coiled.errors import TaskLostError
from prefect_coiled.internals.distributed import cancel
from prefect_coiled.internals.prefect import try_again_where_reached
from prefect_coiled.task_runner import flow_end
from prefect_coiled.task_runner.connecting import ConnectedRunner, on_worker
from prefect_coiled.task_runner.future_list import CoiledFutureList
from prefect_coiled.task_runner.futures import CoiledFuture
from prefect_coiled.task_runner.ledger import Ledger, as_one, fetch_returned, unseen
from prefect_coiled.task_runner.lost_tasks import Ended, report
from prefect_coiled.task_runner.parcel import task_context
from prefect_coiled.task_runner.recording import Recording
from prefect_coiled.task_runner.results import warn_of_disks
from prefect_coiled.task_runner.submission import (
    Request,
    Submission,
    as_lists,
    inputs_of,
    wait_for_others,
)
from prefect_coiled.task_runner.transactions import Part
from prefect_coiled.task_runner.wishes import wishes_of

R = TypeVar("R")
flow_end.install()
try_again_where_reached()

# Prefect kills a cancelled flow run 30 s after the signal; the cluster's own teardown comes first.
_REPORT_SECONDS_WHEN_STOPPED = 5.0
_REPORT_SECONDS = 30.0
_CANCEL_SECONDS = 5.0
# For the workers to hand over what the API has not got yet.
_RECORD_SECONDS_WHEN_STOPPED = 4.0
_RECORD_SECONDS = 20.0


class CoiledTaskRunner(ConnectedRunner, flow_end.Settles):
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

    def _prepare_run(self) -> None:
        """Set what belongs to one run of this runner."""
        super()._prepare_run()
        self._run_lock = threading.RLock()
        self._backlog: list[tuple[CoiledFuture[Any], Callable[[], None]]] = []
        self._backlog_sent = False
        self._ledger = Ledger()
        self._settled = False
        self._recording = Recording()
        self._given: WeakSet[CoiledFuture[Any]] = WeakSet()

    # Tasks

    def submit(
        self,
        task: Task[Any, R],
        parameters: dict[str, Any],
        wait_for: Any = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> CoiledFuture[R]:
        """Send a task to the cluster, which is made now if this is the first one.

        In an async flow this returns at once; a cluster that cannot be made is then reported by the
        futures and by the flow run's end.

        Args:
            task: The task.
            parameters: Its parameters; futures of this runner become dependencies inside Dask.
            wait_for: Futures that must have completed first, in any shape: one, a list, a dictionary,
                nested ones, `allow_failure` of one.
            dependencies: Task runs that the parameters came from, for the record.

        Raises:
            ArgumentError: A parameter cannot be sent to a worker.
            RuntimeError: The runner has not been started.
        """
        if not self._started:
            raise RuntimeError("The task runner must be started before submitting work.")
        if self._supply is not None:
            self._supply.refresh()
        task_run_id = uuid4()
        wait_for = as_lists(wait_for)
        inputs = inputs_of(parameters, dependencies)
        if wait_for or any(inputs.values()):
            # Before anything here is locked: what they are of may submit to this runner too.
            wait_for_others(parameters, wait_for)
        asked = wishes_of(task)
        flow_run = FlowRunContext.get()
        future: CoiledFuture[R] = CoiledFuture(
            task,
            task_run_id,
            self._last_words,
            self._ledger.remove,
            flow_run.flow_run.id if flow_run and flow_run.flow_run else None,
        )
        request = Request(
            task,
            task_run_id,
            parameters,
            wait_for or None,
            inputs,
            task_context(task, task_run_id, inputs, wait_for),
            asked.annotations,
            asked.again,
            future,
        )
        if on_worker():
            self._given.add(future)
            Part.begin_one(future)
            self._ledger.add(future)
            self._send(request)
            return future
        self._connect()
        if not _in_event_loop():
            self._connected()
        with self._run_lock:
            if self._connection.failure is not None:
                raise self._connection.failure
            # What waits for the futures of a transaction waits for none that was not sent.
            Part.begin_one(future)
            if self._relay is not None:
                self._relay.task_run(task_run_id)
            self._settled = False
            self._ledger.add(future)
            if self._backlog_sent:
                self._send(request)
            else:
                self._backlog.append((future, partial(copy_context().run, self._send_late, request)))
        return future

    def map(
        self, task: Task[Any, R], parameters: dict[str, Any], wait_for: Any = None
    ) -> CoiledFutureList[R]:
        """Send a task for each of many values, as few graphs.

        Args:
            task: The task.
            parameters: Its parameters; those that are iterable are mapped over, unless `unmapped`.
            wait_for: Futures that must have completed first, in any shape.
        """
        wait_for = as_lists(wait_for)
        submission = None if not self._started else self._present_submission()
        if submission is None:
            return self._map(task, parameters, wait_for)
        with submission.together():
            return self._map(task, parameters, wait_for)

    def _map(self, task: Task[Any, R], parameters: dict[str, Any], wait_for: Any) -> CoiledFutureList[R]:
        futures: list[Any] = super().map(task, parameters, wait_for)
        # To mypy a list that is an iterator has to be one; Prefect's is none either.
        return CoiledFutureList(futures)  # type: ignore[abstract]

    @property
    def has_given(self) -> bool:
        """Whether somebody still has a future of a task that this one sent."""
        return bool(self._given)

    def _present_submission(self) -> Submission | None:
        """What sends tasks; none while the cluster is being made, in an async flow."""
        if on_worker():
            return self._on_worker_submission()
        self._connect()
        if not _in_event_loop():
            self._connected()
        return self._submission if self._backlog_sent else None

    def _on_worker_submission(self) -> Submission:
        if self._submission is None:
            client = distributed.get_client()
            self._submission = Submission(client, uuid4().hex[:12], self._parcel)
        return self._submission

    def _send(self, request: Request, late: bool = False) -> None:
        submission = self._on_worker_submission() if on_worker() else self._submission
        assert submission is not None
        if self._disks_go:
            try:
                # One warning will do.
                self._disks_go = not warn_of_disks(request.task, self._log())
            except Exception:  # a storage that cannot be loaded: the task will say so itself
                self._disks_go = False
        try:
            submission.send(request, at_once=on_worker() or self._connection.is_opening_here)
        except Exception as error:
            self._ledger.remove(request.future)
            if request.future.part is not None and not late:
                request.future.part.leave()
            request.future.fail(error)
            raise

    def _send_late(self, request: Request) -> None:
        """Submitted before the cluster was there; the future is all that is left to tell an error to."""
        try:
            self._send(request, late=True)
        except Exception:  # the future has it
            self._ledger.add(request.future)

    def _opened(self) -> None:
        """Send, or fail, what was submitted while the cluster was being made."""
        failure = self._connection.failure
        with self._run_lock:
            backlog, self._backlog = self._backlog, []
            for future, send in backlog:
                if failure is None:
                    send()
                else:
                    future.fail(failure)
            self._backlog_sent = True

    # The flow run's end

    def settle(self, returned: Any = None) -> None:
        """Wait until every task has ended, and report the lost ones.

        Args:
            returned: What the flow returned. Lost tasks whose futures are in it decide the flow's
                state by Prefect's own rule.

        Raises:
            TaskLostError: A task was lost and the flow was not handed the error by `result`.
        """
        lost, endings = self._ledger.settle()
        fetch_returned(returned)
        self._record()
        self._report(endings, _REPORT_SECONDS)
        self._settled = True
        if silent := unseen(lost, returned, self._in_flow):
            raise as_one(silent)

    def _record(self, seconds: float = _RECORD_SECONDS) -> None:
        """See to it that the API gets what the workers still hold for it."""
        client = distributed.get_client() if on_worker() else self._connection.ready
        if client is None or client.status != "running" or self._submission is None:
            return
        # In the flow run's context, which is gone when the runner is left.
        run = _call if on_worker() else self._connection.run
        run(self._recording.take_over, client, self._submission, seconds)

    def _report(self, endings: list[Ended], seconds: float) -> None:
        """Report what has not ended by itself, but for what did, and is on its way to the API."""
        if endings := [each for each in endings if each.task_run_id not in self._recording.ends]:
            run = _call if on_worker() else self._connection.run
            run(report, endings, seconds)

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
            if on_worker():
                self._leave_worker(exc_type)
            else:
                self._shut_down(exc_type)
        finally:
            self._started = False

    def _leave_worker(self, exc_type: Any) -> None:
        if self._submission is None:
            return
        try:
            if exc_type is None:
                self.settle()
        finally:
            self._submission.close()

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
        endings: list[Ended] = []
        try:
            if not self._settled:
                endings = self._abandon()
                self._record(_RECORD_SECONDS if exc_type is None else _RECORD_SECONDS_WHEN_STOPPED)
        except Exception as failed:  # the cluster is closed all the same
            self.logger.exception("What became of the tasks could not be recorded.")
            error = error or failed
        finally:
            try:
                self._connection.close()
            except Exception as failed:  # raised below, once the tasks are reported
                self.logger.exception("The cluster could not be closed.")
                error = error or failed
        self._report(endings, _REPORT_SECONDS if exc_type is None else _REPORT_SECONDS_WHEN_STOPPED)
        if exc_type is KeyboardInterrupt:
            self._tell_interrupted()
        if error is not None and exc_type is None:
            raise error

    def _abandon(self) -> list[Ended]:
        with self._run_lock:
            self._backlog.clear()
            endings, given_up = self._ledger.abandon()
        client = self._connection.ready
        if given_up and client is not None:
            try:
                cancel(client, given_up, _CANCEL_SECONDS)
            except Exception as error:  # the cluster is about to be closed, which ends them for good
                self.logger.debug("Could not cancel the remaining tasks: %s", error)
        return endings


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
