"""Which clusters of an account there are: those that live, those that start, and what is left of others.

A cluster is its name and its uid in an account and region. Reads only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find, find_all, of_clusters
from prefect_coiled.aws.waits import persistently
from prefect_coiled.errors import AwsError
from prefect_coiled.internals.python import each_in_context
from prefect_coiled.plan.changes import Standing, standing
from prefect_coiled.plan.kinds import Item, Scope

__all__ = ["look", "removable", "uids_of"]

# Without these it is not known what runs, and which clusters there are.
_NEEDED = {"instance", "intent"}


def removable() -> tuple[str, ...]:
    """The keys of the rows of clusters that are deleted by themselves; the others go with these."""
    return tuple(row for row in of_clusters() if KINDS[row].delete is not None)


def look(aws: Aws, name: str | None = None) -> Standing:
    """Look at all clusters, or at those of one name."""
    return standing(KINDS, find_all(aws, removable(), Scope(name)))


def uids_of(aws: Aws, name: str) -> tuple[str, ...]:
    """The uids of the clusters of that name of which there is anything.

    This begins each removal: what AWS does not show of lesser things must keep no machine running.

    Raises:
        AwsError: If AWS shows neither machines nor names.
    """

    def listed(row: str) -> list[Item]:
        what = f"finding what there is of cluster ({name})"
        try:
            return persistently(aws, what, lambda: find(aws, KINDS[row], Scope(name)))
        except AwsError:
            if row in _NEEDED:
                raise
            return []

    rows = removable()
    with ThreadPoolExecutor(len(rows), thread_name_prefix="find") as pool:
        there = dict(zip(rows, each_in_context(pool, listed, rows), strict=True))
    found = standing(KINDS, there)
    return tuple(sorted(one.uid for one in (*found.live, *found.starting, *found.dead)))
