"""`prefect-coiled setup aws` and `account edit`: say what an account is, review it, submit it.

Both start from what is saved. `setup aws` also makes the account's resources, each a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer

from prefect_coiled.cli import interrupted, silence
from prefect_coiled.cli.common import (
    ask_nobody,
    error_line,
    out,
    print_json,
    quiet,
    say,
    showing,
    table,
)
from prefect_coiled.cli.declare import JsonOption, SlugArgument, SlugOption, command
from prefect_coiled.cli.flags import AccountFlags
from prefect_coiled.errors import AccountError, CredentialsError, OptionsError, PrefectCoiledError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from prefect_coiled.aws.loaded_account import Account
    from prefect_coiled.blocks import Ec2DaskAccount
    from prefect_coiled.events import Event
    from prefect_coiled.options import BackendOptions
    from prefect_coiled.records import AccountRecord

T = TypeVar("T")
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; what is not given stays as it is.")]


@command("setup aws")
def setup_aws(
    account: SlugOption = "default",
    *,
    flags: AccountFlags,
    yes: Yes = False,
    as_json: JsonOption = False,
) -> None:
    """Name an AWS account and make what its clusters share.

    An account that is there keeps what is not given. Stopped anywhere, it is run again and goes on: what is
    there stays as it is.
    """
    from prefect_coiled.blocks.loading import account_slug

    ask_nobody(as_json, yes)
    slug = account_slug(account)
    saved = _before(slug, flags)
    steps = Steps(numbered=not yes)
    if not yes:
        flags.complete().block(saved)  # what is wrong with a flag is said before anything is asked
        flags = _asked(flags, saved, slug, steps)
    block = flags.block(saved)
    console = quiet() if as_json else out()
    submitted = _submit(saved, block, slug, steps, console, makes=True)
    made = _make(block, slug, console)
    if as_json:
        print_json({**submitted, "resources": made.model_dump(mode="json")})


@command("account edit")
def account_edit(
    slug: SlugArgument = None,
    *,
    flags: AccountFlags,
    yes: Yes = False,
    as_json: JsonOption = False,
) -> None:
    """Change an account's options. What is not given stays as it is; without flags, it asks."""
    from prefect_coiled.blocks.loading import account_slug

    ask_nobody(as_json, yes)
    name = account_slug(slug)
    saved = _before(name, flags)
    if saved is None:
        raise AccountError(
            f"account {name!r}", "has no options yet.", f"Run `prefect-coiled setup aws --account {name}`."
        )
    steps = Steps(numbered=not yes)
    if not flags.given and not yes:
        flags = _asked(flags, saved, name, steps)
    block = flags.block(saved)
    submitted = _submit(saved, block, name, steps, quiet() if as_json else out())
    if as_json:
        print_json(submitted)


def _before(slug: str, flags: AccountFlags) -> Ec2DaskAccount | None:
    """What is saved; credentials or a token may be given anew where those that are saved are not right."""
    from prefect_coiled.blocks.loading import replaced_block

    given = {
        "aws_credentials": flags.access_key_id or flags.profile,
        "registry": flags.registry and flags.registry_access_token,
    }
    return replaced_block(slug, [name for name, value in given.items() if value])


class Steps:
    """Numbers what is asked, from 1 on, whatever was given and need not be asked.

    Args:
        numbered: Whether anything is asked at all.
    """

    def __init__(self, *, numbered: bool) -> None:
        self.numbered = numbered
        self._count = 0

    def __call__(self, question: str) -> str:
        """The next question, with its number."""
        if not self.numbered:
            return question
        self._count += 1
        return f"{self._count}. {question}"


def _asked(flags: AccountFlags, saved: Ec2DaskAccount | None, slug: str, steps: Steps) -> AccountFlags:
    """The flags with what a person answers; each answer is checked when it is given."""

    def region(text: str) -> AccountFlags:
        made = replace(flags, region=text)
        made.complete().block(saved)
        return made

    if flags.region is None:
        default = str(saved.region) if saved is not None else "us-east-1"
        flags = _ask(steps("Region"), default, region)
    if not (flags.access_key_id or flags.profile or flags.role_arn or "credentials" in (flags.clear or ())):
        flags = _ask_credentials(flags, saved, slug, steps)
    elif flags.access_key_id and not flags.secret_access_key:
        flags = _ask_secret(flags, saved, slug)
    if flags.registry is None:
        default = str(saved.registry.kind) if saved is not None else "ecr"
        question = steps("Container registry (ecr, docker_hub)")
        flags = _ask(question, default, lambda text: _registry(flags, text))
    hub = saved is not None and saved.registry.kind == "docker_hub"
    if flags.registry == "docker_hub" and not hub:
        if flags.registry_username is None:
            flags = _ask("   Docker Hub user", None, lambda text: _user(flags, text))
        if flags.registry_access_token is None:
            flags = replace(flags, registry_access_token=_secret("   Access token"))
    if saved is None and not (flags.cidr or flags.port or flags.close):
        question = steps("Who may reach the clusters (me, all, or a network)")
        flags = _ask(question, "me", lambda text: _who(flags, text))
    return flags


def _who(flags: AccountFlags, text: str) -> AccountFlags:
    from prefect_coiled.options.ingress import ANYWHERE, Firewall

    cidr = ANYWHERE if text == "all" else text
    Firewall(cidrs=[cidr])
    return replace(flags, cidr=[cidr])


def _registry(flags: AccountFlags, text: str) -> AccountFlags:
    from prefect_coiled.options.models import RegistryKind

    kind = _one_of("registry", text.lower().replace("-", "_"), get_args(RegistryKind))
    return replace(flags, registry=kind)


def _one_of(subject: str, text: str, known: Sequence[str]) -> str:
    from prefect_coiled.options.base import near

    if text not in known:
        raise OptionsError(f"{subject} {text!r}", f"must be one of {', '.join(known)}.", near(text, known))
    return text


def _user(flags: AccountFlags, text: str) -> AccountFlags:
    from pydantic import SecretStr

    from prefect_coiled.options import RegistryOptions

    RegistryOptions(kind="docker_hub", username=text, access_token=SecretStr("comes next"))
    return replace(flags, registry_username=text)


# What each answer to the question for credentials means.
_KINDS = {
    "keep": "those that are saved",
    "found": "what AWS's own tools find here: variables, ~/.aws, a machine's role",
    "profile": "a profile of ~/.aws",
    "keys": "an access key of an IAM user",
}


def _ask_credentials(
    flags: AccountFlags, saved: Ec2DaskAccount | None, slug: str, steps: Steps
) -> AccountFlags:
    """Ask for credentials until AWS accepts them."""
    kinds = [kind for kind in _KINDS if kind != "keep" or saved is not None]
    question = steps(f"Credentials ({', '.join(kinds)})")
    for kind in kinds:
        say(f"   {kind:<8} {_KINDS[kind]}")
    while True:
        kind = _ask(question, kinds[0], lambda text: _one_of("credentials", text, kinds))
        if kind == "keep":
            return flags
        try:
            made = _of_kind(kind, flags, saved)
            _verify(made.complete().block(saved), slug)
        except PrefectCoiledError as error:
            _tell(error)
            continue
        return made


def _ask_secret(flags: AccountFlags, saved: Ec2DaskAccount | None, slug: str) -> AccountFlags:
    """Ask for the secret of a key that was given, until AWS accepts it."""
    while True:
        made = replace(flags, secret_access_key=_secret("   Secret access key"))
        try:
            _verify(made.complete().block(saved), slug)
        except CredentialsError as error:
            _tell(error)
            continue
        return made


def _of_kind(kind: str, flags: AccountFlags, saved: Ec2DaskAccount | None) -> AccountFlags:
    if kind == "found":
        return flags if saved is None else replace(flags, clear=[*(flags.clear or ()), "credentials"])
    if kind == "profile":
        return replace(flags, profile=str(typer.prompt("   Profile", default="default")))
    from prefect_coiled.aws.credentials import check_access_key_id

    key = _ask("   Access key id", None, check_access_key_id)
    return replace(flags, access_key_id=key, secret_access_key=_secret("   Secret access key"))


def _verify(block: Ec2DaskAccount, slug: str) -> None:
    from prefect_coiled.saved_accounts import verify

    caller = verify(block, slug)
    say(printable(f"   AWS account {caller.aws_account_id} as {caller.arn}"))


def _ask(question: str, default: str | None, read: Callable[[str], T]) -> T:
    """Ask until the answer is right."""
    silence.broken()
    while True:
        try:
            return read(str(typer.prompt(question, default=default)).strip())
        except PrefectCoiledError as error:
            _tell(error)


def _tell(error: PrefectCoiledError) -> None:
    say(printable(error_line(error)))


def _secret(question: str) -> str:
    silence.broken()
    return str(typer.prompt(question, hide_input=True)).strip()


def _submit(
    saved: Ec2DaskAccount | None,
    block: Ec2DaskAccount,
    slug: str,
    steps: Steps,
    console: Console,
    *,
    makes: bool = False,
) -> dict[str, Any]:
    """Show what will hold and what changes, ask, and save it; gives what became of it, for JSON.

    Args:
        makes: Whether the account is set up then.
    """
    from prefect_coiled.blocks.changes import differences
    from prefect_coiled.blocks.editing import stays_behind
    from prefect_coiled.saved_accounts import save_account

    console.print(steps("Review"))
    _review(block, slug, console)
    changes = [] if saved is None else [str(one) for one in differences(saved, block)]
    if saved is not None:
        console.print("Changes" if changes else "Nothing changes.")
        for change in changes:
            console.print(f"   {change}")
        if stays := stays_behind(saved, block, slug):
            console.print(stays)
    if steps.numbered:
        if makes:
            _review_set_up(block, slug, console)
        typer.confirm(steps("Submit?"), default=True, abort=True)
    done = save_account(block, slug)
    console.print(str(done))
    return {**done.model_dump(mode="json"), "new": saved is None, "changes": changes}


def _review(block: Ec2DaskAccount, account: str, console: Console) -> None:
    from prefect_coiled.blocks import account_from_block
    from prefect_coiled.options import merge

    loaded = account_from_block(block, account)
    rows = table("OPTION", "VALUE")
    rows.add_row("account", account)
    rows.add_row("credentials", loaded.credentials.description)
    merged = merge(None, loaded.options)
    for row in merged.rows():
        rows.add_row(row.name, row.value)
    rows.add_row("tags", ", ".join(f"{k}={v}" for k, v in block.tags.items()) or "none")
    console.print(rows)
    for line in (*_doors(merged.options), _price(loaded, merged.options)):
        console.print(line)


def _review_set_up(block: Ec2DaskAccount, account: str, console: Console) -> None:
    """Say what is made in AWS once it is submitted."""
    from prefect_coiled.saved_accounts import plan_of_set_up

    if block.sandbox:
        return  # it may not run yet, and nothing in it costs anything
    try:
        todo = plan_of_set_up(block, account).todo
    except PrefectCoiledError as error:  # what is wrong with it is told again by the set-up
        console.print(f"What is made could not be looked up: {error.diagnosis.why}")
        return
    for action, text in (("create", "It makes"), ("update", "It repairs")):
        kinds = Counter(change.kind for change in todo if change.action == action)
        if kinds:
            console.print(f"{text}: {', '.join(k if n == 1 else f'{k} ({n})' for k, n in kinds.items())}.")
    if not todo:
        console.print("What its clusters share is there: nothing is made.")


def _doors(options: BackendOptions) -> Iterator[str]:
    """Who may come in, in sentences."""
    from prefect_coiled.options.ingress import ANYWHERE, SSH_PORT

    if not options.ingress:
        yield "Nobody reaches a scheduler from outside."
    for rule in options.ingress:
        ports = ", ".join(str(port) for port in rule.ports if port != SSH_PORT)
        if not ports:
            continue
        if rule.cidr == ANYWHERE:
            yield (
                f"Everybody reaches ports {ports} of schedulers ({ANYWHERE}): Dask's asks for a certificate, "
                "the dashboard for a token. `--cidr me` lets in your own address alone."
            )
        else:
            yield f"Ports {ports} of schedulers are reached from: {rule.cidr}."
    if any(SSH_PORT in rule.ports for rule in options.ingress):
        yield f"Port {SSH_PORT} stays closed but for clusters with a `key_name`."


def _price(account: Account, options: BackendOptions) -> str:
    """What the set-up of an account costs by the hour, in a sentence."""
    from prefect_coiled.aws.price_list import find_prices
    from prefect_coiled.plan.prices import shipped, usd

    if options.egress != "nat" or options.network is not None:
        return "A set-up costs nothing by the hour."
    try:
        prices = find_prices(account.door(options.region), ())
    except PrefectCoiledError:  # keys that do not work are told of where they are used
        prices = shipped()
    where = f" in {prices.region}" if prices.region != options.region else ""
    return (
        f"A set-up has a NAT gateway, which costs {usd(prices.nat)} an hour{where} until a sweep finds no "
        "cluster. `--egress public-ip` needs none."
    )


def _make(block: Ec2DaskAccount, account: str, console: Console) -> AccountRecord:
    """Set up, each resource a line as it is made."""
    from prefect_coiled.blocks import account_from_block
    from prefect_coiled.blocks.asking import ensure_api
    from prefect_coiled.saved_accounts import set_up

    reads = ("Describe", "Get", "Head", "List")
    told: set[str] = set()

    def line(event: Event) -> str:
        # Leases and their like are our own affair. A bucket takes several calls.
        service, _, call = event.action.partition(":")
        if service == "ssm" or call.startswith(reads) or event.text in told:
            return ""
        told.add(event.text)
        return f"   {event.text}"

    ensure_api()
    loaded = account_from_block(block, account)
    interrupted.changing(loaded.door(), sandbox=loaded.is_sandbox)
    with console.status("Making what is missing"), showing(console, "call", line):
        record = set_up(block, account)
    network = record.network
    console.print(
        f"Account {record.account} is set up in {record.region}"
        + (f": network {network.vpc_id}, {len(network.subnets)} subnets." if network else ".")
        + (f" Images go to {record.repository}." if record.repository else "")
    )
    return record
