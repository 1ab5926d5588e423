"""Set an account up in a region: what all of its clusters share.

who and which zones ─▶ look ─▶ plan ─(nothing to do)─▶ done: reads only
somebody makes or removes what is shared: wait for him, look again
something is missing: under a lease, look and plan again
─▶ each change of the plan as a step, after those of the kinds that it waits for, else side by side
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import flow
from prefect.futures import PrefectFuture

from prefect_coiled import events
from prefect_coiled.aws.boundary import unbound
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS
from prefect_coiled.aws.known import changing
from prefect_coiled.aws.price_list import seen_prices
from prefect_coiled.aws.subnets import ClosedZoneError
from prefect_coiled.errors import AccessDeniedError, PrefectCoiledError, StoppedError, sentences
from prefect_coiled.options import Egress, RegistryKind
from prefect_coiled.plan.aws_codes import SPOT_ROLE_COMMAND
from prefect_coiled.plan.changes import Plan
from prefect_coiled.plan.kinds import There, Wanted, free
from prefect_coiled.plan.prices import Prices, priced
from prefect_coiled.provision.planning import asked_of, set_up_of, wanted, widened
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.records import AccountRecord
from prefect_coiled.tasks import set_up as steps
from prefect_coiled.tasks.changes import Making, bring, look
from prefect_coiled.tasks.steps import settle


@flow(name="set up account", flow_run_name="set up {account} in {region}", persist_result=False)
def set_up_account(
    account: str,
    region: str,
    zone: str | None = None,
    egress: Egress = "nat",
    every_zone: bool = True,
    network: bool = True,
    registry: RegistryKind = "ecr",
) -> AccountRecord:
    """See that an account has everything in a region that its clusters share.

    What lacks something is repaired. `plan_set_up` says beforehand what is made and repaired.

    Args:
        account: The account's slug.
        region: The AWS region.
        zone: Zone that must have its subnets, and of the NAT gateway, if one is to be made; the region's
            first by default.
        egress: With "nat", a NAT gateway is made if there is none.
        every_zone: Whether all zones of the region must have their subnets; without, `zone` is enough, as
            for a cluster, unless the network is new.
        network: Whether a network is needed; not so with one of the user's own.
        registry: With "ecr", a repository for container images is made. A cluster, which asks for its zone
            alone, makes one together with a new account only: it may run without.

    Returns:
        What is there now.

    Raises:
        PrefectCoiledError: With the first cause.
    """
    with session_for(account, region) as session:
        aws = session.aws
        # Of a network of the user's own nothing is made, and nothing said.
        told = ("network", "role", "log group") if network else ("role", "log group")
        events.step(told[0], "looking")
        who_future, zones_future = steps.check_credentials.submit(aws), steps.list_zones.submit(aws)
        settle([who_future, zones_future])
        who, names = who_future.result(), zones_future.result()

        def wish(names: tuple[str, ...]) -> Wanted:
            asked = {"every_zone": every_zone, "network": network}
            return wanted(aws, names, zone, egress, registry=registry, **asked)

        while True:
            try:
                want, there = _brought(aws, wish(names), registry, told, strict=every_zone)
            except ClosedZoneError as error:
                names = tuple(name for name in names if name != error.zone)
                if not names:
                    raise
                events.step("network", f"without {error.zone}, where AWS makes no new subnets")
                continue
            _tell_unbound(aws, there, every_zone)
            return steps.account_record(aws, who, want, there)


def _brought(
    aws: Aws, want: Wanted, registry: RegistryKind, told: tuple[str, ...], strict: bool
) -> tuple[Wanted, There]:
    """See that there is what is wanted, and tell of the things named; gives that and all that is there.

    Raises:
        ClosedZoneError: If a zone takes no new subnets; what could be made without it was made.
    """
    there = look(aws, asked_of(want), ours=True)
    while not set_up_of(aws, there, want).todo:
        if not steps.is_held(aws):
            for name in told:
                events.step(name, "there")
            return want, there
        # Whoever holds the lease may be about to delete what was just found.
        steps.wait_until_free(aws)
        there = look(aws, asked_of(want), ours=True)
    aws.labels()  # tags that cannot be given are told before anything is made
    events.step(told[0], "creating")
    with changing(aws):
        # What was seen before is gone by now, if it was waited for who destroys the account.
        there = look(aws, asked_of(want), ours=True)
        wide = widened(want, there, registry)
        if asked_of(wide) != asked_of(want):
            there = look(aws, asked_of(wide), ours=True)
        want = wide
        # For a launch, rights of an earlier version will do.
        carry_out(set_up_of(aws, there, want), Making(aws, want, there), strict=strict)
    for name in told:
        events.step(name, "ready")
    return want, there


def _tell_unbound(aws: Aws, there: There, asked: bool) -> None:
    """Say of a role from before its boundary what to do, to whoever asked for a set-up."""
    if asked and (text := unbound(aws, there)):
        events.step("role", text)


def carry_out(plan: Plan, making: Making, *, strict: bool = True) -> None:
    """Make and repair what a plan says, each after what it waits for.

    Args:
        strict: Whether the role's rights have to be those of this version, where that is denied.

    Raises:
        PrefectCoiledError: With the first cause; what was made and costs something is `left`.
    """
    begun: list[PrefectFuture[None]] = []
    with _seen_to_its_end(making.aws, begun):
        _carry_out(plan, making, begun, strict=strict)


@contextmanager
def _seen_to_its_end(aws: Aws, begun: list[PrefectFuture[None]]) -> Iterator[None]:
    """Where somebody interrupts, nothing more is begun; what is begun ends before the lease is given back.

    Args:
        begun: What was begun by then.
    """

    def interrupted() -> None:
        raise StoppedError(f"setting account {aws.account} up", "it was interrupted")

    try:
        yield
    except Exception:
        raise
    except BaseException:
        aws.fence = interrupted
        for future in begun:
            future.wait()
        raise


def _carry_out(plan: Plan, making: Making, begun: list[PrefectFuture[None]], *, strict: bool) -> None:
    before = {row: list(items) for row, items in making.there.items()}
    futures: dict[str, list[PrefectFuture[None]]] = {}
    # What may be an administrator's to make ends a set-up before anything else is made.
    first = [change for change in plan.todo if KINDS[change.row].administered]
    begun.extend(bring.submit(making, change) for change in first)
    settle(begun)
    older: list[PrefectFuture[None]] = []
    for change in [change for change in plan.todo if change not in first]:
        if not strict and (change.row, change.action) == ("role", "update"):
            older.append(bring.submit(making, change))
            begun.append(older[-1])
            continue
        waits_for = [future for row in KINDS[change.row].waits_for for future in futures.get(row, ())]
        # Prefect's overloads know `wait_for` only together with `return_state`.
        future = bring.submit(making, change, wait_for=waits_for, return_state=False)
        futures.setdefault(change.row, []).append(future)
        begun.append(future)
    try:
        settle(future for listed in futures.values() for future in listed)
    except PrefectCoiledError as error:
        if not isinstance(error, ClosedZoneError):  # gone around, and nothing is told
            error.left = _costly(making.there, before, seen_prices(making.aws))
        if isinstance(error, AccessDeniedError):
            raise _no_subnet(error, plan, before) from error
        raise
    for repair in older:
        try:
            settle([repair])
        except AccessDeniedError as error:
            where = f"--account {making.aws.account} --region {making.aws.region}"
            lacks = "has the rights of an earlier version, so that workers are not replaced"
            renew = f"Renew them: `prefect-coiled setup region {where}`."
            events.step("role", sentences(lacks, error.diagnosis.why, renew))
    if any(not role["made"] for role in making.there["spot role"]):
        events.step("spot role", f"not made, for want of permission; spot needs it: {SPOT_ROLE_COMMAND}")


def _costly(there: There, before: There, prices: Prices) -> dict[str, str]:
    """What was made and costs something, as long as nothing removes it."""
    found: dict[str, str] = {}
    for row, kind in KINDS.items():
        known = {kind.id_of(item) for item in before.get(row, ())}
        for item in () if kind.usd is free else there.get(row, ()):
            if kind.id_of(item) not in known:
                price = kind.usd(item, prices)
                found[kind.id_of(item)] = priced(f"{kind.name}, for the next set-up or sweep", price)
    return found


def _no_subnet(error: AccessDeniedError, plan: Plan, there: There) -> AccessDeniedError:
    """The same denial, told as what it means for whoever wants a cluster in a zone."""
    if error.operation != "ec2:CreateSubnet":
        return error
    planned = {c.place.rpartition(" ")[2] for c in plan.todo if c.row == "subnet"}
    lacking = ", ".join(sorted(planned))
    d = error.diagnosis
    zones = sorted({item["AvailabilityZone"] for item in there["subnet"]} - planned)
    choice = f"Or choose a zone that has one: {', '.join(zones)}." if zones else ""
    return error.retold(
        sentences(d.next_step, choice),
        what=f"starting in zone {lacking}",
        why=f"it has no subnet, and none could be made: {d.why}",
        statements=error.statements,
    )
