"""`prefect-coiled account` and `set-up`: which accounts there are, and what they would use."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prefect_coiled.cli.common import (
    At,
    JsonOption,
    PlanOption,
    RegionOption,
    YesOption,
    out,
    print_json,
    show,
    show_plan,
    told,
    where,
)

account_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@account_app.command("list")
@told
def account_list(as_json: JsonOption = False) -> None:
    """List the accounts that have a block."""
    from prefect_coiled.blocks.loading import DEFAULT_ACCOUNT, find_accounts

    keys = ("account", "region", "zone", "spot", "egress", "where")
    rows = [
        (
            str(document.name),
            str(document.data.get("region", "")),
            str(document.data.get("zone") or "any"),
            "yes" if document.data.get("spot") else "no",
            str(document.data.get("egress", "nat")),
            "sandbox" if document.data.get("sandbox") else "AWS",
        )
        for document in find_accounts()
    ]
    found = [dict(zip(keys, row, strict=True)) for row in rows]
    if DEFAULT_ACCOUNT not in {row[0] for row in rows}:
        rows.append((DEFAULT_ACCOUNT, "", "", "", "", "sandbox (there is no block of that name)"))
        found.append({**dict.fromkeys(keys, ""), "account": DEFAULT_ACCOUNT, "where": "sandbox"})
    show(found, as_json, [key.upper() for key in keys], rows)


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
    merged = merge({"region": region}, account.options).rows()
    rows = [(row.name, row.value, row.source, row.note) for row in merged]
    rows += [(name, str(value), "coiled.yaml", "") for name, value in cluster_defaults().items()]
    keys = ("option", "value", "from", "remark")
    found = [dict(zip(keys, row, strict=True)) for row in rows]
    before = f"Account {account.slug}, {account.credentials.description}{where(account)}"
    show(found, as_json, [key.upper() for key in keys], rows, before=before)


@account_app.command("reset")
@told
def account_reset(
    slug: Annotated[str | None, typer.Argument(help="Slug of the account.")] = None,
    yes: YesOption = False,
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
    at: At,
    zone: Annotated[str | None, typer.Option(help="Zone of the NAT gateway, if one is made.")] = None,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make what an account's clusters share in a region, and repair what lacks something."""
    from prefect_coiled.options import merge
    from prefect_coiled.provision import plan_set_up, set_up_account

    options = merge({"region": at.aws.region, "zone": zone}, at.loaded.options).options
    given: dict[str, Any] = {
        "zone": options.default_zone,
        "egress": options.egress,
        "network": options.network is None,
        "registry": options.registry.kind,
    }
    if plan:
        show_plan(plan_set_up(at.aws, **given), as_json)
        return
    with at.session():
        record = set_up_account(at.loaded.slug, at.aws.region, **given)
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
