"""`prefect-coiled setup iam`: the policies to whom they are for, as commands that are printed, or done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefect_coiled.cli.common import ask_nobody, boundary_of_block, out, print_json, quiet, say
from prefect_coiled.cli.declare import JsonOption, SlugOption, command
from prefect_coiled.errors import OptionsError

if TYPE_CHECKING:
    from rich.console import Console

    from prefect_coiled.aws.door import Aws
    from prefect_coiled.aws.iam_setup import NewKey
    from prefect_coiled.plan.iam_setup import Principal, Step


@command("setup iam")
def setup_iam(
    account: SlugOption = "default",
    user: Annotated[str | None, typer.Option(help="An IAM user to make.")] = None,
    group: Annotated[str | None, typer.Option(help="A group that is there.")] = None,
    role: Annotated[str | None, typer.Option(help="ARN of a role that is there.")] = None,
    number: Annotated[
        str | None,
        typer.Option("--aws-account-id", help="The AWS account; else that of the role or credentials."),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it instead of printing it.")] = False,
    profile: Annotated[
        str | None, typer.Option(help="With --apply: the profile of somebody who manages IAM.")
    ] = None,
    key: Annotated[
        bool, typer.Option("--key", help="With --apply: make a user's access key, and print it this once.")
    ] = False,
    boundary: Annotated[
        bool | None,
        typer.Option(
            "--boundary/--no-boundary",
            help="Whether to bound the machines' role: make the policy, and want it in `setup`. By default "
            "as the account says, whose own boundary stays as it is.",
        ),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(help="A service that the machines' work may use beside S3; several times for more."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --apply: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the commands that make the policies and attach them, for somebody who may; or do it.

    Give one of --user, --group and --role. What is printed is for a shell with AWS's own tool; nothing is
    called. With --apply it is done by the credentials of the account or of a profile: what is there stays,
    and it asks first. None of the printed policies permits that.
    """
    from prefect_coiled.blocks.loading import account_slug
    from prefect_coiled.options.base import refuse_blank
    from prefect_coiled.plan.boundary import NO_BOUNDARY, caveat, effective_boundary
    from prefect_coiled.plan.iam_setup import command, for_permission_set, of_permission_set, steps
    from prefect_coiled.plan.machine_policies import boundary_of
    from prefect_coiled.plan.policies import ROLE_ARN, iam_policies

    named: list[tuple[Principal, str]] = []
    for principal, value in (("user", user), ("group", group), ("role", role)):
        if value is not None:
            named.append((principal, value))  # type: ignore[arg-type]
    if len(named) != 1:
        raise OptionsError(
            "setup iam",
            "needs one of --user, --group and --role.",
            f"For example `prefect-coiled setup iam --account {account} --user dask --aws-account-id NUMBER` "
            "prints what to do; with `--apply` it does that.",
        )
    if not apply and (profile or key or yes):
        raise OptionsError("setup iam", "takes --profile, --key and --yes with --apply alone.")
    if service and boundary is False:
        raise OptionsError("setup iam --service", "is not for --no-boundary.")
    if apply:
        ask_nobody(as_json, yes)
    ((principal, name),) = named
    if key and principal != "user":
        raise OptionsError("setup iam --key", f"makes the key of a user, and none of a {principal}.")
    refuse_blank(**{f"--{principal}": name, "--aws-account-id": number, "--profile": profile})
    slug = account_slug(account)
    arn = name if principal == "role" else ""
    if arn and not ROLE_ARN.fullmatch(arn):
        raise OptionsError(
            f"--role {arn!r}",
            "must look like arn:aws:iam::123456789012:role/name.",
            f"`aws iam get-role --role-name {arn}` says it." if ":" not in arn else "",
        )
    if arn and number not in (None, arn.split(":")[4]):
        raise OptionsError(
            f"--role {arn!r} and --aws-account-id {number!r}",
            "contradict each other: the role is of another AWS account.",
            "Leave --aws-account-id out.",
        )
    number = arn.split(":")[4] if arn else number
    partition = arn.split(":")[1] if arn else "aws"
    aws: Aws | None = None
    console = quiet() if as_json else out()
    if apply:
        (aws, number, partition) = _administrator(slug, profile, number, partition, console)
    if not number:
        raise OptionsError(
            "setup iam", "needs --aws-account-id.", "`aws sts get-caller-identity` says which it is."
        )
    said = NO_BOUNDARY if boundary is False else boundary_of_block(slug)
    if said == NO_BOUNDARY and boundary:
        said = ""
    bound = effective_boundary(said, slug, number, partition)
    of_library, limits = boundary_of(slug, number, partition, service or ())
    if service and bound != of_library:
        raise OptionsError(
            "setup iam --service",
            f"is for the boundary that is made here, and account {slug} has {bound or 'none'}.",
            "Leave it out, or give --boundary where the account has none.",
        )
    made = iam_policies(
        slug,
        aws_account_id=number,
        partition=partition,
        role_arn=arn,
        permissions_boundary=said,
    )
    documents: dict[str, Any] = {phase: made[phase] for phase in ("setup", "ongoing", "own") if phase in made}
    wanted = steps(
        documents,
        slug,
        principal,
        name.rpartition("/")[2] if principal == "role" else name,
        aws_account_id=number,
        partition=partition,
        key=key or not apply,
        boundary=limits if bound == of_library else None,
        bound=bound,
        attach=not of_permission_set(arn),
    )
    if aws is not None:
        done = _apply(aws, wanted, number, partition, yes, console)
        if as_json:
            print_json(done)
    elif as_json:
        print_json([{"what": step.what, "call": step.call, "command": command(step)} for step in wanted])
    else:
        for step in wanted:
            if step.call == "PutRolePermissionsBoundary":
                # A comment, where the rest is for a shell.
                say(f"# Only if there is a role {slug} already: {command(step)}")
            else:
                say(command(step))
    if of_permission_set(arn) and not as_json:
        say(f"# {for_permission_set(documents, slug)}")
    if (warning := caveat(said)) and not as_json:
        say(f"# {warning}")
        if boundary is False:
            say(f"# Then: prefect-coiled account edit {slug} --permissions-boundary {NO_BOUNDARY}")


def _administrator(
    slug: str, profile: str | None, number: str | None, partition: str, console: Console
) -> tuple[Aws, str, str]:
    """The door of whoever manages IAM, said in a line; the AWS account's number, and its partition."""
    from prefect_coiled.aws.caller import find_caller
    from prefect_coiled.saved_accounts import administrator

    (account, aws) = administrator(slug, profile)
    caller = find_caller(aws)
    where = account.place(caller.aws_account_id, aws.region)
    console.print(f"As {caller.arn}, {account.credentials.description}: {where}.")
    own = caller.arn.split(":")[1]
    return aws, number or caller.aws_account_id, own if partition == "aws" else partition


def _apply(
    aws: Aws, wanted: list[Step], number: str, partition: str, yes: bool, console: Console
) -> dict[str, Any]:
    """Show what is there and what is not, ask, and do it; what came of each step, and of a key."""
    from prefect_coiled.aws.iam_setup import carry_out, held_by_boundary, look, replaced_boundary

    tasks = look(aws, wanted, number, partition)
    words = {"missing": "to make", "there": "is there", "differs": "to renew: it says something else"}
    for task in tasks:
        secret = (
            " (AWS told its secret once, when it was made)" if task.step.call == "CreateAccessKey" else ""
        )
        console.print(f"   {task.step.what}: {words[task.state]}{secret if task.state == 'there' else ''}")
    replaced = replaced_boundary(aws, tasks)
    if replaced:
        console.print(
            f"   Role {aws.account} has another permissions boundary now, which it loses: {replaced}."
        )
    if held := held_by_boundary(aws, tasks):
        console.print(
            f"   What else the role has holds as far as the boundary allows: {', '.join(held)}. "
            "Name the services that the work uses by --service."
        )
    became = {"missing": "made", "there": "there", "differs": "renewed"}
    done: dict[str, Any] = {
        "steps": [{"what": task.step.what, "state": became[task.state]} for task in tasks],
        "held_by_boundary": list(held),
        "replaced_boundary": replaced,
    }
    if all(task.state == "there" for task in tasks):
        console.print("Nothing is missing.")
        return done
    if not yes:
        typer.confirm("Do it?", default=True, abort=True)
    made: NewKey | None = None
    for task in tasks:
        made = carry_out(aws, task, number, partition) or made
        if task.state != "there":
            console.print(f"   {task.step.what}: {became[task.state]}")
    if made is not None:
        done["access_key"] = {
            "access_key_id": made.access_key_id,
            "secret_access_key": made.secret_access_key.get_secret_value(),
        }
        if not console.quiet:
            # Past the console, which would break a line.
            say(f"Access key id: {made.access_key_id}")
            say(f"Secret access key: {made.secret_access_key.get_secret_value()}")
        console.print(
            "AWS tells the secret this once: put it into the account with `prefect-coiled setup aws`."
        )
    return done
