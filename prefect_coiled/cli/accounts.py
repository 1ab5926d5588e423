"""`prefect-coiled account`, `role` and `setup region`: which accounts there are, and what they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from prefect_coiled.cli import names
from prefect_coiled.cli.common import (
    ask_nobody,
    out,
    print_json,
    sentence_or_json,
    show,
    show_plan,
    tell_removal,
    where,
)
from prefect_coiled.cli.declare import (
    At,
    JsonOption,
    PlanOption,
    RegionOption,
    SlugArgument,
    YesOption,
    command,
)


@command("account list")
def account_list(as_json: JsonOption = False) -> None:
    """List the accounts that have a block."""
    from prefect_coiled.blocks.asking import reading_here
    from prefect_coiled.blocks.loading import DEFAULT_ACCOUNT, find_accounts

    with reading_here():
        documents = find_accounts()
    keys = ("account", "region", "zone", "spot", "egress", "where")
    rows = [
        (
            str(document.name),
            str(document.data.get("region", "")),
            _zone(document.data),
            "yes" if document.data.get("spot") else "no",
            str(document.data.get("egress", "nat")),
            "sandbox" if document.data.get("sandbox") else "AWS",
        )
        for document in documents
    ]
    found = [dict(zip(keys, row, strict=True)) for row in rows]
    names.saw_accounts(*(row[0] for row in rows), all_of_them=True)
    if DEFAULT_ACCOUNT not in {row[0] for row in rows}:
        rows.append((DEFAULT_ACCOUNT, "", "", "", "", "sandbox (there is no block of that name)"))
        found.append({**dict.fromkeys(keys, ""), "account": DEFAULT_ACCOUNT, "where": "sandbox"})
    show(found, as_json, [key.upper() for key in keys], rows)


def _zone(data: Mapping[str, Any]) -> str:
    """The zone in which an account's clusters start, as far as its block says it."""
    zone, region = data.get("zone"), data.get("region")
    decided = data.get("network_id") or not region  # by the subnet; or by nobody yet
    return str(zone or ("" if decided else f"{region}a"))


@command("account explain")
def account_explain(
    slug: SlugArgument = None,
    region: RegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the options that hold for an account, and where each value came from."""
    from prefect_coiled.blocks.asking import reading_here
    from prefect_coiled.blocks.loading import load_account
    from prefect_coiled.options import cluster_defaults, merge
    from prefect_coiled.options.keywords import KEYWORDS
    from prefect_coiled.plan.budget import write_budget

    with reading_here():
        account = load_account(slug)
    merged = merge({"region": region}, account.options).rows()
    rows = [(row.name, row.value, row.source, row.note) for row in merged]
    if account.monthly_budget is not None:
        spent = "US dollars; `prefect-coiled check` says what is spent"
        rows.append(("monthly_budget", write_budget(account.monthly_budget), "account block", spent))
    rows += [(n, KEYWORDS[n].shown(value), "coiled.yaml", "") for n, value in cluster_defaults().items()]
    keys = ("option", "value", "from", "remark")
    found = [dict(zip(keys, row, strict=True)) for row in rows]
    before = f"Account {account.slug}, {account.credentials.description}{where(account)}"
    show(found, as_json, [key.upper() for key in keys], rows, before=before)


@command("account reset")
def account_reset(
    slug: SlugArgument = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete an account's options, so that the default holds again. What it has in AWS stays."""
    from prefect_coiled.blocks.loading import account_slug
    from prefect_coiled.saved_accounts import is_saved_in_aws, reset_account, stays_after_reset

    ask_nobody(as_json, yes)
    name = account_slug(slug)
    in_aws = is_saved_in_aws(name)
    if not yes:
        warning = (
            f"What account {name} has in AWS stays and costs, and no command finds it any more: first "
            f"`prefect-coiled account destroy {name}`. "
        )
        question = f"Delete the options and credentials of account {name}?"
        typer.confirm(f"{warning if in_aws else ''}{question}", abort=True)
    done = reset_account(name)
    text = f"Account {name} {'was reset' if done else 'had no options of its own'}."
    stays = stays_after_reset(name) if done and in_aws else ""
    sentence_or_json(f"{text} {stays}".rstrip(), {"account": name, "reset": done, "remark": stays}, as_json)


@command("account destroy")
def account_destroy(
    slug: Annotated[str, typer.Argument(help="Slug of the account.", autocompletion=names.accounts)],
    region: RegionOption = None,
    yes: YesOption = False,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove all that an account has in a region: network, role, logs, bucket, images. Its block stays.

    Refuses while clusters run. The role goes with the account's last region. What is asked about is what is
    removed.
    """
    from prefect_coiled.errors import OptionsError
    from prefect_coiled.provision import destroy_account, plan_destruction

    ask_nobody(as_json, plan, yes, words="--plan or --yes")
    at = At(slug, region)
    planned = plan_destruction(at.aws) if plan or not yes else None
    if planned is not None:
        show_plan(planned, as_json)
    if plan:
        return
    if planned is not None:
        out().print(f"This removes {len(planned.todo)} resources, with the logs and images of {slug}.")
        if typer.prompt("Type the account's name to go on") != slug:
            raise OptionsError("the name", "was not the account's; nothing was removed.")
    with at.session():
        removal = destroy_account(slug, at.aws.region, planned)
    tell_removal(removal, as_json)


@command("role list")
def role_list(at: At, as_json: JsonOption = False) -> None:
    """List the policies that are attached to the role of the account's machines."""
    from prefect_coiled.aws.iam_role import attached_policies

    found = attached_policies(at.aws)
    if as_json:
        print_json(found)
        return
    out().print("\n".join((f"Role {at.loaded.slug}: its own policy{', and' if found else '.'}", *found)))


@command("role attach-policy")
def role_attach(
    arn: Annotated[str, typer.Argument(help="ARN of a managed policy, such as that of S3 reads.")],
    at: At,
    as_json: JsonOption = False,
) -> None:
    """Let the account's machines do what a managed policy allows, for example read your buckets."""
    from prefect_coiled.aws.iam_role import attach_policy

    done = attach_policy(at.aws, arn)
    bound = at.loaded.permissions_boundary
    what = "Attached" if done else "Was attached"
    text = f"{what} to role {at.loaded.slug}{where(at.loaded).rstrip('.')}: {arn}"
    if bound:
        text += f"\nIt holds as far as the permissions boundary allows: {bound}"
    row = {"role": at.loaded.slug, "policy": arn, "attached": True, "changed": done}
    sentence_or_json(text, {**row, "permissions_boundary": bound}, as_json)


@command("role detach-policy")
def role_detach(
    arn: Annotated[str, typer.Argument(help="ARN of the policy.")], at: At, as_json: JsonOption = False
) -> None:
    """Take a managed policy from the role of the account's machines."""
    from prefect_coiled.aws.iam_role import detach_policy

    done = detach_policy(at.aws, arn)
    what = "Detached from" if done else "Was not attached to"
    text = f"{what} role {at.loaded.slug}{where(at.loaded).rstrip('.')}: {arn}"
    row = {"role": at.loaded.slug, "policy": arn, "attached": False, "changed": done}
    sentence_or_json(text, row, as_json)


@command("setup region", "set-up")
def set_up(
    at: At,
    zone: Annotated[str | None, typer.Option(help="Zone of the NAT gateway, if one is made.")] = None,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make what an account's clusters share in a region, and repair what lacks something."""
    from prefect_coiled.aws.zones import check_zone_there
    from prefect_coiled.options import merge
    from prefect_coiled.options.base import refuse_blank
    from prefect_coiled.provision import plan_set_up, set_up_account
    from prefect_coiled.saved_accounts import shared

    refuse_blank(zone=zone)
    options = merge({"region": at.aws.region, "zone": zone}, at.loaded.options).options
    if zone is not None:
        check_zone_there(at.aws, zone)
    given = shared(options)
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
