"""Plans of what there is in AWS now: reads only. What they decide by is in `plan.changes`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from prefect_coiled.aws import instances, vpc, zones
from prefect_coiled.aws.boundary import find_boundary
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find, find_all
from prefect_coiled.aws.price_list import find_prices, seen_prices
from prefect_coiled.errors import AwsError, ProvisionError
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.options import REGIONS, Egress, RegistryKind
from prefect_coiled.plan import changes
from prefect_coiled.plan.changes import Plan
from prefect_coiled.plan.kinds import There, Wanted


def wanted(
    aws: Aws,
    zone_names: tuple[str, ...],
    zone: str | None,
    egress: Egress,
    *,
    every_zone: bool,
    network: bool,
    registry: RegistryKind,
) -> Wanted:
    """What a set-up with these options has to see to; see `set_up_account`."""
    first = zone if zone in zone_names else zone_names[0]
    return Wanted(
        zones=zone_names if every_zone else (first,),
        every=zone_names,
        zone=first,
        network=network,
        nat=network and egress == "nat",
        repository=registry == "ecr" and every_zone,
        boundary=aws.boundary,
    )


def widened(want: Wanted, there: There, registry: RegistryKind) -> Wanted:
    """The same for a set-up that has something to do: then it sees to all zones that have subnets.

    A network that is new gets subnets in all zones; an account that is new in a region gets a repository.
    """
    zones_there = {item["AvailabilityZone"] for item in there.get("subnet", ())}
    return want.model_copy(
        update={
            "zones": tuple(sorted({*want.zones, *zones_there})) if zones_there else want.every,
            "repository": want.repository or (registry == "ecr" and not there["bucket"]),
        }
    )


def asked_of(want: Wanted) -> tuple[str, ...]:
    """The keys of the rows that a set-up looks at."""
    return tuple(key for key, kind in KINDS.items() if kind.asked is not None and kind.asked(want))


def set_up_of(aws: Aws, there: There, want: Wanted) -> Plan:
    """What a set-up makes and repairs of what there is."""
    return _plan(aws, "set-up", changes.of_set_up(KINDS, there, want, prices=seen_prices(aws)))


def sweep_of(aws: Aws, there: There, release_nat: bool = True) -> Plan:
    """What a sweep removes of what there is."""
    kept = frozenset() if release_nat else frozenset({"nat gateway"})
    return _plan(aws, "sweep", changes.of_sweep(KINDS, there, prices=seen_prices(aws), kept=kept))


def destruction_here(aws: Aws, there: There) -> Plan:
    """What goes with the account of what the region has."""
    made = changes.of_destruction(KINDS, there, prices=seen_prices(aws), everywhere=False)
    return _plan(aws, "destroy", made)


def destruction_everywhere(aws: Aws, there: There) -> Plan:
    """What goes with it of what all regions share; asks them whether the account is set up there, too."""
    there["boundary"] = find_boundary(aws)  # looked for at the account's end alone
    elsewhere = other_regions(aws)
    prices, needed = seen_prices(aws), bool(elsewhere.used)
    made = changes.of_destruction(
        KINDS, there, prices=prices, everywhere=True, stays=elsewhere.why, needed=needed
    )
    return _plan(aws, "destroy", made)


def plan_set_up(
    aws: Aws,
    zone: str | None = None,
    egress: Egress = "nat",
    every_zone: bool = True,
    network: bool = True,
    registry: RegistryKind = "ecr",
) -> Plan:
    """What `set_up_account` would make and repair, with the same arguments. Changes nothing.

    Raises:
        PrefectCoiledError: As `set_up_account` does.
    """
    names = zones.find_zones(aws)
    want = wanted(aws, names, zone, egress, every_zone=every_zone, network=network, registry=registry)
    there = find_all(aws, asked_of(want), ours=True)
    find_prices(aws, ())
    plan = set_up_of(aws, there, want)
    wide = widened(want, there, registry)
    if not plan.todo or wide == want:
        return plan
    return set_up_of(aws, find_all(aws, asked_of(wide), ours=True), wide)


def plan_sweep(aws: Aws, release_nat: bool = True) -> Plan:
    """What `sweep` would remove. Changes nothing.

    Args:
        release_nat: Whether idle NAT gateways go.
    """
    there = find_all(aws)
    _ask_prices(aws, there)
    return sweep_of(aws, there, release_nat)


def plan_destruction(aws: Aws) -> Plan:
    """What `destroy_account` would remove. Changes nothing.

    Raises:
        ProvisionError: If a cluster of the account runs or is starting.
    """
    there = find_all(aws)
    refuse_while_clusters_live(aws, there)
    _ask_prices(aws, there)
    here, everywhere = destruction_here(aws, there), destruction_everywhere(aws, there)
    return here.model_copy(update={"changes": (*here.changes, *everywhere.changes)})


def _ask_prices(aws: Aws, there: There) -> None:
    """Ask for the prices of what there is, so that a plan that is shown has them."""
    find_prices(aws, (item["InstanceType"] for item in there["instance"]))


def refuse_while_clusters_live(aws: Aws, there: There) -> None:
    """Raise `ProvisionError` if a cluster of the account runs, or was asked for a short while ago."""
    kind = KINDS["instance"]
    alive = [item for item in there["instance"] if item["State"]["Name"] in instances.LIVE]
    running = {cluster.name for item in alive if (cluster := kind.cluster_of(item))}
    names = sorted({*running, *changes.standing(KINDS, there).names})
    if names:
        raise ProvisionError(
            f"destroying account {aws.account} in {aws.region}",
            f"clusters run or are starting: {', '.join(names)}",
            "Stop them first: `prefect-coiled stop NAME`.",
        )


class Elsewhere(NamedTuple):
    """What is known of an account in the other regions, which share its role.

    Attributes:
        used: The regions in which it is set up, be it with a network of the user's own.
        unknown: Why AWS did not say it of a region, by region.
    """

    used: tuple[str, ...]
    unknown: dict[str, str]

    @property
    def why(self) -> str:
        """Why what all regions share stays; empty if it may go."""
        if self.used:
            return f"used in {', '.join(self.used)}"
        codes = ", ".join(sorted(set(self.unknown.values())))
        text = (
            f"AWS did not say ({codes}) whether the account is set up in {', '.join(self.unknown)} too. "
            "It costs nothing; where it is not, delete the role in the IAM console."
        )
        return text if self.unknown else ""


def other_regions(aws: Aws) -> Elsewhere:
    """Where else the account is set up; a region that may not be looked into is unknown."""

    def set_up(region: str) -> bool | str:
        door = aws.beside(region, aws.stop)
        try:
            if vpc.find_vpcs(door) or instances.find_instances(door):
                return True
            # Every set-up makes one, with a network or without.
            return bool(find(door, KINDS["log group"]))
        except AwsError as error:
            return error.code or type(error).__name__

    others = [r for r in REGIONS if r != aws.region]
    found = dict(zip(others, side_by_side(set_up, others, len(others)), strict=True))
    used = tuple(region for region, answer in found.items() if answer is True)
    return Elsewhere(used, {region: answer for region, answer in found.items() if isinstance(answer, str)})


def _plan(aws: Aws, what: str, made: Iterable[changes.Change]) -> Plan:
    return Plan(what=what, account=aws.account, region=aws.region, changes=tuple(made))
