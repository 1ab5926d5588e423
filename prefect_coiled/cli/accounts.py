"""`prefect-coiled account` and `set-up`: which accounts there are, and what they would use."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prefect_coiled.cli.common import (
    AccountOption,
    JsonOption,
    PlanOption,
    RegionOption,
    door,
    out,
    print_json,
    show_plan,
    table,
    told,
    where,
)

account_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@account_app.command("list")
@told
def account_list(as_json: JsonOption = False) -> None:
    """List the accounts that have a block."""
    from prefect_coiled.blocks.loading import DEFAULT_ACCOUNT, find_accounts

    keys, listed = ("account", "region", "zone", "spot", "egress", "where"), []
    rows = table("ACCOUNT", "REGION", "ZONE", "SPOT", "EGRESS", "WHERE")
    documents = find_accounts()
    for document in documents:
        data = document.data
        row = (
            str(document.name),
            str(data.get("region", "")),
            str(data.get("zone") or "any"),
            "yes" if data.get("spot") else "no",
            str(data.get("egress", "nat")),
            "sandbox" if data.get("sandbox") else "AWS",
        )
        rows.add_row(*row)
        listed.append(dict(zip(keys, row, strict=True)))
    if DEFAULT_ACCOUNT not in {d.name for d in documents}:
        rows.add_row(DEFAULT_ACCOUNT, "", "", "", "", "sandbox (there is no block of that name)")
        listed.append({**dict.fromkeys(keys, ""), "account": DEFAULT_ACCOUNT, "where": "sandbox"})
    if as_json:
        print_json(listed)
        return
    out().print(rows)


@account_app.command("explain")
@told
def account_explain(
    slug: Annotated[str | None, typer.Argument(help="Slug of the account.")] = None,
    region: RegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the options that hold for an account, and where each value came from."""
    from prefect_coiled.blocks import load_account
    from prefect_coiled.options import cluster_defaults, merge

    account = load_account(slug)
    rows = table("OPTION", "VALUE", "FROM", "REMARK")
    merged = merge({"region": region}, account.options).rows()
    if as_json:
        own = [
            {"option": k, "value": str(v), "from": "coiled.yaml", "remark": ""}
            for k, v in cluster_defaults().items()
        ]
        print_json(
            [{"option": r.name, "value": r.value, "from": r.source, "remark": r.note} for r in merged] + own
        )
        return
    for row in merged:
        rows.add_row(row.name, row.value, row.source, row.note)
    for name, value in cluster_defaults().items():
        rows.add_row(name, str(value), "coiled.yaml", "")
    console = out()
    console.print(f"Account {account.slug}, {account.credentials.description}{where(account)}")
    console.print(rows)


@account_app.command("reset")
@told
def account_reset(
    slug: Annotated[str | None, typer.Argument(help="Slug of the account.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete an account's options, so that the default holds again. What it has in AWS stays."""
    from prefect_coiled.accounts import reset_account
    from prefect_coiled.blocks.loading import account_slug

    name = account_slug(slug)
    if not yes:
        typer.confirm(f"Delete the options and credentials of account {name}?", abort=True)
    done = reset_account(name)
    out().print(f"Account {name} {'was reset' if done else 'had no options of its own'}.")


@told
def set_up(
    account: AccountOption = None,
    region: RegionOption = None,
    zone: Annotated[str | None, typer.Option(help="Zone of the NAT gateway, if one is made.")] = None,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make what an account's clusters share in a region, and repair what lacks something."""
    from prefect_coiled.options import merge
    from prefect_coiled.provision import plan_set_up, set_up_account
    from prefect_coiled.tasks.steps import Session, use_session

    loaded, aws = door(account, region)
    options = merge({"region": aws.region, "zone": zone}, loaded.options).options
    given: dict[str, Any] = {
        "zone": options.default_zone,
        "egress": options.egress,
        "network": options.network is None,
        "registry": options.registry.kind,
    }
    if plan:
        show_plan(plan_set_up(aws, **given), as_json)
        return
    with use_session(Session(aws)):
        record = set_up_account(loaded.slug, aws.region, **given)
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    network = record.network
    console = out()
    console.print(
        f"Account {record.account} is set up in {record.region} (AWS account {record.aws_account_id})."
    )
    if network is not None:
        console.print(f"network    {network.vpc_id} {network.cidr}, {len(network.subnets)} subnets")
        console.print(f"way out    {', '.join(network.nat_gateways.values()) or 'no NAT gateway'}")
    console.print(f"role       {record.role_arn}")
    console.print(f"log group  {record.log_group}")
    if record.repository:
        console.print(f"images     {record.repository}")
