"""What the commands print: tables or JSON, plans, what was removed and what is left, errors of one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from prefect_coiled.cli import silence
from prefect_coiled.errors import PrefectCoiledError

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table

    from prefect_coiled.aws.door import Aws
    from prefect_coiled.aws.loaded_account import Account
    from prefect_coiled.events import Event
    from prefect_coiled.plan.changes import Plan
    from prefect_coiled.records import Removal


def out() -> Console:
    """Where answers go."""
    from prefect_coiled.terminal import Terminal

    silence.broken()
    return Terminal(soft_wrap=True)


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

    say(json.dumps(value, indent=2))


def say(text: str) -> None:
    """Print a text as it is, on standard output."""
    import sys

    silence.broken()
    try:
        typer.echo(text)
    except BrokenPipeError:
        from prefect_coiled.terminal import unheard

        unheard(sys.stdout)


def tell_error(error: PrefectCoiledError) -> None:
    """Print an error of this library as one line, and what it left."""
    from prefect_coiled.terminal import Terminal

    silence.broken()
    console = Terminal(stderr=True, soft_wrap=True)
    _tell_left(console, error.left)
    console.print(error_line(error))


def error_line(error: PrefectCoiledError) -> str:
    """An error as one line: what failed and why, and what to do next, each a sentence."""
    text = " ".join(str(error).split())
    # What ends with an address or JSON is to be copied.
    ended = text.endswith((".", "!", "?", "}", "]")) or "://" in text.split()[-1]
    return f"Error: {text}{'' if ended else '.'}"


def ask_nobody(as_json: bool, *ways: bool, words: str = "--yes") -> None:
    """Refuse JSON where somebody would be asked beside it.

    Args:
        ways: Whether one of the flags was given with which nobody is asked.
        words: Which these are.
    """
    from prefect_coiled.errors import OptionsError

    if as_json and not any(ways):
        raise OptionsError("--json", f"goes with {words}: nobody can be asked beside it.")


def sentence_or_json(text: str, value: Any, as_json: bool) -> None:
    """Say what was done in a sentence, or as JSON."""
    if as_json:
        print_json(value.model_dump(mode="json") if hasattr(value, "model_dump") else value)
    else:
        out().print(text)


def past(since: str, now: datetime) -> datetime:
    """The moment that `--since` means.

    Raises:
        OptionsError: It means none, or one that is still to come.
    """
    from prefect_coiled.errors import OptionsError
    from prefect_coiled.notifications import parse_since

    begin = parse_since(since, now)
    if begin > now:
        raise OptionsError(f"--since {since!r}", "is not in the past.")
    return begin


def where(account: Account) -> str:
    """The end of a sentence that names an account."""
    return " (the sandbox on this machine)." if account.is_sandbox else "."


def boundary_of_block(slug: str) -> str:
    """What the saved account says of its permissions boundary; where none can be read, that is said."""
    from prefect_coiled.blocks.asking import reading_here
    from prefect_coiled.blocks.loading import saved_block

    try:
        with reading_here():
            block = saved_block(slug)
    except PrefectCoiledError as error:
        unread = "It is taken that the account names no permissions boundary of its own."
        typer.echo(f"# {error_line(error)} {unread}", err=True)
        return ""
    return block.permissions_boundary.strip() if block is not None else ""


def no_cluster(aws: Aws, name: str) -> PrefectCoiledError:
    """The error that says that no cluster of that name runs, with the nearest one that there is."""
    from prefect_coiled.aws.instances import find_instances
    from prefect_coiled.options.base import near

    there = sorted({machine.cluster for machine in find_instances(aws)})
    if name in there:
        why = f"account {aws.account} has machines of it in {aws.region}, without a scheduler or a plan."
        stop = f"`prefect-coiled stop {name} --account {aws.account} --region {aws.region}`"
        return PrefectCoiledError(f"cluster {name!r}", why, f"Remove what is left: {stop}.")
    return PrefectCoiledError(
        f"cluster {name!r}",
        f"account {aws.account} has none of that name in {aws.region}.",
        near(name, there) or f"See `prefect-coiled ls --account {aws.account} --all-regions`.",
    )


def tell_removal(removal: Removal, as_json: bool = False) -> None:
    """Say what was removed and what is left; exit with 1 if that should be gone too."""
    if as_json:
        print_json(removal.model_dump(mode="json"))
    else:
        show_removal(removal)
    if not removal.is_done:
        raise typer.Exit(1)


def show_removal(removal: Removal) -> None:
    """Print what was removed and what is left."""
    console = out()
    console.print(f"Removed: {removal.counts}")
    _tell_left(console, removal.left, removal.needed)


def _tell_left(console: Console, left: Mapping[str, str], needed: tuple[str, ...] = ()) -> None:
    """Say what is left, why, and what it costs an hour."""
    for name, reason in left.items():
        word = "Kept" if name in needed else "Left"
        console.print(f"{word}: {name}, {' '.join(reason.split())}")


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """A plan for programs."""
    return {**plan.model_dump(mode="json"), "costs": plan.costs, "saves": plan.saves}


def show_plan(plan: Plan, as_json: bool) -> None:
    """Print what would be changed, what that costs and saves, and what stays and costs."""
    if as_json:
        print_json(plan_as_json(plan))
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


def show(
    found: Iterable[Any],
    as_json: bool,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    none: str = "",
    before: str = "",
    after: Iterable[str] = (),
) -> None:
    """Print what was found: as JSON, as a table, or in one sentence where it is nothing.

    Args:
        found: Records, or what JSON knows.
        none: The sentence; without one, the table is printed empty.
    """
    listed = list(found)
    if as_json:
        print_json([one.model_dump(mode="json") if hasattr(one, "model_dump") else one for one in listed])
        return
    console = out()
    if none and not listed:
        console.print(none)
        return
    shown = table(*columns)
    for row in rows:
        shown.add_row(*row)
    for line in (*([before] if before else []), shown, *after):
        console.print(line)


def table(*columns: str) -> Table:
    """A table without lines."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for n, column in enumerate(columns):
        made.add_column(column, no_wrap=n == 0, overflow="fold")
    return made
