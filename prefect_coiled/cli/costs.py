"""`prefect-coiled cost`: what runs now costs an hour, and has cost so far."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from prefect_coiled.records import InstanceRecord


@told
def show_cost(
    name: Annotated[str | None, typer.Argument(help="Name of a cluster; all of them if not given.")] = None,
    account: AccountOption = None,
    region: RegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an account's clusters cost an hour and have cost so far, and its NAT gateways.

    By AWS's list prices, from each machine's launch on; without traffic and logs.
    """
    from prefect_coiled import costs
    from prefect_coiled.aws.instances import find_instances
    from prefect_coiled.aws.nat_gateways import list_nat_gateways

    loaded, aws = door(account, region)
    now = datetime.now(timezone.utc)
    clusters: dict[str, list[InstanceRecord]] = {}
    for machine in find_instances(aws, name):
        clusters.setdefault(machine.cluster, []).append(machine)
    if name is not None and not clusters:
        raise no_cluster(aws, name)
    listed: list[dict[str, Any]] = []
    basis = ""
    for cluster, machines in clusters.items():
        hourly = costs.estimate(_uses(machines), region=aws.region)
        so_far = costs.estimate(_uses(machines, now), region=aws.region)
        basis = so_far.basis
        listed.append(_row(cluster, len(machines), hourly.total_usd, so_far.total_usd))
    nats = [] if name is not None else list_nat_gateways(aws)
    if nats:
        hours = sum((now - n["CreateTime"]).total_seconds() / 3600 for n in nats if n.get("CreateTime"))
        hourly = _nat(len(nats), aws.region)
        so_far = _nat(hours, aws.region)
        basis = basis or so_far.basis
        listed.append(_row("(NAT gateways)", len(nats), hourly.total_usd, so_far.total_usd))
    if as_json:
        print_json(listed)
        return
    console = out()
    if not listed:
        console.print(
            f"Nothing of account {loaded.slug} costs anything by the hour in {aws.region}{where(loaded)}"
        )
        return
    rows = table("NAME", "HOW MANY", "COST/H", "SO FAR")
    known = [(r["usd_per_hour"], r["usd"]) for r in listed]
    for row in listed:
        rows.add_row(row["name"], str(row["count"]), _usd(row["usd_per_hour"]), _usd(row["usd"]))
    hourly_sum, usd_sum = _sum([k[0] for k in known]), _sum([k[1] for k in known])
    rows.add_row("total", "", _usd(hourly_sum), _usd(usd_sum))
    console.print(rows)
    console.print(f"Account {loaded.slug} in {aws.region}{where(loaded)}")
    console.print(f"{basis} Machines, disks of 30 GB, public addresses and NAT gateways.")


def _row(name: str, count: int, hourly: float | None, usd: float | None) -> dict[str, Any]:
    return {"name": name, "count": count, "usd_per_hour": hourly, "usd": usd}


def _uses(machines: list[InstanceRecord], now: datetime | None = None) -> Any:
    """The machines as uses: for an hour each, or from their launch until now."""
    from prefect_coiled.costs import MachineUse

    for m in machines:
        hours = 1.0
        if now is not None and m.launched_at is not None:
            hours = max((now - m.launched_at).total_seconds(), 0.0) / 3600
        yield MachineUse(
            vm_type=m.instance_type, hours=hours, spot=m.spot, disk_gb=30, public_ip=bool(m.public_ip)
        )


def _nat(hours: float, region: str) -> Any:
    from prefect_coiled import costs

    # Each holds a public address.
    address = costs.PUBLIC_IPV4_USD_PER_HOUR * hours
    made = costs.estimate([], nat_gateway_hours=hours, region=region)
    return made.model_copy(update={"total_usd": (made.total_usd or 0.0) + address})


def _sum(values: list[float | None]) -> float | None:
    return None if None in values else sum(v for v in values if v is not None)


def _usd(value: float | None) -> str:
    from prefect_coiled.costs import NOT_KNOWN

    if value is None:
        return NOT_KNOWN
    return f"${value:.2f}" if value >= 1 else f"${value:.4f}"
