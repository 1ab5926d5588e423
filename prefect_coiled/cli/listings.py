"""`prefect-coiled ls`, `cost`, `resources`, `quotas` and `images`: what there is, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefect_coiled.cli import names
from prefect_coiled.cli.common import no_cluster, show
from prefect_coiled.cli.declare import At, JsonOption, command
from prefect_coiled.cli.places import Everywhere, Place
from prefect_coiled.errors import PrefectCoiledError

# What something that AWS gives no date has cost.
_NOT_SINCE = "since when is not known"

if TYPE_CHECKING:
    from prefect_coiled.plan.prices import Prices
    from prefect_coiled.provision.inventory import Resource
    from prefect_coiled.records import InstanceRecord


def _inventory(
    at: At, counted: dict[str, Prices], cluster: str | None = None, **which: bool
) -> list[Resource]:
    """What there is in one place.

    Args:
        counted: Gets the prices that were counted with, by region, where anything costs.
        which: As `take_inventory` has it.
    """
    from prefect_coiled.aws.price_list import seen_prices
    from prefect_coiled.provision import take_inventory

    there = list(take_inventory(at.aws, cluster, **which))
    if any(one.usd_per_hour != 0 for one in there):
        counted[at.aws.region] = seen_prices(at.aws)
    return there


@command("ls")
def list_clusters(at: Everywhere, as_json: JsonOption = False) -> None:
    """List the clusters of an account in a region, with what they cost an hour."""
    from prefect_coiled.plan.prices import basis

    counted: dict[str, Prices] = {}
    found = at.each(lambda one: _clusters(one, counted))
    listed = [{"account": place.account, "region": place.region, **told} for place, (told, _) in found]
    rows = [(*place, *row) if at.many else row for place, (_, row) in found]
    columns = (*at.columns, "NAME", "STATE", "AGE", "WORKERS", "TYPES", "CREATOR", "COST/H")
    elsewhere = [] if at.all_regions else ["Other regions were not looked at: give --all-regions."]
    none = "\n".join((f"No cluster of {at.whose} runs in {at.whereabouts}", *elsewhere))
    spot = any(told["spot"] for _, (told, _) in found)
    after = (f"{basis(counted, spot)} Machines, disks and public addresses.", *elsewhere)
    show(listed, as_json, columns, rows, none=none, after=after)
    at.end()


def _clusters(at: At, counted: dict[str, Prices]) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """The clusters in one place: each for JSON, and as a row.

    Args:
        counted: Gets the prices that were counted with, by region.
    """
    from prefect_coiled.aws.instances import find_instances
    from prefect_coiled.plan.prices import total, usd

    clusters: dict[tuple[str, str], list[InstanceRecord]] = {}
    for machine in find_instances(at.aws):
        clusters.setdefault((machine.cluster, machine.cluster_uid), []).append(machine)
    names.saw_clusters(at.loaded.slug, at.aws.region, (name for name, _ in clusters))
    # The same parts at the same prices as in `cost`.
    prices: dict[tuple[str, str], list[float | None]] = {}
    for one in _inventory(at, counted, costly=True, shared=False) if clusters else ():
        prices.setdefault((one.cluster, one.uid), []).append(one.usd_per_hour)
    found: list[tuple[dict[str, Any], tuple[str, ...]]] = []
    for (name, uid), machines in clusters.items():
        hourly = total(prices.get((name, uid), []))
        workers = sum(m.works for m in machines)
        told = {
            "name": name,
            "state": _state(machines),
            "since": min((m.launched_at.isoformat() for m in machines if m.launched_at), default=None),
            "workers": workers,
            "types": dict(Counter(m.instance_type for m in machines)),
            "spot": any(m.spot for m in machines),
            "creator": machines[0].creator,
            "usd_per_hour": hourly,
        }
        rest = (str(workers), _types(machines), machines[0].creator, usd(hourly))
        found.append((told, (name, _state(machines), _age(machines), *rest)))
    return found


@command("cost")
def show_cost(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of a cluster; all of them if not given.", autocompletion=names.clusters),
    ] = None,
    *,
    at: Everywhere,
    as_json: JsonOption = False,
) -> None:
    """Show what an account's clusters cost an hour and have cost so far, and what they share.

    By AWS's list prices, from each machine's launch on; without traffic and logs. Of clusters that are gone,
    `costs` tells.
    """
    from prefect_coiled.plan.prices import basis, usd

    counted: dict[str, Prices] = {}
    found = at.each(lambda one: _costs(one, name, counted))
    if name is not None and not any(told["machines"] for _, told in found):
        at.end()
        raise _nowhere(at, name) if at.many else no_cluster(at.aws, name)
    sums: list[dict[str, Any]] = [
        {
            "account": place.account,
            "region": place.region,
            **{k: v for k, v in told.items() if k != "machines"},
        }
        for place, told in found
    ]
    rows = [
        (
            *((row["account"], row["region"]) if at.many else ()),
            row["name"],
            str(row["count"]),
            usd(row["usd_per_hour"]),
            # An address has no date.
            _NOT_SINCE if row["usd"] is None and row["usd_per_hour"] is not None else usd(row["usd"]),
        )
        for row in sums
    ]
    all_, paid = (_sum([row[key] for row in sums]) for key in ("usd_per_hour", "usd"))
    rows.append((*(("total", "", "") if at.many else ("total",)), "", all_, paid))
    none = f"Nothing of {at.whose} costs anything by the hour in {at.whereabouts}"
    after = [f"{basis(counted, spot=True)} Machines, disks, public addresses and NAT gateways."]
    if not at.many:
        after.insert(0, f"Account {at.loaded.slug} in {at}")
    if not at.all_regions:
        elsewhere = "Other regions were not looked at: give --all-regions."
        after.append(elsewhere)
        none += f"\n{elsewhere}"
    show(sums, as_json, (*at.columns, "NAME", "HOW MANY", "COST/H", "SO FAR"), rows, none=none, after=after)
    at.end()


def _sum(amounts: list[float | None]) -> str:
    """The sum of what is known, and whether that is all."""
    from prefect_coiled.plan.prices import usd

    known = [amount for amount in amounts if amount is not None]
    if len(known) == len(amounts):
        return usd(sum(known))
    return f"{usd(sum(known))} and more" if known else usd(None)


def _nowhere(at: Everywhere, name: str) -> PrefectCoiledError:
    """The error that says so of all that was looked at; it opens no door, behind which may be a sandbox."""
    whose = "--all-accounts" if at.all_accounts else f"--account {at.loaded.slug}"
    everywhere = f"{whose} --all-regions"
    look = f"See `prefect-coiled ls {everywhere}`."
    if not at.all_regions:
        look = f"Look in all regions: `prefect-coiled cost {name} {everywhere}`."
    why = f"no cluster of {at.whose} has that name in {at.whereabouts}"
    return PrefectCoiledError(f"cluster {name!r}", why, look)


def _costs(at: At, name: str | None, counted: dict[str, Prices]) -> list[dict[str, Any]]:
    """What costs something in one place, by cluster, and by kind for what all of them share.

    Args:
        counted: Gets the prices that were counted with, by region.
    """
    from prefect_coiled import costs
    from prefect_coiled.plan.prices import total

    now = datetime.now(timezone.utc)
    listed: dict[str, list[tuple[bool, float | None, float | None]]] = {}
    machines: Counter[str] = Counter()
    for one in _inventory(at, counted, name, costly=True):
        if one.kind == "instance":
            machines[one.cluster] += 1
        if one.usd_per_hour == 0:
            continue
        hours = None
        if one.since is not None:
            hours = max((now - one.since).total_seconds(), costs.MINIMUM_SECONDS) / 3600
        so_far = None if hours is None or one.usd_per_hour is None else one.usd_per_hour * hours
        # The parts of a cluster are counted by its machines.
        counts = not one.cluster or one.kind == "instance"
        listed.setdefault(one.cluster or f"({one.kind}{'es' if one.kind.endswith('s') else 's'})", []).append(
            (counts, one.usd_per_hour, so_far)
        )
    return [
        {
            "name": key,
            "count": sum(counts for counts, _, _ in parts),
            "usd_per_hour": total([hourly for _, hourly, _ in parts]),
            "usd": total([so_far for _, _, so_far in parts]),
            "machines": machines[key],
        }
        for key, parts in listed.items()
    ]


@command("resources")
def list_resources(at: Everywhere, as_json: JsonOption = False) -> None:
    """List everything that an account has in a region, found by tag, and what it costs an hour."""
    from prefect_coiled.plan.prices import basis, usd

    found = []
    counted: dict[str, Prices] = {}
    # What all regions share is shown once.
    seen: set[tuple[str, str, str]] = set()
    for place, one in at.each(lambda one: _inventory(one, counted)):
        key = (place.account, one.kind, one.resource_id)
        if one.everywhere and key in seen:
            continue
        seen.add(key)
        found.append((Place(place.account, "") if one.everywhere and at.many else place, one))
    listed = [{"account": p.account, "region": p.region, **one.model_dump(mode="json")} for p, one in found]
    rows = (
        (
            *(place if at.many else ()),
            one.cluster or "(shared)",
            one.kind,
            one.resource_id,
            "" if one.usd_per_hour == 0 else usd(one.usd_per_hour),
            one.note,
        )
        for place, one in found
    )
    none = f"{at.whose[:1].upper()}{at.whose[1:]} has nothing in {at.whereabouts}"
    columns = (*at.columns, "CLUSTER", "KIND", "ID", "COST/H", "")
    show(listed, as_json, columns, rows, none=none, after=[basis(counted)] if counted else ())
    at.end()


@command("quotas")
def show_quotas(
    at: At,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those of machines that nothing runs of and that are 0.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what AWS allows the AWS account in a region, what is used, and where to ask for more.

    What is used counts everything in the AWS account, whoever made it. `check` says how many workers fit.
    The exit code is 1 where AWS does not let something be read.
    """
    from prefect_coiled.aws.quotas import find_uses

    found = find_uses(at.aws)
    rows = [
        (
            one.name,
            one.code,
            "unknown" if one.limit is None else f"{one.limit:.15g} {one.unit}".strip(),
            "unknown" if one.used is None else str(one.used),
            one.console,
        )
        for one in found
        if everything or not one.unit or one.used or one.limit or one.unknown
    ]
    columns = ("QUOTA", "CODE", "ALLOWED", "USED", "ASK FOR MORE")
    why = list(dict.fromkeys(one.unknown for one in found if one.unknown))
    before = f"Account {at.loaded.slug} in {at}"
    show(found, as_json, columns, rows, before=before, after=[f"Unknown: {one}" for one in why])
    if why:
        raise typer.Exit(1)


@command("images")
def list_images(at: At, as_json: JsonOption = False) -> None:
    """List the images that an account's clusters can run in: those of its repository in Amazon ECR."""
    from prefect_coiled.aws.ecr import find_images
    from prefect_coiled.errors import OptionsError
    from prefect_coiled.options import merge

    slug = at.loaded.slug
    registry = merge({"region": at.region}, at.loaded.options).options.registry
    if registry.kind != "ecr":
        raise OptionsError(f"images of account {slug}", f"are kept in {registry}.", "Look at them there.")
    found = find_images(at.aws)

    def rows() -> Iterator[tuple[str, ...]]:
        for one in found:
            size = f"{one.size / 2**20:,.0f} MiB" if one.size else ""
            pushed = one.pushed_at.astimezone().strftime("%Y-%m-%d %H:%M") if one.pushed_at else ""
            yield ", ".join(one.tags) or "(none)", one.digest, size, pushed

    none = f"Account {slug} has no images in {at.aws.region} yet."
    before = f"Images of {found[0].repository}" if found else ""
    show(found, as_json, ("TAG", "DIGEST", "SIZE", "PUSHED"), rows(), none=none, before=before)


def _state(machines: Iterable[InstanceRecord]) -> str:
    states = [m.state for m in machines if m.role == "scheduler"]
    return states[0] if states else "no scheduler: sweep"


def _age(machines: Iterable[InstanceRecord], now: datetime | None = None) -> str:
    begun = [m.launched_at for m in machines if m.launched_at]
    if not begun:
        return "?"
    seconds = int(((now or datetime.now(timezone.utc)) - min(begun)).total_seconds())
    if seconds < 120:
        return f"{max(seconds, 0)} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def _types(machines: Iterable[InstanceRecord]) -> str:
    counted = Counter(f"{m.instance_type}{' spot' if m.spot else ''}" for m in machines)
    return ", ".join(f"{n} x {kind}" for kind, n in counted.items())
