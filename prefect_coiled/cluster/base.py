"""What every part of a `Cluster` uses: what was launched, the connection, and what is told of it.

What blocks runs in a thread, in the context in which the cluster was asked for: a cluster made inside a flow
has its provisioning and its removal recorded below that flow.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from distributed import Security
from distributed.core import Status, rpc
from distributed.deploy.cluster import Cluster as DistributedCluster
from distributed.utils import Log, Logs

from prefect_coiled import events
from prefect_coiled.blocks import load_account
from prefect_coiled.cluster.fleet import Fleet
from prefect_coiled.cluster.launched import Launched
from prefect_coiled.cluster.modules import gather_modules, send_modules
from prefect_coiled.cluster.request import Request
from prefect_coiled.cluster.watching import Watching
from prefect_coiled.costs import CostEstimate
from prefect_coiled.errors import OptionsError, PrefectCoiledError, StoppedError
from prefect_coiled.events.spans import Span
from prefect_coiled.internals.cloudpickle import write_by_value
from prefect_coiled.plan.node_config import machine_of
from prefect_coiled.records import ClusterRecord
from prefect_coiled.subscribers.notebook import CellBoard, in_notebook

T = TypeVar("T")
# Seconds for the scheduler to answer, which may have to wait for a launch of its own.
_ANSWERS = 30.0
logger = logging.getLogger(__name__)
write_by_value()


class ClusterBase(DistributedCluster):
    """A cluster as the rooms beside this one know it; `Cluster` is what becomes of it."""

    def __init__(self, request: Request) -> None:
        held = request.held
        self._request = request
        self.security: Security | None = None
        self.launched: Launched | None = None
        self.stop_event = held["stop"] or threading.Event()
        self._fleet = Fleet()
        self._watching = Watching(self._tell)
        self._closed_at: datetime | None = None
        self._events = events.Stream(events.here(), of=held["name"] or "")
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

    def __reduce__(self) -> Any:
        text = "a cluster is at work in the process that has it, and is not pickled: pass its name"
        raise TypeError(f"{text}, and attach to it there: Cluster(name={self.name!r})")

    @staticmethod
    def shares_loopback(account: str | None = None) -> bool:
        """Whether machines of that account reach what listens on this machine's loopback."""
        return load_account(account).shares_loopback

    @staticmethod
    def has_egress(**keywords: Any) -> bool:
        """Whether machines of a cluster with these keywords reach the internet.

        Raises:
            OptionsError: A keyword is wrong.
        """
        request = Request(**keywords)
        return request.merged(load_account(request.held["account"])).options.egress != "none"

    def check_open(self, what: str) -> None:
        """Refuse what only a cluster that is not closed can do. To scale one is nothing, as with Dask's own.

        Args:
            what: The method that is called.

        Raises:
            OptionsError: It is closed, or about to be.
        """
        if self.status in (Status.closing, Status.closed):
            raise OptionsError(f"{what} of cluster {self.name!r}", "it is closed.", "Make another one.")

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

    @property
    def dashboard_link(self) -> str:
        """Address of the dashboard, with the token that opens it; keep it to yourself."""
        return self.launched.dashboard_link if self.launched else ""

    def cost(self) -> CostEstimate:
        """What the cluster costs by AWS's list prices from its launch until now, or until it was closed."""
        return self.started().cost(self._closed_at)

    def timeline(self) -> tuple[Span, ...]:
        """How the cluster came up: what was done from when to when, and what of it the rest waited for.

        What its machines did is read from their logs, which takes a call to AWS for each hundred of them.

        Returns:
            Spans in the order in which they began; those on the critical path are marked.
        """
        return self.started().timeline()

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

    async def tell_keeper(
        self, patience: float = _ANSWERS, *, quiet: bool = False, **told: Any
    ) -> Mapping[str, Any]:
        """Tell the scheduler's machine, which keeps the wanted number of workers up; see `Keeper.told`.

        One that does not answer keeps nothing up either.

        Args:
            patience: Seconds to wait for its answer.
            quiet: Whether it matters little if it does not hear it.
        """
        if self.scheduler_comm is None:
            return {}
        try:
            reply = await asyncio.wait_for(self.scheduler_comm.keep(**told), patience)
        except Exception as error:  # it may be gone, or of a version that knows other words
            level = logging.DEBUG if quiet or told.get("stop") else logging.WARNING
            text = "The scheduler was not told how many workers are wanted: %s"
            logger.log(level, text, error or "no answer")
            return {}
        return reply if isinstance(reply, dict) else {}

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
            wanted.update({name: machine_of(by_address.get(name, name)) for name in sorted(chosen)})
        texts = await self.in_thread(launched.logs, wanted.values())
        out.update({name: Log(texts[one]) for name, one in wanted.items()})
        return out

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

    def sync(self, func: Any, *args: Any, **more: Any) -> Any:
        """Run a coroutine function on the event loop; on one for it alone after the cluster has closed."""
        started = self._loop_runner.is_started()
        if started or self.asynchronous or self.called_from_running_loop:
            return super().sync(func, *args, **more)
        more.pop("callback_timeout", None)
        with ThreadPoolExecutor(1) as thread:  # there may be a running loop in this one, as in a notebook
            return thread.submit(lambda: asyncio.run(func(*args, **more))).result()

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
