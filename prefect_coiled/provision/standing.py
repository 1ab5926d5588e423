"""Which clusters of an account there are: those that live, those that start, and what is left of others.

A cluster is its name and its uid in an account and region. Reads only.
"""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find_all, of_clusters
from prefect_coiled.plan.changes import Standing, standing
from prefect_coiled.plan.kinds import Scope

__all__ = ["look", "uids_of"]


def look(aws: Aws, name: str | None = None) -> Standing:
    """Look at all clusters, or at those of one name."""
    return standing(KINDS, find_all(aws, of_clusters(), Scope(name)))


def uids_of(aws: Aws, name: str) -> tuple[str, ...]:
    """The uids of the clusters of that name of which there is anything."""
    found = look(aws, name)
    return tuple(sorted(one.uid for one in (*found.live, *found.starting, *found.dead)))
