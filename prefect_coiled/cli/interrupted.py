"""Ctrl-C: the last line says what is left and what it costs, and what the next run does.

What is under way removes what it has begun by itself, as it always does; this looks at what there is then. A
second Ctrl-C ends that as well.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import typer

from prefect_coiled.errors import PrefectCoiledError

if TYPE_CHECKING:
    from prefect_coiled.aws.door import Aws

# As a shell tells of a program that SIGINT ended: https://www.gnu.org/software/bash/manual/html_node/Exit-Status.html
STATUS = 130

_GOES_ON = "Run it again: it goes on, and makes nothing twice."
_THE_REST = "Run it again: what is left goes then."
_ANEW = "Run it again: it begins anew."
# What the next run does, of the commands that change something.
NEXT = {
    "account destroy": _THE_REST,
    "stop": _THE_REST,
    "sweep": _THE_REST,
    "setup aws": _GOES_ON,
    "setup region": _GOES_ON,
    "setup iam": _GOES_ON,
    "environment upload": _GOES_ON,
    "blocks apply": _GOES_ON,
    "environment bake": _ANEW,
    "demo": _ANEW,
    "doctor": _ANEW,
    "sandbox start": "Run it again: it finds the sandbox, or starts it.",
    "sandbox stop": "Run it again: `prefect-coiled sandbox status` says whether it is there.",
    "firewall": "`prefect-coiled firewall NAME` shows what holds.",
    "account edit": "`prefect-coiled account explain` shows what is saved.",
    "account reset": "`prefect-coiled account list` shows what is saved.",
    "role attach-policy": "`prefect-coiled role list` shows what holds.",
    "role detach-policy": "`prefect-coiled role list` shows what holds.",
}


# What these do is one call, or is about this machine alone: they note no place.
_AT_ONCE = (
    "account edit",
    "account reset",
    "blocks apply",
    "environment upload",
    "firewall",
    "role attach-policy",
    "role detach-policy",
    "sandbox start",
    "sandbox stop",
    "setup iam",
)


class Place(NamedTuple):
    """Where a command has begun to change something."""

    aws: Aws
    cluster: str | None
    sandbox: bool


# Of the command that runs: a process runs one.
_begun: list[Place] = []
_gone: list[str] = []


def begin() -> None:
    """A command begins."""
    _begun.clear()
    _gone.clear()


def changing(aws: Aws, cluster: str = "", *, sandbox: bool = False) -> None:
    """From now on something in this place may be changed.

    Args:
        cluster: The one that it is about; empty for all that the account has there.
    """
    _begun.append(Place(aws, cluster or None, sandbox))


def gone(sentence: str) -> None:
    """Say that nothing can be left any more, and why, if the command is interrupted."""
    _begun.clear()
    _gone.append(sentence)


def tell_interrupted(path: str) -> None:
    """Say what is left after Ctrl-C, and end the command.

    Raises:
        typer.Exit: Always.
    """
    try:
        text = _what_is_left(path)
    except KeyboardInterrupt:
        text = f"What is left was not looked at: {_commands()} says it."
    except PrefectCoiledError as error:
        why = error.diagnosis.why.rstrip(".")
        text = f"What is left could not be looked at ({why}): {_commands()} says it."
    typer.echo(f"\nInterrupted. {text}", err=True)
    raise typer.Exit(STATUS)


def _commands() -> str:
    return " and ".join(
        f"`prefect-coiled cost --account {place.aws.account} --region {place.aws.region}`" for place in _begun
    )


def _what_is_left(path: str) -> str:
    if not _begun and not _gone and path not in _AT_ONCE:
        return "Nothing was changed."
    left = [_in_place(place) for place in dict.fromkeys(_begun)]
    return " ".join(filter(None, [*_gone, *left, NEXT.get(path, "")]))


def _in_place(place: Place) -> str:
    """What there is and costs something, in a sentence."""
    from prefect_coiled.plan.prices import NOT_KNOWN, total, usd
    from prefect_coiled.provision import take_inventory

    aws = place.aws.without_stop()
    there = take_inventory(aws, place.cluster, costly=True, ask_prices=False)
    costly = [one for one in there if one.usd_per_hour != 0]
    whose = f"cluster {place.cluster}" if place.cluster else f"account {aws.account}"
    where = f"{whose} in {aws.region}{' (the sandbox)' if place.sandbox else ''}"
    if not costly:
        return f"Nothing of {where} is left that costs anything by the hour."
    counts = Counter(one.kind for one in costly)
    kinds = ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in counts.items())
    hourly = total([one.usd_per_hour for one in costly])
    price = NOT_KNOWN if hourly is None else f"{usd(hourly)} an hour at list prices"
    return f"Left of {where}: {kinds}, {price}."
