"""`prefect-coiled stop`, `firewall`, `logs`, `timeline` and so on: what clusters do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from prefect_coiled.cli.common import (
    ask_nobody,
    no_cluster,
    out,
    past,
    plan_as_json,
    print_json,
    sentence_or_json,
    show,
    show_plan,
    show_removal,
    tell_removal,
)
from prefect_coiled.cli.declare import At, JsonOption, NameArgument, PlanOption, YesOption, command
from prefect_coiled.cli.places import Everywhere, Place

if TYPE_CHECKING:
    from prefect_coiled.cluster.launched import Launched


@command("stop")
def stop_cluster(
    name: NameArgument,
    at: At,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a cluster: its machines first, then what belongs to it."""
    from prefect_coiled.aws.instances import LIVE, find_instances
    from prefect_coiled.plan.cluster import check_name
    from prefect_coiled.provision import delete_cluster
    from prefect_coiled.provision.standing import uids_of

    ask_nobody(as_json, yes)
    check_name(name)
    slug, aws = at.loaded.slug, at.aws
    # Those that are asked about, and no other that gets the name meanwhile.
    uids = uids_of(aws, name)
    if not uids:
        raise no_cluster(aws, name)
    machines = find_instances(aws, name, states=(*LIVE, "shutting-down"))
    creators = ", ".join(sorted({m.creator for m in machines})) or "nobody known"
    if not yes:
        count = f"{len(machines)} machine{'' if len(machines) == 1 else 's'}"
        typer.confirm(f"Delete cluster {name} with {count}, made by {creators}?", abort=True)
    with at.session(cluster=name):
        removal = delete_cluster(slug, aws.region, name, uids)
    tell_removal(removal, as_json)


@command("firewall")
def change_firewall(
    name: NameArgument,
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

    change = Firewall(port or None, cidr or None, close)  # what is wrong is said before AWS is asked
    found = _running(at, name)
    if close or cidr or port:
        found.set_ingress(changed_rules(found.spec.ingress, change))
    held = found.held_ingress()
    listed = [{"ports": list(rule.ports), "cidr": rule.source} for rule in held]
    rows = ((", ".join(map(str, rule.ports)), rule.source) for rule in held)
    show(listed, as_json, ("PORTS", "FROM"), rows, none="Nobody gets in.")


@command("logs")
def show_logs(
    name: NameArgument,
    instance: Annotated[
        str | None, typer.Option(help='An instance id, "scheduler" or "worker"; all machines if not given.')
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(min=0, max=10_000, help="Lines of each machine; 0 for all, and 100 if not given."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help='From then on: "10m", "2 hours", or a time such as 2026-01-31T09:00.')
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the cluster has ended; not with --tail.")
    ] = False,
    *,
    at: At,
    as_json: JsonOption = False,
) -> None:
    """Print what the machines of a cluster wrote, from CloudWatch; also of a cluster that is gone.

    Logs are kept for 30 days. A machine that never came up has its console output instead. With --json and
    --follow each line is an object.
    """
    import json

    from prefect_coiled.aws.log_events import said
    from prefect_coiled.errors import OptionsError
    from prefect_coiled.notifications import follow_logs, machines_of
    from prefect_coiled.options.base import near

    if follow and tail is not None:
        raise OptionsError("--tail", "goes without --follow, which begins with --since.")
    begin = None if since is None else past(since, datetime.now(timezone.utc))
    aws = at.aws
    console = out()

    def wanted(found: Mapping[str, str]) -> Mapping[str, str]:
        return {m: role for m, role in found.items() if instance in (None, m, role)}

    known = machines_of(aws, name)
    machines = wanted(known)
    if not known:
        raise no_cluster(aws, name)
    if not machines:
        hint = near(instance, known) or f"It has {', '.join(known)}."
        raise OptionsError(f"instance {instance!r}", f"is no machine of cluster {name!r}.", hint)
    if follow:
        for role, one, line in follow_logs(aws, name, since=begin, wanted=wanted):
            row = {"role": role, "instance": one, "line": line}
            console.print(json.dumps(row) if as_json else f"{role} {one} | {line}")
            if console.quiet:  # nobody reads it any more
                break
        return
    found = said(aws, machines, since=begin, tail=100 if tail is None else tail)
    if as_json:
        print_json([{"role": machines[one], "instance": one, "lines": lines} for one, lines in found])
        return
    for one, lines in found:
        console.print(f"== {machines[one]} {one}")
        for line in lines:
            console.print(line)


@command("notifications")
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


@command("timeline")
def show_timeline(name: NameArgument, at: At, as_json: JsonOption = False) -> None:
    """Show how a cluster came up, step by step, and what it waited for; also of one that is gone.

    It is kept for 30 days, of clusters that were ready once. A * marks what all the rest waited for.
    """
    from prefect_coiled.events.spans import critical_words, encode, rows_of
    from prefect_coiled.provision.timeline import find_timeline

    spans = find_timeline(at.aws, name)
    if not spans:
        raise no_cluster(at.aws, name)
    rows = rows_of(spans)
    shown = ((r["what"], r["of"], r["from"], r["to"], r["seconds"], r["critical"] and "*") for r in rows)
    after = [f"The rest waited for: {critical_words(spans)}."]
    show(encode(spans), as_json, ("WHAT", "OF", "FROM", "TO", "SECONDS", ""), shown, after=after)


@command("dashboard")
def show_dashboard(
    name: NameArgument,
    at: At,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the address of a cluster's dashboard, with the token that opens it."""
    link = _running(at, name).dashboard_link
    if show:
        typer.launch(link)
    sentence_or_json(link, {"name": name, "dashboard_link": link}, as_json)


@command("sweep")
def sweep_account(
    at: Everywhere,
    keep_nat: Annotated[
        bool, typer.Option("--keep-nat", help="Leave NAT gateways that no cluster uses.")
    ] = False,
    plan: PlanOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what dead clusters left, and NAT gateways that no cluster uses.

    In more places than one it shows what it would remove, and asks. What is asked about is what is removed.
    """
    from prefect_coiled.provision import plan_sweep, sweep

    if at.many:
        _sweep_everywhere(at, not keep_nat, plan, yes, as_json)
        return
    if plan:
        show_plan(plan_sweep(at.aws, release_nat=not keep_nat), as_json)
        return
    with at.session():
        removal = sweep(at.loaded.slug, at.aws.region, release_nat=not keep_nat)
    tell_removal(removal, as_json)


def _sweep_everywhere(at: Everywhere, release_nat: bool, only_plan: bool, yes: bool, as_json: bool) -> None:
    """Plan in each place, show that, ask, and sweep where there is something to remove."""
    from prefect_coiled.provision import plan_sweep, sweep
    from prefect_coiled.records import Removal

    ask_nobody(as_json, only_plan, yes, words="--plan or --yes")
    planned = at.each(lambda one: [plan_sweep(one.aws, release_nat=release_nat)])
    # What cannot be removed is said, too.
    wanted = {place: plan for place, plan in planned if plan.todo or plan.left}
    if only_plan and as_json:
        print_json([plan_as_json(plan) for _, plan in planned])
    if not as_json:
        for place, plan in wanted.items():
            out().print(f"Account {place.account} in {place.region}")
            show_plan(plan, as_json)
        if not wanted:
            out().print(f"Nothing of {at.whose} is to be removed in {at.whereabouts}")
    if only_plan or not (wanted or as_json):
        at.end()
        return
    count = sum(len(plan.todo) for plan in wanted.values())
    if count and not yes:
        typer.confirm(f"Remove these {count} resources?", abort=True)

    def swept(one: At) -> list[Removal]:
        # Where nobody is asked, all goes that is dead by then.
        agreed = None if yes else wanted[Place(one.loaded.slug, one.aws.region)]
        with one.session():
            return [sweep(one.loaded.slug, one.aws.region, release_nat=release_nat, plan=agreed)]

    removals = at.each(swept, wanted, at_once=1)
    if as_json:
        total = sum((removal for _, removal in removals), Removal())
        rows = [
            {"account": place.account, "region": place.region, **removal.model_dump(mode="json")}
            for place, removal in removals
        ]
        print_json({**total.model_dump(mode="json"), "places": rows})
    else:
        for place, removal in removals:
            out().print(f"Account {place.account} in {place.region}")
            show_removal(removal)
    at.end()
    if not all(removal.is_done for _, removal in removals):
        raise typer.Exit(1)


def _running(at: At, name: str) -> Launched:
    from prefect_coiled.cluster.launch import find_launched

    found = find_launched(at.aws, name)
    if found is None:
        raise no_cluster(at.aws, name)
    return found
