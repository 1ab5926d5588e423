"""The last line of a program that Ctrl-C ended: what became of its cluster, below Python's own traceback."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping

from prefect_coiled.errors import printable
from prefect_coiled.records import Removal

_lines: list[str] = []


def tell_at_the_end(
    name: str = "", removal: Removal | None = None, cost: str = "", left: Mapping[str, str] | None = None
) -> None:
    """Say it when the interpreter ends, if it ends by that interrupt and nobody has caught it.

    Args:
        name: Of the cluster; empty for one that was coming up, and was given up.
        removal: What was removed; None where the cluster stays.
        cost: What the cluster has cost, as text.
        left: What of one that was given up is left, and why.
    """
    if not _lines:
        atexit.register(_tell)
    _lines.append(_line(name, removal, cost) if name else _given_up(left or {}))


def _given_up(left: Mapping[str, str]) -> str:
    listed = "; ".join(f"{one} ({why})" for one, why in left.items())
    what = (
        f"left for `prefect-coiled sweep`: {listed}" if left else "what was launched for it is removed again"
    )
    return f"Interrupted while the cluster came up: {what}. The next run makes a new one."


def _line(name: str, removal: Removal | None, cost: str) -> str:
    if removal is None:
        stop = f"`prefect-coiled stop {name}` ends it"
        return f"Interrupted: cluster {name} goes on, as others may use it; {stop}. It has cost {cost}."
    if removal.is_done:
        left = "Nothing of it is left"
    else:
        listed = "; ".join(f"{one} ({why})" for one, why in removal.left.items())
        left = f"Left for `prefect-coiled sweep`: {listed}"
    return (
        f"Interrupted: cluster {name} is removed ({removal.counts}), and has cost {cost}. {left}. "
        "The next run makes a new one."
    )


def _tell() -> None:
    # What ended the interpreter, below its traceback: https://docs.python.org/3/library/sys.html#sys.last_type
    if getattr(sys, "last_type", None) is not KeyboardInterrupt:
        return
    for line in _lines:
        print(printable(line), file=sys.stderr, flush=True)
