"""Which clusters of an account there are: those that live, those that start, and what is left of others.

A cluster is its name and its uid in an account and region. Reads only. What AWS does not show of lesser
things than machines and names keeps no machine running.
"""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find_what_shows, of_clusters
from prefect_coiled.plan.changes import Standing, standing
from prefect_coiled.plan.kinds import Scope


def removable() -> tuple[str, ...]:
    """The keys of the rows of clusters that are deleted by themselves; the others go with these."""
    return tuple(row for row in of_clusters() if KINDS[row].delete is not None)


def look(aws: Aws, name: str | None = None) -> Standing:
    """Look at all clusters, or at those of one name.

    Raises:
        AwsError: If AWS shows neither machines nor names.
    """
    return standing(KINDS, find_what_shows(aws, removable(), Scope(name))[0])


def uids_of(aws: Aws, name: str) -> tuple[str, ...]:
    """The uids of the clusters of that name of which there is anything.

    Raises:
        AwsError: If AWS shows neither machines nor names.
    """
    found = look(aws, name)
    return tuple(sorted(one.uid for one in (*found.live, *found.starting, *found.dead)))
