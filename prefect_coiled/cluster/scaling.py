"""How many workers a `Cluster` has, which, and who reaches its scheduler: what changes while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed.core import Status
from distributed.deploy.adaptive import Adaptive as DaskAdaptive

from prefect_coiled.cluster.adapting import Adaptive as PatientAdaptive
from prefect_coiled.cluster.adapting import limits
from prefect_coiled.cluster.arrivals import Arrivals
from prefect_coiled.cluster.base import ClusterBase
from prefect_coiled.cluster.fleet import Workers
from prefect_coiled.cluster.request import Request
from prefect_coiled.cluster.sizes import WorkerSize, check_adaptive, worker_size
from prefect_coiled.errors import OptionsError, PrefectCoiledError, printable
from prefect_coiled.options import IngressRule
from prefect_coiled.options.ingress import ingress_rules
from prefect_coiled.plan.node_config import HOLD_AGAIN_S, LEAVING_TOPIC, machine_of
from prefect_coiled.records import InstanceRecord

logger = logging.getLogger(__name__)

# Seconds to wait for another client's launch to be done, and between two questions.
_OTHERS, _AGAIN = 60.0, 0.5


class ScalingCluster(ClusterBase):
    """A cluster whose workers come and go."""

    def __init__(self, request: Request) -> None:
        self._leaving = False
        self._scaling: asyncio.Lock | None = None
        self._begun: set[asyncio.Future[None]] = set()
        self._looking: asyncio.Future[None] | None = None
        self._counted_on: tuple[int, frozenset[str]] = (0, frozenset())
        self._told: set[str] = set()
        self._resizing = False
        # Whether it is Dask's own rule by which an `Adaptive` decides.
        self._asks = True
        # Who this is to the scheduler, while it launches and retires; one call at a time does.
        self._holder = uuid.uuid4().hex
        self._arrivals = Arrivals(
            lambda: set(self.workers) - set(map(str, self.observed)),
            self._look,
            lambda name: name in self.observed,
            lambda name: self._watching.expects(name),
        )
        super().__init__(request)

    @property
    def workers(self) -> Mapping[str, InstanceRecord]:
        """A live view of the worker machines, there or on their way, by name, which is the machine's id."""
        return Workers(lambda: {} if self.status == Status.closed else self._fleet.workers)

    @property
    def observed(self) -> set[str]:
        """The machines whose workers have joined, all of them."""
        count = self.launched.spec.worker_node.workers_per_vm if self.launched is not None else 1
        there = Counter(machine_of(str(w["name"])) for w in self.scheduler_info["workers"].values())
        return {machine for machine, workers in there.items() if workers >= count}

    def _update_worker_status(self, op: str, msg: Any) -> None:
        if op == "spot_notice":
            taken = list(map(str, msg))
            self._watching.announced(taken)
            for name in taken:  # it still runs, and is replaced: it counts no more
                self._fleet.away(name, for_good=True)
            return
        if op == "leaving":
            self._watching.expect(map(str, msg))
            return
        if op == "kept":
            self._kept(msg)
            return
        if op == "denied":
            (text, hint) = map(printable, msg)
            if hint not in self._told:  # once, however many tasks and workers it struck
                self._told.add(hint)
                logger.warning("A task was denied access to S3 (%s). %s", text, hint)
            return
        if op == "remove":
            name = machine_of(str(self.scheduler_info["workers"].get(msg, {}).get("name")))
            if self.launched is not None and not self._has_others(name, msg):
                self.launched.left(name)
            self._fleet.away(name, for_good=self._watching.expects(name))
            patience = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
            asyncio.get_running_loop().call_later(patience, self._give_up, name)
        elif op == "add":
            names = {machine_of(str(w["name"])) for w in msg["workers"].values()}
            self._watching.joined(names)
            self._arrivals.joined()
            if self.launched is not None:
                self.launched.came(names)
            size, awaited = self._counted_on
            self._counted_on = size, awaited - names
            if self._fleet.joined(names) and self.launched is not None:
                self._looking = asyncio.ensure_future(self._unasked(self._look()))
        super()._update_worker_status(op, msg)
        if self.launched is not None and not self._leaving:
            self._tell_workers()

    def _has_others(self, machine: str, address: str) -> bool:
        """Whether a machine has a worker beside the one at an address."""
        there = self.scheduler_info["workers"].items()
        return any(machine_of(str(w["name"])) == machine for at, w in there if at != address)

    def _kept(self, msg: Mapping[str, Any]) -> None:
        """The scheduler says what it did to keep the wanted number of workers, or that it could not."""
        text, ids = printable(str(msg["text"])), tuple(map(printable, msg["ids"]))
        if msg["warns"]:
            logger.warning("Cluster %s: %s", self.name, text)
        self._tell("replace_worker", text, ids=ids)
        if ids and not self._leaving:
            self._looking = asyncio.ensure_future(self._unasked(self._look()))

    def _give_up(self, name: str) -> None:
        # As Dask's own clusters: a worker that its nanny has started anew by now is no loss.
        if not self._leaving and self._fleet.give_up(name):
            self._watching.gone(name)
            size, awaited = self._counted_on
            if name in awaited:  # a size was asked for, and this one was counted as coming back
                self._looking = asyncio.ensure_future(self._unasked(self._scale(size)))

    async def _look(self) -> None:
        """Take what AWS has: another object, or another program, may have scaled the cluster."""
        for name in self._fleet.seen(await self.in_thread(self.started().listed_workers)):
            self._watching.gone(name)

    async def _unasked(self, doing: Awaitable[None]) -> None:
        """Do what nobody waits for: what AWS does not answer now, it may the next time."""
        try:
            await doing
        except PrefectCoiledError as error:
            logger.debug("Cluster %s: its machines were not looked after: %s", self.name, error)

    def scale(self, n: int = 0, memory: str | float | None = None, cores: float | None = None) -> Any:
        """Launch or retire workers so that there are so many. Returns once AWS has taken the request.

        Within an event loop it begins at once, as with Dask's own clusters: to await what is returned, or the
        cluster, is to wait for AWS.

        Args:
            memory: All workers together have at least this, in bytes or as a text such as "100 GiB".
            cores: All workers together have at least so many threads.

        Raises:
            OptionsError: If a number is none of 0 or more, or they would cost more than `max_hourly_cost`.
            AwsError: If not one more worker could be launched.
        """
        if self._leaving:
            return self.sync(asyncio.sleep, 0) if self.asynchronous else None
        size = self._worker_size().at_least(n, cores=cores, memory=memory)
        most = self.started().spec.most_workers
        if most is not None and size > most:
            raise OptionsError(
                f"scale to {size} workers",
                f"they would cost more than max_hourly_cost, below which is room for {most}",
                "Ask for fewer, or start another cluster.",
            )
        if not self.asynchronous:
            return self.sync(self._scale, size)
        # Noted before it has its first turn: who awaits the cluster next waits for it.
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
        """Launch and retire workers as the work asks for, and as `max_hourly_cost` lets it.

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
            OptionsError: A limit is none, or a keyword is misspelt: what has no limit costs money. Or the
                cluster is closed.
        """
        self.check_open("adapt")
        self._asks = asks = Adaptive is DaskAdaptive
        if asks:
            check_adaptive(kwargs)
            Adaptive = PatientAdaptive  # noqa: N806
        least, most = minimum, maximum
        if not (minimum is minimum_cores is minimum_memory is None):
            size = self._worker_size()
            least = 0 if minimum is None else minimum
            least = size.at_least(least, cores=minimum_cores, memory=minimum_memory, what="minimum_")
        if not (maximum is maximum_cores is maximum_memory is None):
            size = self._worker_size()
            most = size.at_most(maximum, cores=maximum_cores, memory=maximum_memory, what="maximum_")
        priced = self.launched.spec.most_workers if self.launched is not None else None
        if priced is not None:
            most = priced if most is None else min(most, priced)
        if least is not None and most is not None and least > most:
            raise OptionsError(f"minimum of {least} workers", f"is more than the maximum of {most:g}.")
        made = super().adapt(Adaptive=Adaptive, minimum=least, maximum=most, **kwargs)
        if self.launched is not None:
            self.loop.add_callback(self.tell_keeper, adapt=limits(made, asks=asks))
        return made

    def wait_for_workers(self, n_workers: int, timeout: Any = None) -> Any:
        """Wait until so many workers have joined; with `workers_per_vm`, those of so many machines.

        Args:
            timeout: Seconds, or a text such as "10 minutes"; without an end if not given.

        Raises:
            OptionsError: The cluster is closed.
            TimeoutError: They did not join in time.
        """
        self.check_open("wait_for_workers")
        each = self.launched.spec.worker_node.workers_per_vm if self.launched is not None else 1
        return super().wait_for_workers(n_workers * each, timeout)

    def _adapting(self) -> Any:
        """Dask's `Adaptive` that decides how many workers there are; None if none does.

        It ends with the last who refers to it, so that nothing here keeps it.
        """
        adaptive = getattr(self, "_adaptive", None)
        return adaptive if getattr(adaptive, "state", "") in ("starting", "running") else None

    def _worker_size(self) -> WorkerSize:
        spec = self.started().spec
        types = [*(m.instance_type for m in self.workers.values()), *spec.worker_types]
        there = self.scheduler_info["workers"].values()
        return worker_size(spec.worker_node, types, there, self.started().shared)

    async def _scale(self, n: int) -> None:
        """Scale to so many; who no longer waits for it does not end it.

        Its machines come all the same, for a call to AWS is not taken back: the scheduler has to be told
        which they are, or it launches as many again.
        """
        begun = asyncio.ensure_future(self._scale_to(n))
        self._begun.add(begun)
        begun.add_done_callback(self._scaled)
        await asyncio.shield(begun)

    def _scaled(self, begun: asyncio.Future[None]) -> None:
        self._begun.discard(begun)
        if not begun.cancelled() and (error := begun.exception()) is not None:
            logger.debug("Cluster %s was not scaled: %s", self.name, error)  # who waits is told

    async def _scale_to(self, n: int) -> None:
        if self._scaling is None:
            self._scaling = asyncio.Lock()
        async with self._scaling:
            if self._leaving:
                return  # as Dask's own clusters: there is nothing to scale
            # Nothing is launched beside this; what the scheduler has launched before is in AWS's list.
            # An `Adaptive` that decides says so each time: somebody else may have scaled by a number since.
            adaptive = self._adapting()
            adapts = adaptive is not None
            asked = {"adapt": limits(adaptive, asks=self._asks)} if adapts else {"wanted": n}
            del adaptive
            if not adapts:
                self._arrivals.anew()
            before = await self._hold(asked)
            told: dict[str, Any] = {} if adapts else dict(asked)  # again: the first word may be lost
            done = asyncio.Event()
            holding = asyncio.ensure_future(self._hold_on(done))
            try:
                if self._leaving:
                    told.clear()
                    return
                try:
                    more, coming = await self._lacking(n, before.get("unlisted", ()))
                    if more > 0:
                        told["launched"] = await self._grow(more)
                except PrefectCoiledError:
                    if not adapts:  # who asked is told that it came to nothing
                        told["wanted"] = before.get("wanted")
                    raise
                if more < 0:
                    # Who was retired is gone, whatever AWS says then: the size is as it was asked for.
                    await self._shrink(n, -more, coming)
            finally:
                done.set()
                await holding  # what it said last arrives before what is said now
                await self.tell_keeper(release=self._holder, **told)

    async def _hold(self, asked: dict[str, Any]) -> Mapping[str, Any]:
        """See that nobody else launches or retires workers beside this; wait for who does, with a bound."""
        end = time.monotonic() + _OTHERS
        reply = await self.tell_keeper(hold=self._holder, **asked)
        while reply.get("busy") and time.monotonic() < end and not self._leaving:
            await asyncio.sleep(_AGAIN)
            reply = await self.tell_keeper(hold=self._holder, **asked)
        # Too many are let go by the scheduler, should the other be at it still.
        return await self.tell_keeper(**asked) if reply.get("busy") else reply

    async def _hold_on(self, done: asyncio.Event) -> None:
        """Say again and again that this launches or retires workers, until it is done."""
        while not self._leaving:
            try:
                await asyncio.wait_for(done.wait(), HOLD_AGAIN_S)
                return
            except asyncio.TimeoutError:
                await self.tell_keeper(HOLD_AGAIN_S, quiet=True, hold=self._holder)

    async def _lacking(self, n: int, unlisted: Iterable[str]) -> tuple[int, list[str]]:
        """How many workers are to be launched, or less than 0 to go; and which are on their way unseen.

        Args:
            unlisted: Machines that the scheduler has launched, and that AWS may not list yet.
        """
        await self._look()
        self._counted_on = n, self._fleet.awaited
        coming = sorted(set(unlisted) - self._fleet.all.keys())
        return n - len(self.workers) - len(coming), coming

    async def _grow(self, more: int) -> list[str]:
        """Launch so many more workers. Returns their machines."""
        try:
            made = await self.in_thread(self.started().add, more)
        except PrefectCoiledError:
            with contextlib.suppress(PrefectCoiledError):
                await self._look()  # some may have come all the same
            raise
        self._fleet.launched(made)
        self._arrivals.expect()
        return [machine.instance_id for machine in made]

    async def _shrink(self, n: int, fewer: int, coming: Iterable[str]) -> None:
        """Retire workers, and end their machines.

        Args:
            n: How many stay.
            fewer: How many go.
            coming: Machines that are on their way, and that AWS does not list yet: they go first.
        """
        unseen = list(coming)[:fewer]
        if unseen:
            self._fleet.remove(unseen)
            await self._announce(unseen)
            await self.in_thread(self.started().terminate_workers, unseen)
        if fewer == len(unseen):
            return
        # Those that have not joined yet first, then those that the scheduler can best do without.
        waiting = [w for w in self.workers if w not in self.observed]
        found = await self.scheduler_comm.workers_to_close(target=n, attribute="name")
        idle = [w for w in found if w in self.workers]  # not those that AWS takes back anyway
        listed = dict.fromkeys([*waiting, *idle, *self.workers])
        chosen = [one for one in listed if one != self.started().shared][: fewer - len(unseen)]
        joined = [name for name in chosen if name in self.observed]
        await self._announce(chosen)
        await self.scheduler_comm.retire_workers(names=joined, remove=True, close_workers=True)
        self._resizing = True
        try:
            gone: Any = self.scale_down(chosen)  # of a subclass, it may be no coroutine
            if inspect.isawaitable(gone):
                await gone
        finally:
            self._resizing = False

    async def _announce(self, names: Iterable[str]) -> None:
        """Whoever watches the cluster is told that these are meant to go."""
        listed = list(names)
        self._watching.expect(listed)
        await self.scheduler_comm.log_event(topic=LEAVING_TOPIC, msg=listed)

    async def scale_down(self, workers: Iterable[str]) -> None:
        """Terminate the machines of these workers; Dask has retired them before."""
        shared = self.started().shared  # that machine stays as long as the cluster
        going = self._fleet.remove(name for name in workers if name != shared)
        if not going:
            return
        await self._announce(going)
        if not self._resizing:
            self._counted_on = 0, frozenset()  # another size than what was asked for by number
            if self._adapting() is None:
                await self.tell_keeper(gone=sorted(going))
        try:
            await self.in_thread(self.started().terminate_workers, going)
        except BaseException:
            self._fleet.launched(going.values())  # they still run, for all that is known
            raise

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
