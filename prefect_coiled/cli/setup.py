"""`prefect-coiled setup aws`: name an AWS account, review, submit, and watch its resources being made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prefect_coiled.cli.common import out, table, told
from prefect_coiled.errors import OptionsError

if TYPE_CHECKING:
    from prefect_coiled.blocks import Ec2DaskAccount

setup_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@setup_app.callback()
def setup() -> None:
    """Set an account up, step by step."""


@setup_app.command("aws")
@told
def setup_aws(
    account: Annotated[str, typer.Option(help="Slug of the account.")] = "default",
    region: Annotated[str | None, typer.Option(help="AWS region.")] = None,
    zone: Annotated[str | None, typer.Option(help="Availability zone.")] = None,
    profile: Annotated[str | None, typer.Option(help="A profile of ~/.aws.")] = None,
    access_key_id: Annotated[str | None, typer.Option(help="Access key id of an IAM user.")] = None,
    secret_access_key: Annotated[
        str | None, typer.Option(envvar="PREFECT_COILED_SECRET_ACCESS_KEY", help="Its secret key.")
    ] = None,
    role_arn: Annotated[str | None, typer.Option(help="A role to assume.")] = None,
    egress: Annotated[str, typer.Option(help='The workers\' way out: "nat", "public-ip" or "none".')] = "nat",
    registry: Annotated[str | None, typer.Option(help='"ecr" or "docker_hub".')] = None,
    registry_username: Annotated[str | None, typer.Option(help="Docker Hub user.")] = None,
    registry_access_token: Annotated[
        str | None, typer.Option(envvar="PREFECT_COILED_REGISTRY_TOKEN", help="Docker Hub access token.")
    ] = None,
    endpoint_url: Annotated[str | None, typer.Option(help="Where AWS's API is, if not at AWS.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; take the defaults.")] = False,
) -> None:
    """Name an AWS account and make what its clusters share.

    Stopped anywhere, it is run again and goes on: what is there stays as it is.
    """
    from prefect_coiled.accounts import make_account, save_account

    console = out()
    region = region or _ask("1. Region", "us-east-1", yes)
    keys = (access_key_id, secret_access_key)
    if not (access_key_id or profile or role_arn or yes):
        profile, keys = _ask_credentials()
    if access_key_id and not secret_access_key and not yes:
        keys = (access_key_id, typer.prompt("   Secret access key", hide_input=True))
    chosen = registry or _ask("3. Container registry (ecr, docker_hub)", "ecr", yes)
    kept: dict[str, str] = {"kind": chosen}
    if chosen == "docker_hub":
        kept["username"] = registry_username or _ask("   Docker Hub user", "", yes)
        kept["access_token"] = registry_access_token or typer.prompt("   Access token", hide_input=True)
    block = make_account(
        {"region": region, "zone": zone, "egress": egress},
        kept,
        keys=keys,
        profile=profile,
        role_arn=role_arn,
        endpoint_url=endpoint_url,
    )
    console.print("4. Review")
    _review(block, account)
    if not yes:
        typer.confirm("5. Submit?", default=True, abort=True)
    console.print(str(save_account(block, account)))
    _make(block, account)


def _ask(question: str, default: str, yes: bool) -> str:
    return default if yes else str(typer.prompt(question, default=default))


def _ask_credentials() -> tuple[str | None, tuple[str | None, str | None]]:
    kind = typer.prompt("2. Credentials (found, profile, keys)", default="found")
    if kind == "found":
        return None, (None, None)
    if kind == "profile":
        return str(typer.prompt("   Profile", default="default")), (None, None)
    if kind != "keys":
        raise OptionsError(f"credentials {kind!r}", 'are "found", "profile" or "keys".')
    key = str(typer.prompt("   Access key id"))
    return None, (key, str(typer.prompt("   Secret access key", hide_input=True)))


def _review(block: Ec2DaskAccount, account: str) -> None:
    from prefect_coiled.blocks import account_from_block
    from prefect_coiled.options import merge

    loaded = account_from_block(block, account)
    rows = table("OPTION", "VALUE")
    rows.add_row("account", account)
    rows.add_row("credentials", loaded.credentials.description)
    for row in merge(None, loaded.options).rows():
        rows.add_row(row.name, row.value)
    out().print(rows)


def _make(block: Ec2DaskAccount, account: str) -> None:
    """Set up, each resource a line as it is made."""
    from prefect_coiled.accounts import set_up

    console = out()
    reads = ("Describe", "Get", "Head", "List")

    def observe(action: str, what: str) -> None:
        # Leases and their like are our own affair.
        if not action.split(":")[1].startswith(reads) and not action.startswith("ssm:"):
            console.print(f"   {what}")

    with console.status("Making what is missing"):
        record = set_up(block, account, observe)
    network = record.network
    console.print(
        f"Account {record.account} is set up in {record.region}"
        + (f": network {network.vpc_id}, {len(network.subnets)} subnets." if network else ".")
        + (f" Images go to {record.repository}." if record.repository else "")
    )
