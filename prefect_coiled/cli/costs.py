"""`prefect-coiled cost`: what runs now costs an hour, and has cost so far."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from prefect_coiled.cli.common import (
    AccountOption,
    JsonOption,
    RegionOption,
    door,
    no_cluster,
    out,
    print_json,
    table,
    told,
    where,
)


@told
def show_cost(
    name: Annotated[str | None, typer.Argument(help="Name of a cluster; all of them if not given.")] = None,
    account: AccountOption = None,
    region: RegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an account's clusters cost an hour and have cost so far, and what they share.

    By AWS's list prices, from each machine's launch on; without traffic and logs.
    """
    from prefect_coiled import costs
    from prefect_coiled.plan.prices import total, usd
    from prefect_coiled.provision import take_inventory

    loaded, aws = door(account, region)
    now = datetime.now(timezone.utc)
    found = take_inventory(aws, name)
    if name is not None and not any(r.kind == "instance" for r in found):
        raise no_cluster(aws, name)
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
    rows: list[dict[str, Any]] = [
        {
            "name": key,
            "count": sum(counts for counts, _, _ in parts),
            "usd_per_hour": total([hourly for _, hourly, _ in parts]),
            "usd": total([so_far for _, _, so_far in parts]),
        }
        for key, parts in listed.items()
    ]
    if as_json:
        print_json(rows)
        return
    console = out()
    if not rows:
        console.print(
            f"Nothing of account {loaded.slug} costs anything by the hour in {aws.region}{where(loaded)}"
        )
        return
    shown = table("NAME", "HOW MANY", "COST/H", "SO FAR")
    for row in rows:
        shown.add_row(row["name"], str(row["count"]), usd(row["usd_per_hour"]), usd(row["usd"]))
    sums = (total([row[key] for row in rows]) for key in ("usd_per_hour", "usd"))
    shown.add_row("total", "", *map(usd, sums))
    console.print(shown)
    console.print(f"Account {loaded.slug} in {aws.region}{where(loaded)}")
    console.print(f"{costs.basis(aws.region, spot=True)} Machines, disks, public addresses and NAT gateways.")
