"""`prefect-coiled cost`: what runs now costs an hour, and has cost so far."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from prefect_coiled.cli.common import At, JsonOption, no_cluster, show, told


@told
def show_cost(
    name: Annotated[str | None, typer.Argument(help="Name of a cluster; all of them if not given.")] = None,
    *,
    at: At,
    as_json: JsonOption = False,
) -> None:
    """Show what an account's clusters cost an hour and have cost so far, and what they share.

    By AWS's list prices, from each machine's launch on; without traffic and logs.
    """
    from prefect_coiled import costs
    from prefect_coiled.plan.prices import total, usd
    from prefect_coiled.provision import take_inventory

    now = datetime.now(timezone.utc)
    found = take_inventory(at.aws, name, costly=True)
    if name is not None and not any(r.kind == "instance" for r in found):
        raise no_cluster(at.aws, name)
    listed: dict[str, list[tuple[bool, float | None, float | None]]] = {}
    for one in found:
        if one.usd_per_hour == 0:
            continue
        hours = None
        if one.since is not None:
            hours = max((now - one.since).total_seconds(), costs.MINIMUM_SECONDS) / 3600
        so_far = None if hours is None or one.usd_per_hour is None else one.usd_per_hour * hours
        # The parts of a cluster are counted by its machines.
        counts = not one.cluster or one.kind == "instance"
        listed.setdefault(one.cluster or f"({one.kind}s)", []).append((counts, one.usd_per_hour, so_far))
    sums: list[dict[str, Any]] = [
        {
            "name": key,
            "count": sum(counts for counts, _, _ in parts),
            "usd_per_hour": total([hourly for _, hourly, _ in parts]),
            "usd": total([so_far for _, _, so_far in parts]),
        }
        for key, parts in listed.items()
    ]
    rows = [(row["name"], str(row["count"]), usd(row["usd_per_hour"]), usd(row["usd"])) for row in sums]
    all_, paid = (usd(total([row[key] for row in sums])) for key in ("usd_per_hour", "usd"))
    rows.append(("total", "", all_, paid))
    none = f"Nothing of account {at.loaded.slug} costs anything by the hour in {at}"
    basis = f"{costs.basis(at.aws.region, spot=True)} Machines, disks, public addresses and NAT gateways."
    after = (f"Account {at.loaded.slug} in {at}", basis)
    show(sums, as_json, ("NAME", "HOW MANY", "COST/H", "SO FAR"), rows, none=none, after=after)
