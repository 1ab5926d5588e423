"""`prefect-coiled resources`, `account destroy` and `role`: what an account has in AWS."""

from __future__ import annotations

from typing import Annotated

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
    tell_removal,
    told,
)

role_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@told
def list_resources(at: At, as_json: JsonOption = False) -> None:
    """List everything that an account has in a region, found by tag, and what it costs an hour."""
    from prefect_coiled.plan.prices import usd
    from prefect_coiled.provision import take_inventory

    found = take_inventory(at.aws)
    prices = ("" if one.usd_per_hour == 0 else usd(one.usd_per_hour) for one in found)
    rows = (
        (one.cluster or "(shared)", one.kind, one.resource_id, price, one.note)
        for one, price in zip(found, prices, strict=True)
    )
    none = f"Account {at.loaded.slug} has nothing in {at}"
    show(found, as_json, ("CLUSTER", "KIND", "ID", "COST/H", ""), rows, none=none)


@told
def account_destroy(
    slug: Annotated[str, typer.Argument(help="Slug of the account.")],
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

    if as_json and not (plan or yes):
        raise OptionsError("--json", "goes with --plan or --yes: nobody can be asked beside it.")
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


@role_app.command("list")
@told
def role_list(at: At, as_json: JsonOption = False) -> None:
    """List the policies that are attached to the role of the account's machines."""
    from prefect_coiled.aws.iam_role import attached_policies

    found = attached_policies(at.aws)
    if as_json:
        print_json(found)
        return
    out().print("\n".join((f"Role {at.loaded.slug}: its own policy, and", *found)))


@role_app.command("attach-policy")
@told
def role_attach(
    arn: Annotated[str, typer.Argument(help="ARN of a managed policy, such as that of S3 reads.")],
    at: At,
) -> None:
    """Let the account's machines do what a managed policy allows, for example read your buckets."""
    from prefect_coiled.aws.iam_role import attach_policy

    done = attach_policy(at.aws, arn)
    out().print(f"{'Attached' if done else 'Was attached'} to role {at.loaded.slug}: {arn}")
    if bound := at.loaded.permissions_boundary:
        out().print(f"It holds as far as the permissions boundary allows: {bound}")


@role_app.command("detach-policy")
@told
def role_detach(arn: Annotated[str, typer.Argument(help="ARN of the policy.")], at: At) -> None:
    """Take a managed policy from the role of the account's machines."""
    from prefect_coiled.aws.iam_role import detach_policy

    done = detach_policy(at.aws, arn)
    out().print(f"{'Detached from' if done else 'Was not attached to'} role {at.loaded.slug}: {arn}")
