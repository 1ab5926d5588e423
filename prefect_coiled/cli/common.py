"""What the commands share: whose account and where, plain tables, and errors of one line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from prefect_coiled.errors import PrefectCoiledError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from prefect_coiled.aws.account import Account
    from prefect_coiled.aws.door import Aws
    from prefect_coiled.events import Event
    from prefect_coiled.plan.changes import Plan
    from prefect_coiled.records import Removal

P = ParamSpec("P")
R = TypeVar("R")

AccountOption = Annotated[str | None, typer.Option(help="Slug of the account; the default one if not given.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Print what would be changed, and change nothing; also with --json.")
]
RegionOption = Annotated[str | None, typer.Option(help="AWS region; the account's if not given.")]


def out() -> Console:
    """Where answers go: a terminal gets its width, anything else whole lines."""
    from prefect_coiled.terminal import Terminal

    console = Terminal(soft_wrap=True)
    if not console.is_terminal:
        console.width = 250  # a file or a pipe gets whole lines
    return console


def quiet() -> Console:
    """Where sentences go that are not wanted beside JSON."""
    from rich.console import Console

    return Console(quiet=True)


@contextmanager
def showing(
    console: Console, kind: str, line: Callable[[Event], str] = lambda event: f"{event.step:<12} {event.text}"
) -> Iterator[None]:
    """Print what is told inside the block: of each event of a kind its line, if it has one."""
    from prefect_coiled.events import hearing

    def show(event: Event) -> None:
        if event.kind == kind and (text := line(event)):
            console.print(text)

    with hearing(show):
        yield


def print_json(value: Any) -> None:
    """JSON for programs, on standard output."""
    import json

    typer.echo(json.dumps(value, indent=2))


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Print an error of this library as one line, and exit with 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PrefectCoiledError as error:
            tell_error(error)
            raise typer.Exit(1) from None

    return wrapped


def tell_error(error: PrefectCoiledError) -> None:
    """Print an error of this library as one line, and what it left."""
    from prefect_coiled.terminal import Terminal

    text = " ".join(str(error).split())
    console = Terminal(stderr=True, soft_wrap=True)
    _tell_left(console, error.left)
    console.print(f"Error: {text}")


def door(slug: str | None, region: str | None) -> tuple[Account, Aws]:
    """The account that is meant, and its door in the region that holds."""
    from prefect_coiled.blocks import load_account

    account = load_account(slug)
    return account, account.door(region)


def no_cluster(aws: Aws, name: str) -> PrefectCoiledError:
    """The error that says that there is no cluster of that name, with the nearest one that there is."""
    from prefect_coiled.aws.instances import find_instances
    from prefect_coiled.options.base import near

    there = sorted({machine.cluster for machine in find_instances(aws)})
    return PrefectCoiledError(
        f"cluster {name!r}",
        f"account {aws.account} has none of that name in {aws.region}.",
        near(name, there) or f"See `prefect-coiled ls --account {aws.account} --region {aws.region}`.",
    )


def where(account: Account) -> str:
    """The end of a sentence that names an account."""
    return " (the sandbox on this machine)." if account.is_sandbox else "."


def tell_removal(removal: Removal, as_json: bool = False) -> None:
    """Say what was removed and what is left; exit with 1 if that should be gone too."""
    if as_json:
        print_json(removal.model_dump(mode="json"))
    else:
        out().print(f"Removed: {removal.counts}")
        _tell_left(out(), removal.left, removal.needed)
    if not removal.is_done:
        raise typer.Exit(1)


def _tell_left(console: Console, left: Mapping[str, str], needed: tuple[str, ...] = ()) -> None:
    """Say what is left, why, and what it costs an hour."""
    for name, reason in left.items():
        word = "Kept" if name in needed else "Left"
        console.print(f"{word}: {name}, {' '.join(reason.split())}")


def show_plan(plan: Plan, as_json: bool) -> None:
    """Print what would be changed, what that costs and saves, and what stays and costs."""
    if as_json:
        print_json({**plan.model_dump(mode="json"), "costs": plan.costs, "saves": plan.saves})
        return
    from prefect_coiled.plan.prices import usd

    shown = [c for c in plan.changes if c.action != "keep" or c.left or c.needed or c.usd_per_hour != 0]
    console = out()
    if shown:
        rows = table("ACTION", "KIND", "ID", "COST/H", "WHY")
        for change in shown:
            price = "" if change.usd_per_hour == 0 else usd(change.usd_per_hour)
            rows.add_row(change.action, change.kind, change.resource_id, price, change.why)
        console.print(rows)
    if others := len(plan.changes) - len(shown):
        console.print(f"{others} more stay as they are, and cost nothing by the hour.")
    console.print(plan.summary())


def table(*columns: str) -> Table:
    """A table without lines."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for n, column in enumerate(columns):
        made.add_column(column, no_wrap=n == 0, overflow="fold")
    return made
