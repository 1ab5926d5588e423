"""Keeps the wanted number of workers up, on the scheduler's machine: with a client, and without one.

    a worker is lost ─▶ AWS's list of the cluster's machines ─▶ `Keeping`: how many lack ─▶ RunInstances

It launches by the templates that name this machine, with the machine's role, which may launch nothing else. A
machine that is not wanted any more powers off by itself once its worker was retired, so that nothing here
terminates one. What is done is said in the log, and to the `Cluster` objects that listen.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from prefect_coiled.errors import AccessDeniedError, AwsError, UnavailableError
from prefect_coiled.node.adapting import Adapting
from prefect_coiled.node.keeping import NOT_LISTED_YET_S, Keeping
from prefect_coiled.plan import tags
from prefect_coiled.plan.aws_codes import SLOW_DOWN
from prefect_coiled.plan.aws_errors import aws_error
from prefect_coiled.plan.launching import LARGEST_CALL, fewer_may_fit, halves, type_denied
from prefect_coiled.plan.node_config import NodeConfig

logger = logging.getLogger("distributed.node")

# Seconds between two turns.
TURN_S = 1.0
# Seconds after its own limit in which a machine that did not come up powers off.
_BOOT_MARGIN_S = 60.0
# Seconds to wait for a call that is on its way when the cluster ends.
_LAST_CALL_S = 5.0
_DENIED = (
    "The machines' role, or its permissions boundary, is of an earlier version: set the account up again "
    "(`prefect-coiled setup region --account NAME`); an administrator renews the boundary "
    "(`prefect-coiled setup iam --account NAME --user NAME --apply`)."
)


class Dask(NamedTuple):
    """What a keeper uses of the scheduler.

    Attributes:
        workers: Gives the machines that have a worker now.
        clusters: How many `Cluster` objects are connected.
        target: How many workers Dask wants for the work that there is, to be done in so many seconds.
        retire: Retires workers that are not needed, until so many are left.
        let_go: Retires up to so many of these machines whose workers have nothing to do. Returns which.
        say: Tells the `Cluster` objects: a text, ids of machines, whether it is a warning.
    """

    workers: Callable[[], Iterable[str]]
    clusters: Callable[[], int]
    target: Callable[[float | None], int]
    retire: Callable[[int], Awaitable[None]]
    let_go: Callable[[set[str], int], Awaitable[list[str]]]
    say: Callable[[str, list[str], bool], None]


class Keeper:
    """Keeps the workers of one cluster.

    Args:
        machine: The id of the scheduler's own machine.
        client: Makes a client of EC2, of the machine's role.
        patience: Seconds that a machine may be without its worker.
        pace: By what all pauses are multiplied.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        machine: str,
        client: Callable[[], Any],
        scheduler: Dask,
        patience: float,
        pace: float = 1.0,
    ) -> None:
        assert config.keep is not None
        self._keep = config.keep
        self._filters = tags.filters(
            tags.cluster_filter(config.account, config.cluster, config.keep.uid),
        )
        self._machine, self._works = machine, config.works
        self._make_client = client
        self._client: Any = None
        self._scheduler = scheduler
        boot_s = config.boot_timeout + _BOOT_MARGIN_S
        self.keeping = Keeping(time.monotonic(), config.keep.n_workers, patience, boot_s, pace=pace)
        self._adapting: Adapting | None = None
        self._lock = asyncio.Lock()
        self._stopped = False
        self._denied = self._said_denied = False
        self._refused: set[str] = set()
        self._told = ""
        self._last: AwsError | None = None
        self._serial = 0
        self._unsure: tuple[str, int, float] | None = None

    async def turn(self) -> None:
        """Look whether workers lack, and launch what does."""
        if self._lock.locked() or self._stopped:
            return
        async with self._lock:
            keeping = self.keeping
            keeping.workers(time.monotonic(), self._scheduler.workers())
            if not self._scheduler.clusters():
                keeping.alone(time.monotonic())
            if self._adapting is not None and not await self._adapt(self._adapting):
                return
            now = time.monotonic()
            over = self._adapting is None and keeping.excess_due(now)
            if self._denied or not (over or keeping.look_due(now)):
                return
            try:
                states = await asyncio.to_thread(self._look)
            except AwsError as error:
                keeping.unanswered(time.monotonic())
                self._denied = isinstance(error, AccessDeniedError)
                self._say_denied(error) if self._denied else self._failed(error)
                return
            if self._stopped or states.get(self._machine, "running") not in ("pending", "running"):
                self._stopped = True  # somebody removes the cluster
                return
            if not self._works:
                states.pop(self._machine, None)
            now = time.monotonic()
            keeping.workers(now, self._scheduler.workers())
            keeping.machines(now, states)
            if over:
                await self._let_go(*keeping.excess(now))
                return
            count = keeping.lacking(now)
            if count and keeping.may_try(now):
                await self._launch(count)
            if keeping.spent:
                self._say_spent()

    async def _let_go(self, machines: set[str], count: int) -> None:
        """Retire those that are too many; who is at work is let go once it has done it."""
        gone = await self._scheduler.let_go(machines, count) if count else []
        if gone:
            self._tell(f"retired {_machines(len(gone))}: more had come than are wanted", gone)

    async def stop(self) -> None:
        """Launch nothing any more; a call that is on its way is waited for a moment."""
        self._stopped = True
        try:
            await asyncio.wait_for(self._lock.acquire(), _LAST_CALL_S)
            self._lock.release()
        except asyncio.TimeoutError:
            logger.warning("a launch of workers is on its way; it is found by its tags")

    async def told(
        self,
        wanted: int | None = None,
        fewer: int = 0,
        launched: Iterable[str] = (),
        hold: str = "",
        release: str = "",
        stop: bool = False,
        adapt: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A client says how many machines are wanted, and what it does about that itself.

        Args:
            wanted: So many.
            fewer: So many less than until now.
            launched: Machines that it has launched.
            hold: That it is about to launch and retire workers itself, under a name for that.
            release: That it is done with it.
            stop: Whether the cluster is about to be removed.
            adapt: Between which limits that number follows the work; see `Adapting`.

        Returns:
            How many were "wanted" before, and what is "unlisted" of what was launched. Or that it is "busy":
            nothing of it is done, for another client launches or retires workers now.
        """
        if stop:
            await self.stop()
            return {}
        async with self._lock:  # a launch that is on its way is in AWS's list when the client looks
            keeping, now = self.keeping, time.monotonic()
            if hold and not keeping.hold(now, hold):
                return {"busy": True}
            before = keeping.wanted
            self._denied = False  # the role may be another one by now
            self._refused.clear()
            if wanted is None and fewer and self._adapting is None:
                wanted = before - fewer
            if adapt is not None:
                self._adapting = Adapting(**adapt, asked_at=now)
            elif wanted is not None:
                self._adapting = None
            keeping.told(now, wanted, launched)
            if release:
                keeping.release(release)
            return {"wanted": before, "unlisted": keeping.unlisted(now)}

    def asked(self) -> None:
        """A client's `Adaptive` asked for Dask's target."""
        if self._adapting is not None:
            self._adapting.asked_at = time.monotonic()

    async def _adapt(self, adapting: Adapting) -> bool:
        """Decide how many are wanted. Returns whether that is for this machine to do."""
        now, keeping = time.monotonic(), self.keeping
        there = set(self._scheduler.workers())
        if adapting.is_clients(now, self._scheduler.clusters()):
            keeping.wanted = len(there)  # from there this machine goes on, once nobody else does
            return False
        if adapting.due(now):
            target = self._scheduler.target(adapting.target_duration)
            keeping.wanted = adapting.decide(target, keeping.wanted)
            leaving = there & keeping.leaving  # they go by themselves
            if keeping.wanted < len(there - leaving):
                await self._scheduler.retire(keeping.wanted + len(leaving))
                keeping.workers(now, self._scheduler.workers())
        return True

    def _look(self) -> dict[str, str]:
        """The states of the cluster's machines that have workers, and of this one, by AWS's list."""
        found: dict[str, str] = {}
        parameters: dict[str, Any] = {"Filters": self._filters, "MaxResults": 1000}
        while True:
            reply = self._call("describe_instances", **parameters)
            for reservation in reply["Reservations"]:
                for item in reservation["Instances"]:
                    one = str(item["InstanceId"])
                    role = tags.from_aws(item.get("Tags")).get(tags.ROLE)
                    if role == "worker" or one == self._machine:
                        found[one] = str(item["State"]["Name"])
            if not reply.get("NextToken"):
                return found
            parameters["NextToken"] = reply["NextToken"]

    async def _launch(self, count: int) -> None:
        made: list[str] = []
        last: AwsError | None = None
        ways = self._ways(count)
        if not ways:
            return  # AWS's list will tell
        for name in ways:
            if len(made) >= count or self._denied or self._stopped:
                break
            try:
                await self._fill(name, count, made)
            except UnavailableError as error:
                self._done(made, count, error)
                return
            except AwsError as error:
                last = error
                if type_denied(error):  # by a policy above the account's own, which may permit another way
                    self._refused.add(name)
                    self._denied = not self._permitted()
                else:
                    self._denied = isinstance(error, AccessDeniedError)
        self._done(made, count, last)

    async def _fill(self, name: str, count: int, made: list[str]) -> None:
        """Launch by one template until there are `count`, or AWS has no more of these.

        Raises:
            AwsError: AWS refuses more of them; what it gave before is in `made`.
        """
        while len(made) < count and not self._stopped:
            size = min(count - len(made), LARGEST_CALL)
            if self._unsure is not None:
                size = self._unsure[1]
            try:
                got = await self._ask(name, size)
            except AwsError as error:
                if fewer_may_fit(error):
                    await self._fit(name, size, made)
                raise
            made += got
            if len(got) < size:
                return

    async def _fit(self, name: str, refused: int, made: list[str]) -> None:
        """Launch as many as there is room for: a call that asks for more is refused as a whole."""
        counts: list[int] = []
        for size in halves(refused, counts):
            if self._stopped:
                return
            got: list[str] = []
            try:
                got = await self._ask(name, size)
            except AwsError as error:
                if not fewer_may_fit(error):
                    raise
            made += got
            counts.append(len(got))

    async def _ask(self, name: str, size: int) -> list[str]:
        """Make one call. One of which it is not known whether it made any is sent again, with its token."""
        try:
            got = await asyncio.to_thread(self._run, name, size)
        except UnavailableError as error:
            if error.code not in SLOW_DOWN:
                self._unsure = (name, size, time.monotonic())
            elif self._unsure is None:  # AWS says that it did nothing
                self._settled()
            raise
        except AwsError:
            self._settled()
            raise
        self._settled()
        return got

    def _permitted(self) -> list[str]:
        """The templates that no policy above the account's own forbids, as far as is known."""
        return [name for name in self._keep.templates if name not in self._refused]

    def _ways(self, count: int) -> list[str]:
        """The templates to try; first and alone that of a call of which it is not known what came of it."""
        if self._unsure is None:
            return self._permitted()
        name, size, since = self._unsure
        if time.monotonic() - since < NOT_LISTED_YET_S:
            return [name] if size <= count else []
        # By now it is in AWS's list, if it made any; sent again, it would give machines that may have ended.
        self._settled()
        return self._permitted()

    def _settled(self) -> None:
        """AWS has said what came of a call; the next one is another."""
        self._serial += 1
        self._unsure = None

    def _run(self, name: str, size: int) -> list[str]:
        """Launch up to so many machines by a template. Sent again, it launches nothing twice."""
        parts = (self._keep.uid, "keeper", self._machine, str(self._serial))
        reply = self._call(
            "run_instances",
            LaunchTemplate={"LaunchTemplateName": name},
            MinCount=1,
            MaxCount=size,
            ClientToken=hashlib.sha256("/".join(parts).encode()).hexdigest(),
        )
        return [str(item["InstanceId"]) for item in reply["Instances"]]

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        if self._client is None:
            self._client = self._make_client()
        what = "replacing workers"
        try:
            reply: dict[str, Any] = getattr(self._client, method)(**parameters)
            return reply
        except ClientError as error:
            raise aws_error(what, error.operation_name, error.response) from error
        except BotoCoreError as error:
            self._client = None  # its credentials may not have come
            raise UnavailableError(what, f"{type(error).__name__}: {error}") from error

    def _done(self, made: list[str], count: int, error: AwsError | None) -> None:
        keeping = self.keeping
        keeping.tried(time.monotonic(), made)
        if made:
            self._tell(f"launched {_machines(len(made))} in place of what lacked", made)
        self._last = None if len(made) >= count else error
        if self._last is None:
            self._told = ""
        elif self._denied:
            self._say_denied(self._last)
        else:
            self._failed(self._last)

    def _say_spent(self) -> None:
        if self._last is not None:
            text = f"workers that lack could not be launched in {self.keeping.tries} tries"
            text = f"{text}, and no more are made until the cluster is scaled: {self._last}"
        else:
            text = "workers were replaced again and again, and their machines did not stay in the cluster"
            text = f"{text} (their logs say why): no more are launched until it is scaled"
        self._tell(text, warns=True)

    def _say_denied(self, error: AwsError) -> None:
        if not self._said_denied:
            why = error.diagnosis.why.rstrip(". ")
            above = isinstance(error, AccessDeniedError) and error.denied_by
            step = error.diagnosis.next_step if above else _DENIED
            self._tell(f"workers that are lost are not replaced: {why}. {step}".rstrip(), warns=True)
        self._said_denied = True

    def _failed(self, error: Exception) -> None:
        """Said once for each reason in a row."""
        if str(error) != self._told:
            self._told = str(error)
            logger.warning("workers that lack could not be launched yet: %s", error)

    def _tell(self, text: str, ids: Iterable[str] = (), *, warns: bool = False) -> None:
        logger.log(logging.WARNING if warns else logging.INFO, text)
        self._scheduler.say(text, list(ids), warns)


def _machines(count: int) -> str:
    return f"{count} machine{'s' if count != 1 else ''}"
