"""`prefect-coiled doctor`: the shortest real life of a cluster in an account, and what differed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefect_coiled.cli.common import ask_nobody, out, print_json, quiet, showing, where
from prefect_coiled.cli.declare import AccountOption, JsonOption, YesOption, command


@command("doctor")
def run_doctor(
    account: AccountOption = None,
    spend: Annotated[float, typer.Option(help="US dollars that it may cost at most.")] = 0.5,
    report: Annotated[Path | None, typer.Option(help="File for the report, as JSON.")] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Live through the shortest life of a cluster in an account, and report what differed from the sandbox.

    Check, set-up, a cluster of two of the smallest machines, a flow, logs, close, sweep. The report names no
    account, id or address, so that it can be pasted into a bug report. Exits with 1 where a step failed.
    """
    from prefect_coiled.blocks import load_account
    from prefect_coiled.doctor import VM_TYPE, examine, hourly_price, seconds_for
    from prefect_coiled.errors import PrefectCoiledError

    if report is not None:
        _try_out(report)
    loaded = load_account(account)
    ask_nobody(as_json, yes, loaded.is_sandbox)
    price = hourly_price(loaded)
    seconds_for(spend, price)  # what is too little is told before anybody is asked
    console = quiet() if as_json else out()
    console.print(f"Account {loaded.slug}{where(loaded)}")
    console.print(
        f"Two {VM_TYPE} cost {price:.3f} US dollars an hour by AWS's list prices; they end by themselves "
        f"before they cost {spend}."
    )
    if not yes and not loaded.is_sandbox:
        typer.confirm("Go on?", abort=True)
    with showing(console, "examination"):
        found = examine(loaded, spend=spend)
    unwritten: OSError | None = None
    if report is not None:
        try:
            report.write_text(found.model_dump_json(indent=2), encoding="utf-8")
            console.print(f"Report: {report}")
        except OSError as error:  # what was paid for is not lost
            unwritten = error
    if as_json or unwritten is not None:
        print_json(found.model_dump(mode="json"))
    differed = len(found.unknown_codes) + len(found.fields) + len(found.lacking)
    result = "All steps came through" if found.ok else "Not all came through"
    console.print(f"{result}; {differed} differences from the sandbox.")
    if unwritten is not None:
        why = f"it could not be written: {unwritten.strerror or unwritten}."
        raise PrefectCoiledError(
            f"report {report}", why, "It is printed on standard output: save it from there."
        )
    if not found.ok:
        raise typer.Exit(1)


def _try_out(report: Path) -> None:
    """Refuse a file that cannot be written, before anything is spent. None is left that was not there."""
    from prefect_coiled.errors import OptionsError

    if report.is_dir() or not report.parent.is_dir():
        raise OptionsError(f"report {report}", "must be a file in a folder that is there.")
    there = report.exists()
    try:
        with report.open("ab"):
            pass
        if not there:
            report.unlink()
    except OSError as error:
        why = f"it cannot be written: {error.strerror or error}."
        raise OptionsError(f"report {report}", why, "Name another file.") from error
