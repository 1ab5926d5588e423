"""`prefect-coiled resources`, `account destroy` and `role`: what an account has in AWS."""

from __future__ import annotations

from typing import Annotated

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
    tell_removal,
    told,
    where,
)

role_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@told
def list_resources(
    account: AccountOption = None,
    region: RegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """List everything that an account has in a region, found by tag, and what it costs an hour."""
    from prefect_coiled.plan.prices import usd
    from prefect_coiled.provision import take_inventory

    loaded, aws = door(account, region)
    found = take_inventory(aws)
    if as_json:
        print_json([r.model_dump(mode="json") for r in found])
        return
    console = out()
    if not found:
        console.print(f"Account {loaded.slug} has nothing in {aws.region}{where(loaded)}")
        return
    rows = table("CLUSTER", "KIND", "ID", "COST/H", "")
    for one in found:
        price = "" if one.usd_per_hour == 0 else usd(one.usd_per_hour)
        rows.add_row(one.cluster or "(shared)", one.kind, one.resource_id, price, one.note)
    console.print(rows)


@told
def account_destroy(
    slug: Annotated[str, typer.Argument(help="Slug of the account.")],
    region: RegionOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    plan: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove all that an account has in a region: network, role, logs, bucket, images. Its block stays.

    Refuses while clusters run. The role goes with the account's last region. What is asked about is what is
    removed.
    """
    from prefect_coiled.errors import OptionsError
    from prefect_coiled.provision import destroy_account, plan_destruction
    from prefect_coiled.tasks.steps import Session, use_session

    if as_json and not (plan or yes):
        raise OptionsError("--json", "goes with --plan or --yes: nobody can be asked beside it.")
    loaded, aws = door(slug, region)
    planned = plan_destruction(aws) if plan or not yes else None
    if planned is not None:
        show_plan(planned, as_json)
    if plan:
        return
    if planned is not None:
        out().print(f"This removes {len(planned.todo)} resources, with the logs and images of {loaded.slug}.")
        if typer.prompt("Type the account's name to go on") != loaded.slug:
            raise OptionsError("the name", "was not the account's; nothing was removed.")
    with use_session(Session(aws)):
        removal = destroy_account(loaded.slug, aws.region, planned)
    tell_removal(removal, as_json)


@role_app.command("list")
@told
def role_list(
    account: AccountOption = None, region: RegionOption = None, as_json: JsonOption = False
) -> None:
    """List the policies that are attached to the role of the account's machines."""
    from prefect_coiled.aws.iam_role import attached_policies

    loaded, aws = door(account, region)
    if as_json:
        print_json(attached_policies(aws))
        return
    console = out()
    console.print(f"Role {loaded.slug}: its own policy, and")
    for arn in attached_policies(aws):
        console.print(arn)


@role_app.command("attach-policy")
@told
def role_attach(
    arn: Annotated[str, typer.Argument(help="ARN of a managed policy, such as that of S3 reads.")],
    account: AccountOption = None,
    region: RegionOption = None,
) -> None:
    """Let the account's machines do what a managed policy allows, for example read your buckets."""
    from prefect_coiled.aws.iam_role import attach_policy

    loaded, aws = door(account, region)
    done = attach_policy(aws, arn)
    out().print(f"{'Attached' if done else 'Was attached'} to role {loaded.slug}: {arn}")
    if loaded.permissions_boundary:
        out().print(f"It holds as far as the permissions boundary allows: {loaded.permissions_boundary}")


@role_app.command("detach-policy")
@told
def role_detach(
    arn: Annotated[str, typer.Argument(help="ARN of the policy.")],
    account: AccountOption = None,
    region: RegionOption = None,
) -> None:
    """Take a managed policy from the role of the account's machines."""
    from prefect_coiled.aws.iam_role import detach_policy

    loaded, aws = door(account, region)
    done = detach_policy(aws, arn)
    out().print(f"{'Detached from' if done else 'Was not attached to'} role {loaded.slug}: {arn}")
