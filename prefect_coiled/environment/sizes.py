"""How much something is, in words, and where most of it lies. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath


def megabytes(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1_000_000:,.0f} MB"


def amount(files: int, size: int) -> str:
    """A number of files and their bytes in words."""
    return f"{files:,} file{'s' if files != 1 else ''} of {megabytes(size)}"


def heaviest(sizes: Mapping[str, int]) -> str:
    """The innermost folder (with "/" at its end) or file that most of some files is in.

    Args:
        sizes: What each file weighs, by its path.
    """
    weights: Counter[str] = Counter()
    for name, one in sizes.items():
        weights[name] += one
        for parent in PurePosixPath(name).parents[:-1]:
            weights[f"{parent.as_posix()}/"] += one
    heavy, inside = "", [name for name in weights if "/" not in name.rstrip("/")]
    while inside:
        found = max(inside, key=lambda name: weights[name])
        if heavy and weights[found] * 2 <= weights[heavy]:
            break
        heavy = found
        below = [n for n in weights if n != heavy and n.startswith(heavy) and heavy.endswith("/")]
        inside = [n for n in below if "/" not in n[len(heavy) :].rstrip("/")]
    return heavy
