"""`prefect-coiled policies`: what AWS has to permit."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

from prefect_coiled.cli.common import boundary_of_block, print_json
from prefect_coiled.cli.declare import AccountOption, command
from prefect_coiled.errors import OptionsError

# Those of `plan.policies`, which is not imported for the help alone, and the boundary; a test compares them.
PolicyName: TypeAlias = Literal["setup", "ongoing", "own", "instance", "boundary"]
PolicyFormat: TypeAlias = Literal["json", "cloudformation", "terraform"]

_NumberOption = Annotated[
    str, typer.Option("--aws-account-id", help="The 12 digits of the AWS account, for narrower resources.")
]


@command("policies")
def show_policy(
    name: Annotated[PolicyName, typer.Argument(help="Which of them.")],
    account: AccountOption = None,
    region: Annotated[str, typer.Option(help="Allow this region only.")] = "*",
    number: _NumberOption = "*",
    own_network: Annotated[
        bool, typer.Option("--own-network", help="Allow the network that the account's block names, too.")
    ] = False,
    kms_key: Annotated[
        str, typer.Option(help="ARN of a KMS key of your own, if disks are encrypted with one by default.")
    ] = "",
    role_arn: Annotated[
        str, typer.Option(help="ARN of the role that it is attached to, if it is one, so that `check` works.")
    ] = "",
    boundary: Annotated[
        str,
        typer.Option(
            "--permissions-boundary",
            help="ARN of a policy to bound the machines' role; else the account's, or `boundary`.",
        ),
    ] = "",
    no_boundary: Annotated[
        bool, typer.Option("--no-boundary", help="Let the machines' role be without one.")
    ] = False,
    service: Annotated[
        list[str] | None,
        typer.Option(
            help="For `boundary`: a service that the work may use beside S3; several times for more."
        ),
    ] = None,
    form: Annotated[
        PolicyFormat, typer.Option("--format", help="IAM's JSON, a CloudFormation template, or .tf.json.")
    ] = "json",
) -> None:
    """Print an IAM policy: for set-up, for everything after it, of the machines' role, or what bounds that.

    Attach `setup` and `ongoing` to the user whose keys the account has. Once it is set up, `setup` can go.
    Where `ongoing` has no room for a network, key or role of your own, it says so: they are in `own` then.
    `setup` permits no role without the one of `boundary`, and to make that once, if nobody has before.
    """
    from prefect_coiled.blocks import load_account
    from prefect_coiled.blocks.loading import account_slug
    from prefect_coiled.options import merge
    from prefect_coiled.options.keywords import KEYWORDS
    from prefect_coiled.plan.boundary import NO_BOUNDARY, caveat
    from prefect_coiled.plan.iam_setup import written
    from prefect_coiled.plan.machine_policies import boundary_of
    from prefect_coiled.plan.policies import iam_policies

    if service and name != "boundary":
        raise OptionsError("--service", "is for the policy `boundary` alone.")
    if no_boundary and (boundary or name == "boundary"):
        raise OptionsError("--no-boundary", "is not for a policy with a boundary.")
    if region != "*":
        KEYWORDS["region"].take(region)
    slug = account_slug(account)
    said = NO_BOUNDARY if no_boundary else boundary
    if not said and name in ("setup", "ongoing", "own"):
        said = boundary_of_block(slug)
    if name == "setup" and (warning := caveat(said)):
        typer.echo(f"# {warning}", err=True)
    network = merge(None, load_account(slug).options).options.network if own_network else None
    if own_network and network is None:
        raise OptionsError("--own-network", f"account {slug} names no network of its own.", "Leave it out.")
    made = iam_policies(
        slug,
        aws_account_id=number,
        region=region,
        network=network,
        kms_key=kms_key,
        role_arn=role_arn,
        permissions_boundary=said,
    )
    if name == "ongoing" and "own" in made:
        told = "# The network, key or role of your own is in a second policy: print `own` with these options."
        typer.echo(told, err=True)
    if name == "own" and name not in made:
        raise OptionsError("the policy `own`", "is not needed: `ongoing` has room for all of it.")
    if name == "boundary":
        made[name] = boundary_of(slug, number, services=service or ())[1]
    print_json(written(made[name], name, slug, form))
