"""`Cluster`: launch a Dask cluster on EC2, or attach to one, and speak Dask's cluster contract.

    request (keywords) ─▶ launched (AWS, Prefect) ─▶ readiness: connect by TLS, wait for workers

Here it comes up and goes down; `scaling` is for between, and `base` for what both use.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from distributed import Security
from distributed.core import Status
from typing_extensions import Unpack

from prefect_coiled.cluster.forgotten import open_clusters, remove_before_prefect_ends
from prefect_coiled.cluster.interrupted import tell_at_the_end
from prefect_coiled.cluster.launch import launch
from prefect_coiled.cluster.launched import Launched
from prefect_coiled.cluster.lending import Lending
from prefect_coiled.cluster.readiness import wait_until_ready
from prefect_coiled.cluster.request import Request
from prefect_coiled.cluster.scaling import ScalingCluster
from prefect_coiled.errors import OptionsError, PrefectCoiledError, StoppedError
from prefect_coiled.events.spans import Span
from prefect_coiled.options.keywords import ClusterKeywords, arguments, keyword, signature
from prefect_coiled.records import Removal
from prefect_coiled.subscribers.notifications import Notifications
from prefect_coiled.subscribers.story import Story

logger = logging.getLogger(__name__)

# Seconds to wait for machines to be gone when a cluster is closed, and when the way down is a hurried one
# (Ctrl-C, cancellation: Prefect leaves 30 seconds).
PATIENCE, HURRIED = 120.0, 15.0
# Seconds in which the scheduler has to take that it launches nothing any more.
_LAST_WORD = 2.0


class Cluster(ScalingCluster):
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
        for name in keywords:
            keyword(name)
        request = Request(**keywords)
        self.timeout = float(request.held["timeout"] or 0)
        self.removal: Removal | None = None
        self.shutdown_on_close = request.closes
        self._came_up = False
        self._launching: asyncio.Future[Launched] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._hurried = False
        self._lending: Lending | None = None
        super().__init__(request)
        open_clusters.add(self)
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException as error:
                with self._first_cause():
                    self.abort()
                if isinstance(error, KeyboardInterrupt):
                    self.tell_interrupted()
                raise

    def __enter__(self) -> Any:
        self.check_open("with")
        return super().__enter__()

    async def __aenter__(self) -> Any:
        self.check_open("async with")
        return await super().__aenter__()

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> Any:
        left = super().__exit__(exc_type, exc_value, traceback)
        if exc_type is KeyboardInterrupt:
            self.tell_interrupted()
        return left

    def tell_interrupted(self) -> None:
        """Say what became of it as the last line of this program, if Ctrl-C ends it."""
        if self.launched is None:
            tell_at_the_end()
        else:
            tell_at_the_end(self.launched.record.name, self.removal, self.cost().short)

    async def _start(self) -> None:
        if self.status == Status.running:
            return
        self.check_open("starting")
        try:
            began = time.monotonic()
            self._launching = asyncio.ensure_future(
                self.in_thread(launch, self._request, self.stop_event, self._modules.files)
            )
            launched = self._have(await asyncio.shield(self._launching))
            self.name = self._events.of = launched.record.name
            self.security = _security(launched)
            self._fleet.launched(launched.workers)
            if launched.lender is not None:
                self._lending = Lending(self, launched.lender)
            least = min(launched.spec.min_workers, len(self.workers))
            # Packing and uploading have bounds of their own, and may take what they take.
            await wait_until_ready(self, launched, least=least, timeout=self.timeout, began=launched.since)
            self._tell_workers()
            if self._lending is not None:
                await self._lending.start()
            self._arrivals.expect()
            if not launched.attached:
                await self.tell_keeper(launched=sorted(w.instance_id for w in launched.record.workers))
            remove_before_prefect_ends()
            if not launched.attached:
                ready, seconds = sorted(map(str, self.observed)), time.monotonic() - began - launched.waited
                text = f"{len(ready)} of {len(self.workers)} workers are ready"
                spans = launched.heard.spans if launched.heard is not None else ()
                self._tell("cluster_ready", text, ids=tuple(ready), seconds=seconds, spans=spans)
            self._tell("dashboard", launched.dashboard_link, step="dashboard")
            self._came_up = True
        except BaseException as error:
            if self.launched is None or not self.launched.attached:
                self._tell("failed", error=error)
            # Whoever asked is told after everything is gone.
            self._hurried = True
            self.stop_event.set()
            with self._first_cause():
                await asyncio.shield(asyncio.ensure_future(self._close()))
            raise

    @contextlib.contextmanager
    def _first_cause(self) -> Iterator[None]:
        """Log what fails of a removal: why it was begun is what is raised."""
        try:
            yield
        except PrefectCoiledError as left:
            what, look = "What was launched", "ls"
            if self.launched is not None:
                what, look = f"Cluster {self.launched.record.name}", f"stop {self.launched.record.name}"
            logger.error("%s may still run; `prefect-coiled %s`: %s", what, look, left)

    def _have(self, launched: Launched) -> Launched:
        """This is its cluster. One that was there already stays, unless somebody asked for its end."""
        if launched.attached and self._request.held["shutdown_on_close"] is None:
            self.shutdown_on_close = False
        self.launched = launched
        return launched

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

    async def _close(self) -> None:
        while self._closing is not None:
            await asyncio.shield(self._closing)
        if self.status == Status.closed:
            return
        self._closing = asyncio.get_running_loop().create_future()
        self._leaving = True
        self._watching.stop()
        self._arrivals.stop()
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
                self._have(await self._launching)
        ends = self.shutdown_on_close
        if not self._came_up and self.launched is not None:
            # Who could not use it leaves nothing of it, and ends none that others use.
            ends = not self.launched.attached
        launched = self.launched if ends else None
        self._tell("leaving")
        if self._lending is not None:
            await self._lending.stop()
        if launched is not None:
            await self.tell_keeper(_LAST_WORD, stop=True)
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
            spans: tuple[Span, ...] = ()
            if not self._hurried:
                with contextlib.suppress(PrefectCoiledError):  # it is told without
                    spans = launched.timeline()
            launched.tell(
                "ended",
                record=launched.record,
                cost=str(self.cost()),
                removal=self.removal,
                spans=spans,
            )
        for one in self._events.subscribers:
            if isinstance(one, Story):
                one.close(self._hurried)
        self._close_notifications()

    def _close_notifications(self) -> None:
        """Have those sent that are not sent yet: nobody does after this."""
        for one in self._events.subscribers:
            if isinstance(one, Notifications):
                one.close()

    def remove_at_exit(self) -> None:
        """The way down when the interpreter ends: no thread and no flow can be started any more."""
        if self.launched is not None and self.shutdown_on_close and self.status != Status.closed:
            self.status = Status.closed
            self._watching.expect(self._fleet.all)  # Dask's own part still runs, and sees them go
            run = self._context.copy().run
            try:
                run(self.launched.remove_plainly, [*self._fleet.all], HURRIED, threads=False)
            finally:
                self._close_notifications()

    def __await__(self) -> Any:
        async def started() -> Cluster:
            if self.status == Status.created:
                await self._start()
            await asyncio.gather(*self._begun)
            return self

        return started().__await__()


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
