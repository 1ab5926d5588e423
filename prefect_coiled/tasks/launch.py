"""The step that launches machines: calls of at most 100, and further ones for what the first could not give.

type, zone, market ─▶ calls of 100, one after the other ─(fewer than asked)─▶ the next type, zone, market
                      │ they come too fast for AWS: fewer a call, at the pace that AWS keeps
                      │ AWS failed, or did not answer: the same call again, with the same token
                      │ a quota or a subnet is used up: half as many, until as many are there as fit
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from prefect_coiled import events
from prefect_coiled.aws import instances, quotas, spot_role
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.pace import Pace
from prefect_coiled.aws.waits import CONSISTENCY, RATE_LIMIT, ROLE_USABLE, VISIBLE_SOON, retry_while
from prefect_coiled.errors import (
    AwsError,
    InvalidRequestError,
    NoCapacityError,
    NotFoundError,
    StoppedError,
    UnavailableError,
)
from prefect_coiled.events import Watch
from prefect_coiled.events.story import launch_name
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.aws_codes import SLOW_DOWN, SPOT_ROLE_MISSING
from prefect_coiled.plan.cluster import Attempt, ClusterSpec
from prefect_coiled.plan.launching import LARGEST_CALL, Missing, Tally, fewer_may_fit, halves, smaller_call
from prefect_coiled.records import InstanceRecord, Network, Role
from prefect_coiled.tasks.steps import Session, step

# A client token replayed after its machines were terminated answers this code; the next generation follows.
_TOKEN_IS_SPENT = "IdempotentInstanceTerminated"
_GENERATIONS = 3
# EC2 takes five launches at once, and two more each second; the scheduler's is the first. Of machines it
# takes 1,000 at once, and two more each second.
# https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
_AT_ONCE, _A_SECOND = 4, 2.0
# Of this process.
_missing = Missing()


def _launch_name(parameters: dict[str, Any]) -> str:
    return launch_name(parameters["spec"], parameters["role"], parameters["count"])


@step("launch", _launch_name)
def launch(
    session: Session,
    spec: ClusterSpec,
    role: Role,
    zones: tuple[str, ...],
    network: Network | None,
    *,
    count: int,
    least: int,
    by: str | Mapping[str, Any],
    group_ids: list[str],
    first_zone: str | None = None,
    dedicated: bool = False,
    batch: str = "0",
) -> list[InstanceRecord]:
    """Launch machines, as many as AWS gives.

    Args:
        session: Whose `launched` notes every id at once.
        zones: The zones that may be tried; with a network of the user's own, its one.
        by: The id of a launch template, or what one would say.
        dedicated: Whether the network makes dedicated instances of all machines.
        least: With fewer than that the step fails, saying what was tried.
        batch: Distinguishes this launch from others of the cluster, such as a later scaling.

    Raises:
        NoCapacityError: If AWS had fewer than `least` in all types, zones and markets that are allowed.
        QuotaError: If a quota of the AWS account left room for fewer.
        AccountStateError: If the AWS account may not launch these types.
        UnavailableError: If AWS took no more launches for two minutes.
    """
    made: list[InstanceRecord] = []
    tally = Tally(dedicated=dedicated)
    where = f"{session.aws.endpoint_url or ''} {session.aws.known_number} {spec.region}"
    attempts = planning.launch_attempts(spec, role, zones, first_zone)
    for attempt in _missing.last(where, attempts, time.monotonic()):
        if len(made) >= count:
            break
        place = planning.placement(spec, network, role, attempt.zone)
        if place is None:
            tally.skip(attempt, "the zone has no subnet")
            continue
        if tally.passes(attempt):
            continue
        call = _call_of(session, spec, role, attempt, place, by, group_ids, batch, tally)
        try:
            asked, before = count - len(made), len(made)
            _fill(session, call, asked, made)
            if len(made) < count:
                tally.gave(attempt, len(made) - before, asked)
                _missing.note(where, attempt, time.monotonic())
            else:
                _missing.forget(where, attempt)
        except AwsError as error:
            if isinstance(error, NoCapacityError):
                _missing.note(where, attempt, time.monotonic())
            if not tally.note(attempt, error):
                # A second run of this step would not know of those; what is not there was waited for.
                error.retried = "never" if made or isinstance(error, NotFoundError) else error.retried
                raise
    what = f"launching {count} {role}{'s' if count != 1 else ''}"
    used = ""
    if tally.quota is not None and len(made) < count:
        used = f"Quota: {quotas.tell_use(session.aws, tally.quota)}."
    if len(made) < max(least, 1 if role == "scheduler" else 0):
        raise tally.failure(what, len(made), used)
    if len(made) < count:
        events.step("shortage", str(tally.failure(what, len(made), used).diagnosis.why))
    return made


# Asks for so many machines, in the call of that number of an attempt.
_Call = Callable[[int, str], list[InstanceRecord]]


def _fill(session: Session, call: _Call, wanted: int, made: list[InstanceRecord]) -> None:
    """Launch up to `wanted` machines of one type, zone and market; each is in `made` as soon as it is known.

    Raises:
        AwsError: AWS refuses more of these.
    """
    stop, what = session.aws.stop, "launching machines"
    pace = Pace(_A_SECOND)
    size, number, refused_since = LARGEST_CALL, 0, 0.0
    end = len(made) + wanted
    while len(made) < end:
        ask = min(size, end - len(made))
        if number >= _AT_ONCE:
            pace.wait(stop, what)
        try:
            got = call(ask, str(number))
        except AwsError as error:
            if fewer_may_fit(error):
                _fit(session, call, ask, f"{number}/", made)
            raise error
        except _SlowDownError as slow:
            refused_since = refused_since or time.monotonic()
            if time.monotonic() - refused_since > RATE_LIMIT:
                raise slow.error from slow
            events.step("instances", f"{len(made)} of {end} launched; more as fast as AWS takes them")
            _wait_for_rate(stop, what, ask, size := smaller_call(ask))
            continue
        refused_since = 0.0
        made += got
        number += 1
        if len(got) < ask:
            return  # AWS has no more of these here


def _wait_for_rate(stop: threading.Event, what: str, asked: int, following: int) -> None:
    """After a refusal: a moment before fewer are asked for; for as many again, until AWS has them again."""
    pause = 1.0 / _A_SECOND if following < asked else max(1.0, asked / _A_SECOND)
    if stop.wait(pause):
        raise StoppedError(what, "a stop was asked for")


def _fit(session: Session, call: _Call, refused: int, number: str, made: list[InstanceRecord]) -> None:
    """Launch as many of `refused` machines as there is room for."""
    counts: list[int] = []
    for n, size in enumerate(halves(refused, counts)):
        got: list[InstanceRecord] = []
        try:
            got = _at_last(session, call, size, f"{number}{n}")
        except AwsError as error:
            if not fewer_may_fit(error):
                raise
        made += got
        counts.append(len(got))


def _at_last(session: Session, call: _Call, size: int, number: str) -> list[InstanceRecord]:
    """Call as soon as AWS takes it."""
    end = time.monotonic() + RATE_LIMIT
    while True:
        try:
            return call(size, number)
        except _SlowDownError as slow:
            if time.monotonic() > end:
                raise slow.error from slow
            _wait_for_rate(session.aws.stop, "launching machines", size, size)


def _call_of(
    session: Session,
    spec: ClusterSpec,
    role: Role,
    attempt: Attempt,
    place: tuple[str, bool],
    by: str | Mapping[str, Any],
    group_ids: list[str],
    batch: str,
    tally: Tally,
) -> _Call:
    aws = session.aws
    subnet_id, public = place

    def once(size: int, token: str) -> list[InstanceRecord]:
        return instances.launch_instances(
            aws,
            f"launching {size} x {attempt}",
            by=by,
            instance_type=attempt.instance_type,
            subnet_id=subnet_id,
            public_address=public,
            group_ids=group_ids,
            count=size,
            token=token,
            labels=planning.cluster_tags(spec, role),
            spot=attempt.spot,
        )

    def call(size: int, number: str) -> list[InstanceRecord]:
        watch = Watch()
        for generation in range(_GENERATIONS):
            token = planning.client_token(spec.uid, role, batch, generation, attempt, number, size)
            try:
                got = _surely(aws, partial(once, size, token))
            except UnavailableError as error:
                # No answer told whether it was made; AWS's lists may.
                found = _made_with(aws, token)
                tally.unsure = tally.unsure or (found is None and error.code not in SLOW_DOWN)
                if not found:
                    raise
                got = found
            except InvalidRequestError as error:
                if error.code != _TOKEN_IS_SPENT or generation == _GENERATIONS - 1:
                    raise
                continue
            break
        with session.lock:
            session.launched.extend(i.instance_id for i in got)
            session.launched_at = session.launched_at or time.monotonic()
        session.aws.tell(
            f"create_{role}",
            f"launched {len(got)} x {attempt}",
            seconds=watch.seconds,
            cluster=spec.name,
            uid=spec.uid,
            ids=tuple(i.instance_id for i in got),
        )
        return got

    return call


def _made_with(aws: Aws, token: str) -> list[InstanceRecord] | None:
    """The machines that a launch made, by its client token; None if AWS does not show them."""
    try:
        return instances.find_by_token(aws, token)
    except AwsError:  # whoever asked is told of the launch
        return None


def _surely(aws: Aws, launch: Callable[[], list[InstanceRecord]]) -> list[InstanceRecord]:
    """Send a launch until AWS says whether it made it. Sent again with its token, it launches nothing twice.

    Raises:
        _SlowDownError: It was not made, because launches come too fast.
    """
    unsure = False

    def attempt() -> list[InstanceRecord]:
        nonlocal unsure
        try:
            return _with_spot_role(aws, launch)
        except UnavailableError as error:
            if error.code in SLOW_DOWN and not unsure:
                raise _SlowDownError(error) from error
            unsure = unsure or error.code not in SLOW_DOWN
            raise

    def visible() -> list[InstanceRecord]:
        what = "waiting for EC2 to know what machines are launched with"
        return retry_while(aws, what, attempt, NotFoundError, timeout=CONSISTENCY, first=VISIBLE_SOON)

    what = "waiting for EC2 to take another launch"
    return retry_while(aws, what, visible, UnavailableError, timeout=RATE_LIMIT, interval=5.0)


class _SlowDownError(Exception):
    """AWS takes no launch of so many machines at the moment; it made none.

    Attributes:
        error: What AWS said.
    """

    def __init__(self, error: UnavailableError) -> None:
        super().__init__(str(error))
        self.error = error


def _with_spot_role(aws: Aws, launch: Callable[[], list[InstanceRecord]]) -> list[InstanceRecord]:
    """Launch; where spot machines lack their role, make it if that is permitted, and launch again."""
    try:
        return launch()
    except AwsError as error:
        if error.code != SPOT_ROLE_MISSING or not spot_role.ensure_spot_role(aws):
            raise

    def again() -> list[InstanceRecord]:
        try:
            return launch()
        except AwsError as error:
            missing = error.code == SPOT_ROLE_MISSING
            raise error.told_as(_RoleNotReadyError) if missing else error from error

    what = "waiting for EC2 to know the service-linked role of spot machines"
    return retry_while(aws, what, again, _RoleNotReadyError, timeout=ROLE_USABLE)


class _RoleNotReadyError(AwsError):
    """EC2 does not know the role yet that was just made."""
