"""`prefect-coiled policies` and `check`: what AWS has to permit, and whether it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from prefect_coiled.cli.common import out, print_json, quiet, table
from prefect_coiled.cli.declare import AccountOption, At, JsonOption, command
from prefect_coiled.errors import OptionsError

if TYPE_CHECKING:
    from prefect_coiled.aws.door import Aws
    from prefect_coiled.aws.loaded_account import Account
    from prefect_coiled.plan.cluster import ClusterSpec
    from prefect_coiled.provision.room import Room

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
            help="ARN of a policy to bound the machines' role instead of `boundary`.",
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
    from prefect_coiled.blocks.loading import DEFAULT_ACCOUNT
    from prefect_coiled.options import cluster_defaults, merge
    from prefect_coiled.options.keywords import KEYWORDS
    from prefect_coiled.plan.boundary import GIVEN_UP, NO_BOUNDARY
    from prefect_coiled.plan.iam_setup import written
    from prefect_coiled.plan.machine_policies import boundary_of
    from prefect_coiled.plan.policies import iam_policies

    if service and name != "boundary":
        raise OptionsError("--service", "is for the policy `boundary` alone.")
    if no_boundary and (boundary or name == "boundary"):
        raise OptionsError("--no-boundary", "is not for a policy with a boundary.")
    if no_boundary and name == "setup":
        typer.echo(f"# {GIVEN_UP}", err=True)
    if region != "*":
        KEYWORDS["region"].take(region)
    slug = account or str(cluster_defaults().get("account") or DEFAULT_ACCOUNT)
    network = merge(None, load_account(slug).options).options.network if own_network else None
    made = iam_policies(
        slug,
        aws_account_id=number,
        region=region,
        network=network,
        kms_key=kms_key,
        role_arn=role_arn,
        permissions_boundary=NO_BOUNDARY if no_boundary else boundary,
    )
    if name == "ongoing" and "own" in made:
        told = "# The network, key or role of your own is in a second policy: print `own` with these options."
        typer.echo(told, err=True)
    if name == "own" and name not in made:
        raise OptionsError("the policy `own`", "is not needed: `ongoing` has room for all of it.")
    if name == "boundary":
        made[name] = boundary_of(slug, number, services=service or ())[1]
    print_json(written(made[name], name, slug, form))


@command("check")
def check(at: At, as_json: JsonOption = False) -> None:
    """Say who the account's credentials are, what AWS would deny them, and how many workers fit.

    Changes nothing. The exit code is 1 where something would be denied that a cluster needs, or where a
    cluster of the default types would not come up.
    """
    from prefect_coiled.aws.caller import find_caller
    from prefect_coiled.aws.disk_key import find_disk_key
    from prefect_coiled.aws.foresight import foresee, may_use_key
    from prefect_coiled.aws.vpc import find_vpcs
    from prefect_coiled.errors import AccessDeniedError, AwsError, CredentialsError, OptionsError
    from prefect_coiled.provision.obstacles import find_obstacles
    from prefect_coiled.task_runner.api_url import choose_way

    loaded, aws = at.loaded, at.aws
    caller = find_caller(aws)
    console = quiet() if as_json else out()
    console.print(f"Account {loaded.slug} in {at}")
    console.print(f"AWS account {caller.aws_account_id} as {caller.arn}")
    way = choose_way(shares_loopback=loaded.shares_loopback)
    remark = str(way) if way.relay else ""
    if remark:
        console.print(f"{remark}.")
    answer: dict[str, Any] = {
        "account": loaded.slug,
        "region": aws.region,
        "aws_account_id": caller.aws_account_id,
        "arn": caller.arn,
        "remark": remark,
    }
    room = _room(loaded, aws)
    for line in room.lines():
        # The sandbox has no quotas unless it is told.
        if room.workers is not None or room.free_plan or not loaded.is_sandbox:
            console.print(line)
    key = find_disk_key(aws)
    try:
        shut = find_obstacles(aws, _usual(loaded, caller.name))
    except OptionsError as error:
        shut = [str(error)]
    for obstacle in shut:
        console.print(obstacle)
    suffices = room.suffices and not shut
    answer |= {
        "disk_key": key,
        "blocked": " ".join(shut),
        "room": room.workers,
        "quota": room.quota.model_dump() if room.quota else None,
        "free_plan": list(room.free_plan),
    }
    try:
        denied = foresee(aws, caller, loaded.credentials.role_arn)
    except CredentialsError:
        raise
    except AwsError as error:
        why = " ".join(error.diagnosis.why.split())
        if as_json:
            print_json({**answer, "denied": None, "not_foreseen": why})
        console.print(f"What would be denied cannot be foreseen: {why}")
        if isinstance(error, AccessDeniedError):
            console.print(f"Attach a policy that lets it ask: {_policy_that_asks(loaded, caller.arn)}.")
        console.print(_set_up_or_not(aws))
        if not suffices:
            console.print("A cluster of the default types would not come up.")
        raise typer.Exit(1) from None
    if as_json:
        listed = [{"action": d.action, "resource": d.resource, "policy": d.phase} for d in denied]
        print_json({**answer, "denied": listed, "not_foreseen": None})
    if key and not may_use_key(aws, caller, key, loaded.credentials.role_arn):
        console.print(
            f"Disks are encrypted with the KMS key {key}, and the credentials' own policies do not permit "
            f"its use. Attach the policy: `prefect-coiled policies ongoing --account {loaded.slug} "
            f"--kms-key {key}`."
        )
        raise typer.Exit(1)
    if denied:
        rows = table("DENIED", "ON", "POLICY THAT HAS IT")
        for one in denied:
            rows.add_row(one.action, one.resource, one.phase)
        console.print(rows)
    phases = {one.phase for one in denied}
    if "ongoing" in phases:
        console.print(f"Attach the policy: `prefect-coiled policies ongoing --account {loaded.slug}`.")
        raise typer.Exit(1)
    if "setup" in phases and not find_vpcs(aws):
        console.print(
            f"Not set up yet; attach the policy: `prefect-coiled policies setup --account {loaded.slug}`."
        )
        raise typer.Exit(1)
    if "setup" in phases:
        console.print("Set up. New networks and subnets need the set-up policy again; all else goes on.")
    if not suffices:
        console.print("A cluster of the default types would not come up.")
        raise typer.Exit(1)
    console.print("Ready.")


def _usual(account: Account, creator: str) -> ClusterSpec:
    """A cluster as it is where nothing is said but what the account says."""
    from prefect_coiled.cluster.request import Request

    return Request(n_workers=1).spec(account, creator, own_cidr=lambda: "127.0.0.1/32")


def _policy_that_asks(account: Account, arn: str) -> str:
    """The command that prints it: a role has to be named."""
    command = f"prefect-coiled policies ongoing --account {account.slug}"
    if ":assumed-role/" in arn:
        number, name = arn.split(":")[4], arn.split("/")[1]
        command += f" --role-arn {account.credentials.role_arn or f'arn:aws:iam::{number}:role/{name}'}"
    return f"`{command}`"


def _set_up_or_not(aws: Aws) -> str:
    from prefect_coiled.aws.vpc import find_vpcs
    from prefect_coiled.errors import AccessDeniedError

    try:
        return "The account is set up here." if find_vpcs(aws) else "The account is not set up here yet."
    except AccessDeniedError as error:
        return f"Whether the account is set up is not to be seen: {' '.join(error.diagnosis.why.split())}"


def _room(account: Account, aws: Aws) -> Room:
    """For how many workers there is room, of what a cluster has where nothing else is said."""
    from prefect_coiled.cluster.request import Request
    from prefect_coiled.provision.room import find_room

    request = Request()
    spot = request.merged(account).options.spot_policy != "on-demand"
    return find_room(aws, request.worker_types()[0], request.scheduler_types()[0], spot=spot)
