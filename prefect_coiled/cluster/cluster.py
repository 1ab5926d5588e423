"""`Cluster`: launch a Dask cluster on EC2, or attach to one, and speak Dask's cluster contract.

    request (keywords) ─▶ launched (AWS, Prefect) ─▶ readiness: connect by TLS, wait for workers

What blocks runs in a thread, in the context in which the cluster was asked for: a cluster made inside a flow
has its provisioning and its removal recorded below that flow.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

import dask.config
from dask.utils import parse_timedelta
from distributed import Security
from distributed.core import Status, rpc
from distributed.deploy.adaptive import Adaptive as DaskAdaptive
from distributed.deploy.cluster import Cluster as DistributedCluster
from distributed.utils import Log, Logs
from typing_extensions import Unpack

from prefect_coiled import events
from prefect_coiled.blocks import load_account
from prefect_coiled.cluster.fleet import Fleet, Workers
from prefect_coiled.cluster.forgotten import open_clusters, remove_before_prefect_ends
from prefect_coiled.cluster.launched import Launched, launch
from prefect_coiled.cluster.modules import gather_modules, send_modules
from prefect_coiled.cluster.readiness import wait_until_ready
from prefect_coiled.cluster.request import Request
from prefect_coiled.cluster.sizes import WorkerSize, check_adaptive, worker_size
from prefect_coiled.cluster.watching import Watching
from prefect_coiled.costs import CostEstimate
from prefect_coiled.errors import OptionsError, PrefectCoiledError, StoppedError, printable
from prefect_coiled.options import IngressRule
from prefect_coiled.options.ingress import ingress_rules
from prefect_coiled.options.keywords import ClusterKeywords, arguments, signature
from prefect_coiled.plan.node_config import LEAVING_TOPIC
from prefect_coiled.records import ClusterRecord, InstanceRecord, Removal
from prefect_coiled.subscribers.notebook import CellBoard, in_notebook
from prefect_coiled.subscribers.notifications import Notifications
from prefect_coiled.subscribers.story import Story

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Seconds to wait for machines to be gone when a cluster is closed, and when the way down is a hurried one
# (Ctrl-C, cancellation: Prefect leaves 30 seconds).
PATIENCE, HURRIED = 120.0, 15.0


class Cluster(DistributedCluster):
    """A Dask cluster on EC2 machines of an AWS account, or of the local sandbox when there is none.

    Whatever is wrong with the keywords is an `OptionsError` before anything is made. If the cluster does not
    come up, or the wait is interrupted, what was launched is terminated before the error is raised.

    Args:
        n_workers: Workers to launch; 4 by default.
        **keywords: See the page of keywords.

    Raises:
        OptionsError: A keyword is wrong; nothing was made.
        AccountError: There is no such account, or its credentials do not work; nothing was made.
        ClusterStartError: The cluster did not come up; nothing is left running.

    Examples:
        ```python
        from dask.distributed import Client
        from prefect_coiled import Cluster

        with Cluster(n_workers=2) as cluster, Client(cluster) as client:
            print(client.submit(sum, [1, 2, 3]).result())
        ```
    """

    def __init__(self, n_workers: int | None = None, /, **keywords: Unpack[ClusterKeywords]) -> None:
        self.status = Status.closed  # until there is something to close: __del__ looks at it
        if n_workers is not None:
            if "n_workers" in keywords:
                raise OptionsError("n_workers", "was given twice.")
            keywords["n_workers"] = n_workers
        self._request = Request(**keywords)
        held = self._request.held
        self.timeout = float(held["timeout"] or 0)
        self.security: Security | None = None
        self.launched: Launched | None = None
        self.removal: Removal | None = None
        self.shutdown_on_close = self._request.closes
        self.stop_event = held["stop"] or threading.Event()
        self._fleet = Fleet()
        self._launching: asyncio.Future[Launched] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._leaving = False
        self._closed_at: datetime | None = None
        self._scaling: asyncio.Lock | None = None
        self._begun: set[asyncio.Future[None]] = set()
        self._looking: asyncio.Future[None] | None = None
        self._counted_on: tuple[int, frozenset[str]] = (0, frozenset())
        self._watching = Watching(self._tell)
        self._hurried = False
        self._told: set[str] = set()
        self._events = events.Stream(events.here())
        self._events.subscribe(self._log_line)
        if (report := held["report"]) is not None:
            self._events.subscribe(lambda e: report(e.step, e.text) if e.kind == "step" else None, shows=True)
        elif held["show_widget"] and not held["quiet"] and in_notebook():
            self._events.subscribe(CellBoard(held["name"] or "of this notebook"), shows=True)
        # Flows started from here belong below the flow that asked for the cluster, and are heard here.
        self._context = contextvars.copy_context()
        self._context.run(self._events.enter)
        self._modules = gather_modules(self.package_sync_ignore)
        super().__init__(
            asynchronous=held["asynchronous"], loop=held["loop"], quiet=held["quiet"], name=held["name"]
        )
        open_clusters.add(self)
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException:
                self.abort()
                raise

    @staticmethod
    def shares_loopback(account: str | None = None) -> bool:
        """Whether machines of that account reach what listens on this machine's loopback."""
        return load_account(account).shares_loopback

    # -- coming up

    async def _start(self) -> None:
        if self.status == Status.running:
            return
        if self.status in (Status.closing, Status.closed):
            raise ValueError("the cluster is closed")
        try:
            began = time.monotonic()
            self._launching = asyncio.ensure_future(
                self.in_thread(launch, self._request, self.stop_event, self._modules.files)
            )
            self.launched = launched = await asyncio.shield(self._launching)
            self.name = launched.record.name
            self.security = _security(launched)
            self._fleet.launched(launched.record.workers)
            if launched.attached and self._request.held["shutdown_on_close"] is None:
                self.shutdown_on_close = False
            least = min(launched.spec.min_workers, len(self.workers))
            # Packing and uploading have bounds of their own, and may take what they take.
            await wait_until_ready(self, launched, least=least, timeout=self.timeout, began=launched.since)
            self._tell_workers()
            remove_before_prefect_ends()
            if not launched.attached:
                ready, seconds = sorted(map(str, self.observed)), time.monotonic() - began - launched.waited
                text = f"{len(ready)} of {len(self.workers)} workers are ready"
                self._tell("cluster_ready", text, ids=tuple(ready), seconds=seconds)
            self._tell("dashboard", launched.dashboard_link, step="dashboard")
        except BaseException as error:
            self._tell("failed", error=error)
            # Whoever asked is told after everything is gone.
            self._hurried = True
            self.stop_event.set()
            try:
                await asyncio.shield(asyncio.ensure_future(self._close()))
            except PrefectCoiledError as left:
                # The first cause is told all the same.
                name = self.launched.record.name if self.launched is not None else ""
                logger.error("Cluster %s may still run; `prefect-coiled stop %s`: %s", name, name, left)
            raise

    async def connect(self, address: str) -> None:
        """Open the connection that Dask's own part of this class lives on.

        Raises:
            OSError: While nobody answers there.
        """
        assert self.security is not None
        comm = rpc(address, connection_args=self.security.get_connection_args("client"))
        self.scheduler_comm = comm
        try:
            await super()._start()
        except BaseException:
            self.scheduler_comm = None
            await comm.close_rpc()
            raise
        # Before any worker is waited for: those that join later get them too.
        try:
            await send_modules(comm, self._modules)
        except OptionsError as error:
            # Whoever comes to look, or to scale, may have other modules than the flow run that is at work.
            logger.warning("The modules of this program were not sent: %s", error)

    def sync_modules(self) -> Any:
        """Send the program's own modules to the running cluster, as they are now.

        Their new content counts from the next task on, on the workers that are there and on those that join
        later; connecting to a cluster does this by itself.

        Returns:
            The names of the modules.
        """
        return self.sync(self._sync_modules)

    async def _sync_modules(self) -> list[str]:
        self.started()
        self._modules = self._context.copy().run(gather_modules, self.package_sync_ignore)
        await send_modules(self.scheduler_comm, self._modules)
        return self._modules.names

    def started(self) -> Launched:
        """What was launched.

        Raises:
            PrefectCoiledError: If nothing was.
        """
        if self.launched is None:
            raise PrefectCoiledError("using the cluster", "it has not started")
        return self.launched

    @property
    def package_sync_ignore(self) -> tuple[str, ...]:
        """Names of packages that its machines do not get, or globs over them."""
        return tuple(self._request.held["package_sync_ignore"] or ())

    @property
    def record(self) -> ClusterRecord | None:
        """What was launched, as a record that goes through JSON; None before."""
        return self.launched.record if self.launched else None

    # -- the contract: scale, adapt, logs

    @property
    def workers(self) -> Mapping[str, InstanceRecord]:
        """A live view of the worker machines, there or on their way, by name, which is the machine's id."""
        return Workers(lambda: {} if self.status == Status.closed else self._fleet.workers)

    def _update_worker_status(self, op: str, msg: Any) -> None:
        if op == "spot_notice":
            self._watching.announced(map(str, msg))
            return
        if op == "leaving":
            self._watching.expect(map(str, msg))
            return
        if op == "denied":
            (text, hint) = map(printable, msg)
            if hint not in self._told:  # once, however many tasks and workers it struck
                self._told.add(hint)
                logger.warning("A task was denied access to S3 (%s). %s", text, hint)
            return
        if op == "remove":
            name = str(self.scheduler_info["workers"].get(msg, {}).get("name"))
            self._fleet.away(name, for_good=self._watching.expects(name))
            patience = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
            asyncio.get_running_loop().call_later(patience, self._give_up, name)
        elif op == "add":
            names = {str(w["name"]) for w in msg["workers"].values()}
            self._watching.joined(names)
            if self._fleet.joined(names) and self.launched is not None:
                self._looking = asyncio.ensure_future(self._look())
        super()._update_worker_status(op, msg)
        if self.launched is not None and not self._leaving:
            self._tell_workers()

    def _give_up(self, name: str) -> None:
        # As Dask's own clusters: a worker that its nanny has started anew by now is no loss.
        if not self._leaving and self._fleet.give_up(name):
            self._watching.gone(name)
            size, awaited = self._counted_on
            if name in awaited:  # a size was asked for, and this one was counted as coming back
                self._looking = asyncio.ensure_future(self._scale(size))

    async def _look(self) -> None:
        """Take what AWS has: another object, or another program, may have scaled the cluster."""
        for name in self._fleet.seen(await self.in_thread(self.started().listed_workers)):
            self._watching.gone(name)

    def scale(self, n: int = 0, memory: str | float | None = None, cores: float | None = None) -> Any:
        """Launch or retire workers so that there are so many. Returns once AWS has taken the request.

        Within an event loop it begins at once, as with Dask's own clusters: to await what is returned, or the
        cluster, is to wait for AWS.

        Args:
            n: Workers.
            memory: All workers together have at least this, in bytes or as a text such as "100 GiB".
            cores: All workers together have at least so many threads.

        Raises:
            OptionsError: If a number is none of 0 or more.
            AwsError: If not one more worker could be launched.
        """
        if self._leaving:
            return self.sync(asyncio.sleep, 0) if self.asynchronous else None
        size = self._worker_size().at_least(n, cores=cores, memory=memory)
        if not self.asynchronous:
            return self.sync(self._scale, size)
        begun = asyncio.ensure_future(self._scale(size))
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        return begun

    def adapt(
        self,
        Adaptive: type[Any] = DaskAdaptive,  # noqa: N803  Dask's own word
        minimum: int | None = None,
        maximum: float | None = None,
        minimum_cores: float | None = None,
        maximum_cores: float | None = None,
        minimum_memory: str | float | None = None,
        maximum_memory: str | float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Launch and retire workers as the work asks for.

        Args:
            Adaptive: The class that decides.
            minimum: Workers that are always there.
            maximum: Never more workers than this.
            minimum_cores: All workers together always have at least so many threads.
            maximum_cores: All workers together never have more threads.
            minimum_memory: The same for memory, in bytes or as a text such as "100 GiB".
            maximum_memory: The same for memory.
            **kwargs: Of `distributed.deploy.Adaptive`: `interval`, `wait_count`, `target_duration` and so on.

        Raises:
            OptionsError: A limit is none, or a keyword is misspelt: what has no limit costs money.
        """
        if Adaptive is DaskAdaptive:
            check_adaptive(kwargs)
        least, most = minimum, maximum
        if not (minimum is minimum_cores is minimum_memory is None):
            size = self._worker_size()
            least = size.at_least(minimum or 0, cores=minimum_cores, memory=minimum_memory, what="minimum_")
        if not (maximum is maximum_cores is maximum_memory is None):
            size = self._worker_size()
            most = size.at_most(maximum, cores=maximum_cores, memory=maximum_memory, what="maximum_")
        if least is not None and most is not None and least > most:
            raise OptionsError(f"minimum of {least} workers", f"is more than the maximum of {most:g}.")
        return super().adapt(Adaptive=Adaptive, minimum=least, maximum=most, **kwargs)

    def _worker_size(self) -> WorkerSize:
        spec = self.started().spec
        types = [*(m.instance_type for m in self.workers.values()), *spec.worker_types]
        return worker_size(spec.worker_node, types, self.scheduler_info["workers"].values())

    async def _scale(self, n: int) -> None:
        if self._scaling is None:
            self._scaling = asyncio.Lock()
        async with self._scaling:
            if self._leaving:
                return  # as Dask's own clusters: there is nothing to scale
            await self._look()
            self._counted_on = n, self._fleet.awaited
            more = n - len(self.workers)
            if more > 0:
                try:
                    self._fleet.launched(await self.in_thread(self.started().add, more))
                except PrefectCoiledError:
                    with contextlib.suppress(PrefectCoiledError):
                        await self._look()  # some may have come all the same
                    raise
            elif more < 0:
                # Those that have not joined yet first, then those that the scheduler can best do without.
                waiting = [w for w in self.workers if w not in self.observed]
                idle = await self.scheduler_comm.workers_to_close(target=n, attribute="name")
                chosen = list(dict.fromkeys([*waiting, *idle, *self.workers]))[:-more]
                joined = [name for name in chosen if name in self.observed]
                await self._announce(chosen)
                await self.scheduler_comm.retire_workers(names=joined, remove=True, close_workers=True)
                gone: Any = self.scale_down(chosen)  # of a subclass, it may be no coroutine
                if inspect.isawaitable(gone):
                    await gone

    async def _announce(self, names: Iterable[str]) -> None:
        """Whoever watches the cluster is told that these are meant to go."""
        listed = list(names)
        self._watching.expect(listed)
        await self.scheduler_comm.log_event(topic=LEAVING_TOPIC, msg=listed)

    def set_ingress(self, ingress: Any) -> Any:
        """Change who may reach the scheduler while the cluster runs.

        Args:
            ingress: Rules such as [{"ports": [8786, 8787], "cidr": "me"}], a CIDR or "me" for the usual
                ports, or an empty list to close all. What is not said any more is closed. Rules that only say
                ports are for those who get in now.

        Raises:
            OptionsError: If a rule is wrong, or the security group is the user's own.
        """
        return self.sync(self._set_ingress, ingress)

    async def _set_ingress(self, ingress: Any) -> tuple[IngressRule, ...]:
        launched = self.started()
        now = [rule.cidr for rule in launched.spec.ingress]
        rules = ingress_rules({"cidr": ingress} if isinstance(ingress, str) else ingress, now)
        return await self.in_thread(launched.set_ingress, rules)

    async def scale_down(self, workers: Iterable[str]) -> None:
        """Terminate the machines of these workers; Dask has retired them before."""
        going = self._fleet.remove(workers)
        if not going:
            return
        await self._announce(going)
        try:
            await self.in_thread(self.started().terminate_workers, going)
        except BaseException:
            self._fleet.launched(going.values())  # they still run, for all that is known
            raise

    async def _get_logs(self, cluster: bool = True, scheduler: bool = True, workers: Any = True) -> Logs:
        out = Logs()
        if cluster:
            out["Cluster"] = Log("\n".join(str(line) for _, line in self._cluster_manager_logs))
        launched = self.started()
        wanted: dict[str, str] = {}
        if scheduler:
            wanted["Scheduler"] = launched.record.scheduler.instance_id
        if workers:
            chosen = set(self._fleet.workers) if workers is True else set(workers)
            by_address = {a: str(w["name"]) for a, w in self.scheduler_info["workers"].items()}
            wanted.update({name: by_address.get(name, name) for name in sorted(chosen)})
        texts = await self.in_thread(launched.logs, wanted.values())
        out.update({name: Log(texts[one]) for name, one in wanted.items()})
        return out

    @property
    def dashboard_link(self) -> str:
        """Address of the dashboard, with the token that opens it; keep it to yourself."""
        return self.launched.dashboard_link if self.launched else ""

    def cost(self) -> CostEstimate:
        """What the cluster costs by AWS's list prices from its launch until now, or until it was closed."""
        return self.started().cost(self._closed_at)

    # -- going down

    def abort(self) -> None:
        """End a launch or a running cluster in a hurry: after Ctrl-C, a cancellation or a crash."""
        self._hurried = True
        self.stop_event.set()
        if self.status != Status.closed and not self.called_from_running_loop:
            self.sync(self._close)
        self._stop_loop()

    def close(self, timeout: float | None = None) -> Any:
        """Remove the cluster, or let go of one that stays.

        May be called again: after an error, when `status` is "failed", and as long as something is left for
        which machines had to be gone first (`removal.left`).

        Args:
            timeout: Seconds to wait for this, where it is called from another thread than the event loop's.

        Raises:
            PrefectCoiledError: If the machines could not be asked to end. They may still run.
        """
        if self.status == Status.closed and self.removal is not None and not self.removal.is_done:
            self.status = Status.failed
        closing = super().close(timeout)
        self._stop_loop()
        return closing

    def _stop_loop(self) -> None:
        """As Dask's own clusters: one that is closed has no thread; one that may close again keeps it."""
        done = self.status == Status.closed and (self.removal is None or self.removal.is_done)
        if done and not self.asynchronous and not self.called_from_running_loop:
            self._loop_runner.stop()

    def sync(self, func: Any, *args: Any, **more: Any) -> Any:
        """Run a coroutine function on the event loop; on one for it alone after the cluster has closed."""
        started = self._loop_runner.is_started()
        if started or self.asynchronous or self.called_from_running_loop:
            return super().sync(func, *args, **more)
        more.pop("callback_timeout", None)
        with ThreadPoolExecutor(1) as thread:  # there may be a running loop in this one, as in a notebook
            return thread.submit(lambda: asyncio.run(func(*args, **more))).result()

    async def _close(self) -> None:
        while self._closing is not None:
            await asyncio.shield(self._closing)
        if self.status == Status.closed:
            return
        self._closing = asyncio.get_running_loop().create_future()
        self._leaving = True
        self._watching.stop()
        ended = Status.failed
        try:
            try:
                await self._end()
            finally:
                if self.launched is not None:
                    # Machines that could not be ended count as what AWS shows.
                    await self.in_thread(self.launched.let_go)
            ended = Status.closed
            self.scheduler_info["workers"].clear()
            open_clusters.discard(self)
        finally:
            self.status = ended
            closing, self._closing = self._closing, None
            closing.set_result(None)

    async def _end(self) -> None:
        if self.launched is None and self._launching is not None:
            # It sees the stop event, and cleans up itself if it does not succeed after all.
            self.stop_event.set()
            with contextlib.suppress(Exception):  # told by whoever waits for the start
                self.launched = await self._launching
        launched = self.launched if self.shutdown_on_close else None
        self._tell("leaving")
        # First the machines, because they cost money; what is recorded comes after.
        ended = await self.in_thread(launched.terminate, list(self._fleet.all)) if launched else []
        patience = HURRIED if self._hurried or self.stop_event.is_set() else PATIENCE
        if self._scaling is not None:
            # A launch that was on its way still finds what it needs; its machines are removed by their tags.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._scaling.acquire(), patience)
                self._scaling.release()
        self._closed_at = self._closed_at or datetime.now(timezone.utc)
        if self.scheduler_comm is not None:
            await super()._close()
        if launched:
            removal = await self.in_thread(launched.remove, ended, patience)
            self.removal = removal if self.removal is None else self.removal.then(removal)
            self.step("cost", f"{self.cost().short} at list prices, in {launched.place}")
            self.step("removed", str(self.removal))
        if self.launched is not None:
            # What is told depends on the flow run; the end does not.
            with contextlib.suppress(StoppedError):
                await self.in_thread(self._end_story, self.launched)

    def _end_story(self, launched: Launched) -> None:
        if not launched.attached:
            launched.tell("ended", record=launched.record, cost=str(self.cost()), removal=self.removal)
        for one in self._events.subscribers:
            if isinstance(one, Story):
                one.close(self._hurried)
            elif isinstance(one, Notifications):
                one.close()

    def remove_at_exit(self) -> None:
        """The way down when the interpreter ends: no thread and no flow can be started any more."""
        if self.launched is not None and self.shutdown_on_close and self.status != Status.closed:
            self.status = Status.closed
            self._watching.expect(self._fleet.all)  # Dask's own part still runs, and sees them go
            run = self._context.copy().run
            run(self.launched.remove_plainly, [*self._fleet.all], HURRIED, threads=False)

    # -- small things

    def __await__(self) -> Any:
        async def started() -> Cluster:
            if self.status == Status.created:
                await self._start()
            await asyncio.gather(*self._begun)
            return self

        return started().__await__()

    def step(self, name: str, state: str) -> None:
        """Tell how far a step is."""
        self._context.copy().run(events.step, name, state)

    def _tell(self, kind: str, text: str = "", **fields: Any) -> None:
        """Tell something of this cluster, in the context in which it was asked for."""
        if self.launched is not None:
            self._context.copy().run(partial(self.launched.tell, kind, text, **fields))

    def _tell_workers(self) -> None:
        ready, of = len(self.observed), len(self.workers)
        self._tell("workers", f"{ready} ready (of {of})", step="workers", ready=ready, of=of)

    def _log_line(self, event: events.Event) -> None:
        """Keep progress among the cluster's own log lines; print it where nobody else shows it."""
        if event.kind != "step":
            return
        if self._events.is_shown:
            self._cluster_manager_logs.append((datetime.now(), f"{event.step}: {event.text}"))
        else:
            self._log(f"{event.step}: {event.text}")

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run what blocks in a thread of its own, in the context in which the cluster was asked for.

        Raises:
            StoppedError: The flow run of that context takes no further step: that it was suspended is no
                Exception, and what is none never comes out of an event loop.
        """
        context = self._context.run(contextvars.copy_context)

        def call() -> T:
            try:
                return context.run(function, *args)
            except Exception:
                raise
            except BaseException as error:
                why = f"the flow run takes no further step ({type(error).__name__})"
                raise StoppedError(f"cluster {self.name!r}", why) from error

        return await asyncio.get_running_loop().run_in_executor(None, call)


# What `help` and notebooks show follows from the table of keywords.
_OWN = re.compile(r" *n_workers: .*\n.*\n")
Cluster.__doc__ = _OWN.sub(lambda _: arguments() + "\n", Cluster.__doc__ or "", count=1)
Cluster.__init__.__signature__ = signature()  # type: ignore[attr-defined]


def _security(launched: Launched) -> Security:
    """TLS of one cluster, held in memory: other clusters of the process have theirs."""
    return Security(
        tls_ca_file=launched.keys.ca,
        tls_client_cert=launched.keys.cert,
        tls_client_key=launched.keys.key.get_secret_value(),
        require_encryption=True,
    )
