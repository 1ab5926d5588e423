"""`prefect-coiled ls`, `stop`, `logs` and `sweep`: what runs, what it says, and how it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from prefect_coiled.cli.common import (
    At,
    JsonOption,
    PlanOption,
    YesOption,
    no_cluster,
    out,
    print_json,
    show,
    show_plan,
    tell_removal,
    told,
)

if TYPE_CHECKING:
    from prefect_coiled.cluster.launched import Launched
    from prefect_coiled.records import InstanceRecord


@told
def list_clusters(at: At, as_json: JsonOption = False) -> None:
    """List the clusters of an account in a region, with what they cost an hour."""
    from prefect_coiled import costs
    from prefect_coiled.aws.instances import find_instances

    clusters: dict[tuple[str, str], list[InstanceRecord]] = {}
    for machine in find_instances(at.aws):
        clusters.setdefault((machine.cluster, machine.cluster_uid), []).append(machine)
    basis, listed, rows = "", [], []
    for (name, _), machines in clusters.items():
        uses = [
            costs.MachineUse(vm_type=m.instance_type, spot=m.spot, public_ip=bool(m.public_ip))
            for m in machines
        ]
        cost = costs.estimate(uses, region=at.aws.region)
        basis, workers = cost.basis, sum(m.role == "worker" for m in machines)
        listed.append(
            {
                "name": name,
                "state": _state(machines),
                "since": min((m.launched_at.isoformat() for m in machines if m.launched_at), default=None),
                "workers": workers,
                "types": dict(Counter(m.instance_type for m in machines)),
                "creator": machines[0].creator,
                "usd_per_hour": cost.total_usd,
            }
        )
        rest = (str(workers), _types(machines), machines[0].creator, cost.short)
        rows.append((name, _state(machines), _age(machines), *rest))
    columns = ("NAME", "STATE", "AGE", "WORKERS", "TYPES", "CREATOR", "COST/H")
    none = f"No cluster of account {at.loaded.slug} runs in {at}"
    show(listed, as_json, columns, rows, none=none, after=[f"{basis} Machines and public addresses only."])


@told
def stop_cluster(
    name: Annotated[str, typer.Argument(help="Name of the cluster.")],
    at: At,
    yes: YesOption = False,
) -> None:
    """Delete a cluster: its machines first, then what belongs to it."""
    from prefect_coiled.aws.instances import LIVE, find_instances
    from prefect_coiled.plan.cluster import check_name
    from prefect_coiled.provision import delete_cluster
    from prefect_coiled.provision.standing import uids_of

    check_name(name)
    slug, aws = at.loaded.slug, at.aws
    # Those that are asked about, and no other that gets the name meanwhile.
    uids = uids_of(aws, name)
    if not uids:
        raise no_cluster(aws, name)
    machines = find_instances(aws, name, states=(*LIVE, "shutting-down"))
    creators = ", ".join(sorted({m.creator for m in machines})) or "nobody known"
    if not yes:
        typer.confirm(f"Delete cluster {name} with {len(machines)} machines, made by {creators}?", abort=True)
    with at.session(cluster=name):
        removal = delete_cluster(slug, aws.region, name, uids)
    tell_removal(removal)


@told
def change_firewall(
    name: Annotated[str, typer.Argument(help="Name of the cluster.")],
    cidr: Annotated[
        list[str] | None,
        typer.Option(help='Who gets in: a network, or "me", several times for more; as it is if not given.'),
    ] = None,
    port: Annotated[list[int] | None, typer.Option(help="Ports; those that are open if not given.")] = None,
    close: Annotated[bool, typer.Option("--close", help="Let nobody in.")] = False,
    as_json: JsonOption = False,
    *,
    at: At,
) -> None:
    """Show who may reach a cluster's scheduler, as AWS has it, or change it while the cluster runs."""
    from prefect_coiled.options.ingress import Firewall, changed_rules

    found = _running(at, name)
    if close or cidr or port:
        change = Firewall(port or None, cidr or None, close)
        found.set_ingress(changed_rules(found.spec.ingress, change))
    held = found.held_ingress()
    listed = [{"ports": list(rule.ports), "cidr": rule.source} for rule in held]
    rows = ((", ".join(map(str, rule.ports)), rule.source) for rule in held)
    show(listed, as_json, ("PORTS", "FROM"), rows, none="Nobody gets in.")


@told
def show_logs(
    name: Annotated[str, typer.Argument(help="Name of the cluster.")],
    instance: Annotated[
        str | None, typer.Option(help='An instance id, or "scheduler"; all machines if not given.')
    ] = None,
    tail: Annotated[int, typer.Option(min=0, max=10_000, help="Lines of each machine; 0 for all.")] = 100,
    since: Annotated[
        str | None, typer.Option(help='From then on: "10m", "2 hours", or a time such as 2026-01-31T09:00.')
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the cluster has ended.")
    ] = False,
    *,
    at: At,
) -> None:
    """Print what the machines of a cluster wrote, from CloudWatch; also of a cluster that is gone.

    Logs are kept for 30 days. A machine that never came up has its console output instead.
    """
    from prefect_coiled.aws.log_events import said
    from prefect_coiled.notifications import follow_logs, machines_of, parse_since

    aws = at.aws
    begin = parse_since(since) if since else None
    console = out()

    def wanted(found: Mapping[str, str]) -> Mapping[str, str]:
        if instance == "scheduler":
            return {m: role for m, role in found.items() if role == "scheduler"}
        return {instance: found.get(instance, "machine")} if instance is not None else found

    machines = wanted(machines_of(aws, name))
    if not machines:
        raise no_cluster(aws, name)
    if follow:
        for role, one, line in follow_logs(aws, name, since=begin, wanted=wanted):
            console.print(f"{role} {one} | {line}")
        return
    for one, lines in said(aws, machines, since=begin, tail=tail):
        console.print(f"== {machines[one]} {one}")
        for line in lines:
            console.print(line)


@told
def show_notifications(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many rows.")] = 100,
    level: Annotated[str, typer.Option(help="From this level on: DEBUG, INFO, WARNING, ERROR.")] = "DEBUG",
    event_type: Annotated[str | None, typer.Option("--type", help="Of this type only.")] = None,
    as_json: JsonOption = False,
    *,
    at: At,
) -> None:
    """Show what was made and removed for an account, and what failed."""
    from prefect_coiled.notifications import get_notifications

    rows = get_notifications(as_json, at.account, limit, level, event_type, region=at.region)
    if rows is not None:
        print_json(rows)


@told
def show_dashboard(name: Annotated[str, typer.Argument(help="Name of the cluster.")], at: At) -> None:
    """Print the address of a cluster's dashboard, with the token that opens it."""
    out().print(_running(at, name).dashboard_link)


@told
def sweep_account(
    at: At,
    keep_nat: Annotated[
        bool, typer.Option("--keep-nat", help="Leave NAT gateways that no cluster uses.")
    ] = False,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what dead clusters left, and NAT gateways that no cluster uses."""
    from prefect_coiled.provision import plan_sweep, sweep

    if plan:
        show_plan(plan_sweep(at.aws, release_nat=not keep_nat), as_json)
        return
    with at.session():
        removal = sweep(at.loaded.slug, at.aws.region, release_nat=not keep_nat)
    tell_removal(removal, as_json)


def _running(at: At, name: str) -> Launched:
    from prefect_coiled.cluster.launched import find_launched

    found = find_launched(at.aws, name)
    if found is None:
        raise no_cluster(at.aws, name)
    return found


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
