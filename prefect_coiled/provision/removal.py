"""Carry out a removal over the rows of `aws.kinds`: each kind after those that wait for it.

What fails is left with its reason and its price, keeps what it needs, and keeps nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find
from prefect_coiled.aws.price_list import seen_prices
from prefect_coiled.errors import AccessDeniedError, AwsError, CredentialsError, PrefectCoiledError
from prefect_coiled.plan.kinds import Item, There, order
from prefect_coiled.plan.prices import priced
from prefect_coiled.records import Removal
from prefect_coiled.tasks import changes as steps
from prefect_coiled.tasks.changes import Doomed, Run


def remove(
    aws: Aws,
    doomed: There,
    run: Run,
    patience: float = math.inf,
    asked: Iterable[str] = (),
    stays: Mapping[str, str] | None = None,
) -> tuple[Removal, list[PrefectCoiledError]]:
    """Remove items, each kind after those that wait for it; what fails is left, and keeps what it needs.

    Args:
        doomed: What goes, by the rows' keys.
        patience: Seconds to wait for what goes first.
        asked: Rows whose items were asked to go already.
        stays: Rows of which something stays, or may, and why.

    Returns:
        What was removed and what is left; and what failed.

    Raises:
        CredentialsError: If AWS takes the credentials no more; with all that is `left`.
    """
    removed: dict[str, tuple[str, ...]] = {}
    left: dict[str, str] = {}
    needed: list[str] = []
    errors: list[PrefectCoiledError] = []
    going: dict[str, Doomed] = {}
    # What goes with something else, such as a route, keeps nothing.
    prices = seen_prices(aws)
    blocked = {row: why for row, why in (stays or {}).items() if KINDS[row].delete is not None}

    def leave(row: str, items: Iterable[Item], why: str) -> None:
        blocked.setdefault(row, why)
        kind = KINDS[row]
        left.update({f"{kind.prefix}{kind.id_of(i)}": priced(why, kind.usd(i, prices)) for i in items})

    def settle(rows: Iterable[str]) -> None:
        """Wait until what was deleted of the rows is gone."""
        for row in [row for row in rows if row in going]:
            waited = going.pop(row)
            (error,) = run(steps.wait_gone, [(aws, waited)])
            if error is None:
                continue
            kind, why = KINDS[row], f"{error.diagnosis.what}: {error.diagnosis.why}"
            errors.append(error)
            blocked.setdefault(row, why)
            if costly := _costly(aws, row, waited.items):
                leave(row, costly, why)
                there = {kind.id_of(item) for item in costly}
                removed[kind.name] = tuple(one for one in removed[kind.name] if one not in there)
            elif not any(doomed.get(other) for other in kind.waits_for):  # else what stays for it says so
                leave(row, waited.items, why)

    def go(row: str) -> None:
        kind, items = KINDS[row], doomed.get(row, [])
        if not items:
            return
        first = [other for other in KINDS if row in KINDS[other].waits_for]
        settle(first)
        why = next((blocked[other] for other in first if other in blocked), None)
        if why is not None:
            leave(row, items, why)
            return
        starts = range(0, len(items), kind.at_once)
        chunks = [Doomed(row, items[n : n + kind.at_once], patience) for n in starts]
        ends = [None] * len(chunks) if row in asked else run(steps.drop, [(aws, chunk) for chunk in chunks])
        gone: list[Item] = []
        for chunk, error in zip(chunks, ends, strict=True):
            if kind.administered and isinstance(error, AccessDeniedError):
                leave(row, chunk.items, error.diagnosis.why)
                needed.extend(f"{kind.prefix}{kind.id_of(item)}" for item in chunk.items)
                continue
            # Of several that go at once, the error may say which are left.
            kept = None if error is None else error.left or dict.fromkeys(map(kind.id_of, chunk.items), "")
            gone += [item for item in chunk.items if kind.id_of(item) not in (kept or {})]
            if error is not None and kept is not None:
                errors.append(error)
                leave(row, [i for i in chunk.items if kind.id_of(i) in kept], error.diagnosis.why)
        if gone:
            removed[kind.name] = (*removed.get(kind.name, ()), *(kind.id_of(item) for item in gone))
            if kind.gone is not None:
                going[row] = Doomed(row, gone, patience)

    rows = order(KINDS, down=True)
    try:
        for row in rows:
            go(row)
        settle(tuple(going))
    except CredentialsError as error:  # no call would be answered any more
        for row in rows:
            kind, why = KINDS[row], error.diagnosis.why
            # Names are one kind's: the log group, the role and the profile have the same.
            done = removed.get(kind.name, ())
            rest = [item for item in doomed.get(row, ()) if kind.id_of(item) not in done]
            leave(row, [item for item in rest if f"{kind.prefix}{kind.id_of(item)}" not in left], why)
        error.left = left
        raise
    return Removal(removed=removed, left=left, needed=tuple(needed)), errors


@contextmanager
def leaving(known: Callable[[str], Mapping[str, str]]) -> Iterator[None]:
    """With an error that ends a removal half-way, such as of credentials that expired, what is left is told.

    Args:
        known: Gives what else is left, for the reason why.
    """
    try:
        yield
    except PrefectCoiledError as error:
        error.left = {**known(error.diagnosis.why), **error.left}
        raise


def _costly(aws: Aws, row: str, items: Iterable[Item]) -> list[Item]:
    """Those of the items that AWS shows, and that still cost: it took their deletion, and did not do it."""
    kind = KINDS[row]
    ids = {kind.id_of(item) for item in items}
    try:
        there = [item for item in find(aws, kind) if kind.id_of(item) in ids]
    except AwsError:
        return []
    return [item for item in there if kind.usd(item, seen_prices(aws)) != 0.0]
