"""`prefect-coiled demo`: a flow on a cluster in the sandbox, from nothing to an answer."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from prefect_coiled.cli import interrupted
from prefect_coiled.cli.common import out, print_json, quiet
from prefect_coiled.cli.declare import JsonOption, command
from prefect_coiled.errors import OptionsError, PrefectCoiledError

# Prime numbers below one million: known, so that the answer can be checked.
_BELOW, _PRIMES = 1_000_000, 78_498
_PARTS = 16


def count_primes(low: int, high: int) -> int:
    """How many primes there are from `low` on and below `high`."""
    sieve = bytearray([1]) * (high - low)
    for n in range(2, int(high**0.5) + 1):
        first = max(n * n, -(-low // n) * n)
        sieve[first - low :: n] = bytes(len(range(first, high, n)))
    return sum(sieve) - sum(1 for n in range(low, min(high, 2)))


def _sandbox_account() -> str:
    """The slug of the account that the demo runs in; nothing is started for it.

    Raises:
        OptionsError: It is not the sandbox.
    """
    from prefect_coiled.blocks.loading import account_slug, saved_block

    slug = account_slug()
    block = saved_block(slug)
    if block is not None and not block.sandbox:
        raise OptionsError("the demo", f"account {slug} is not the sandbox.", "Use flows of your own on it.")
    return slug


@command("demo")
def demo(
    workers: Annotated[int, typer.Option(min=1, max=8, help="Workers of the cluster.")] = 2,
    keep_sandbox: Annotated[
        bool, typer.Option("--keep-sandbox", help="Leave the sandbox running, to look around.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a Prefect flow on a Dask cluster in the sandbox. Needs no AWS account and no Prefect server.

    The sandbox is a local stand-in for AWS, in which each machine is a real process tree.
    """
    from prefect_coiled.install import has_sandbox, how
    from prefect_coiled.options.keywords import refuse_variables

    if not has_sandbox():
        raise OptionsError("the demo", "runs in the sandbox, which needs moto.", how("sandbox"))
    refuse_variables("the demo", os.environ)
    slug = _sandbox_account()
    from prefect import flow, task

    from prefect_coiled.blocks import load_account
    from prefect_coiled.blocks.asking import ensure_api
    from prefect_coiled.progress import live_board
    from prefect_coiled.sandbox import status, stop
    from prefect_coiled.task_runner import CoiledTaskRunner

    console, begun = quiet() if as_json else out(), time.monotonic()
    found = status() is not None
    step = _BELOW // _PARTS
    count: Any = task(name="count primes", task_run_name="primes from {low}")(count_primes)

    @flow(name="demo", task_runner=CoiledTaskRunner(n_workers=workers, account=slug))
    def primes() -> int:
        starts = [step * n for n in range(_PARTS)]
        counted: int = sum(count.map(starts, [s + step for s in starts]).result())
        # Before the cluster is removed, and the board tells of that.
        console.print(f"{counted:,} primes below {_BELOW:,}, counted by {workers} workers in {_PARTS} tasks.")
        return counted

    try:
        console.print(
            f"Starting the sandbox. {workers + 1} machines come up in it: a scheduler and its workers."
        )
        interrupted.changing(load_account(slug).door(), sandbox=True)
        ensure_api()
        with nullcontext() if as_json else live_board(console):
            answer = primes()
        if answer != _PRIMES:
            raise PrefectCoiledError("the demo", f"counted {answer} primes below {_BELOW:,}, not {_PRIMES}.")
        console.print(
            f"{time.monotonic() - begun:.1f} seconds from nothing to the answer and back to nothing."
        )
        console.print("Next: put CoiledTaskRunner(n_workers=...) on a flow of yours.")
        if as_json:
            seconds = round(time.monotonic() - begun, 1)
            print_json(
                {"primes": answer, "below": _BELOW, "workers": workers, "tasks": _PARTS, "seconds": seconds}
            )
    finally:
        if not (found or keep_sandbox):
            stop()
            interrupted.gone("The sandbox was stopped, so that nothing of it is left.")
