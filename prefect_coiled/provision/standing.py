"""Which clusters of an account there are: those that live, those that start, and what is left of others.

A cluster is its name and its uid in an account and region. Names come back; a uid never does. Reads only.
"""

from __future__ import annotations

from typing import NamedTuple

from prefect_coiled.aws import instances, launch_templates, parameters, security_groups
from prefect_coiled.aws.door import Aws
from prefect_coiled.plan import tags
from prefect_coiled.plan.cluster import uid_of

__all__ = ["ClusterId", "Standing", "is_idle", "look", "uids_of"]


class ClusterId(NamedTuple):
    """A cluster within its account and region."""

    name: str
    uid: str


class Standing(NamedTuple):
    """The clusters of an account in a region.

    Attributes:
        live: Those whose scheduler's machine is there.
        starting: Those that were asked for a short while ago, and have no scheduler yet.
        dead: Those of which something is left.
    """

    live: frozenset[ClusterId]
    starting: frozenset[ClusterId]
    dead: frozenset[ClusterId]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of those that live or are starting."""
        return tuple(sorted({one.name for one in (*self.live, *self.starting)}))


def look(aws: Aws, name: str | None = None) -> Standing:
    """Look at all clusters, or at those of one name."""
    machines = instances.find_instances(aws, name, states=(*instances.LIVE, "shutting-down"))
    there = {ClusterId(m.cluster, m.cluster_uid) for m in machines}
    live = {
        ClusterId(m.cluster, m.cluster_uid)
        for m in machines
        if m.role == "scheduler" and m.state in instances.LIVE
    }
    for resources in (
        security_groups.find_security_groups(aws, name),
        launch_templates.find_launch_templates(aws, name),
    ):
        for labels in (tags.from_aws(r.get("Tags")) for r in resources):
            there.add(ClusterId(labels.get(tags.CLUSTER, ""), labels.get(tags.CLUSTER_UID, "")))
    starting = set()
    root = parameters.account_path(aws.account)
    path = root if name is None else parameters.cluster_path(aws.account, name)
    for parameter in parameters.find_parameters(aws, path):
        cluster, _, rest = parameter.removeprefix(root).partition("/")
        if rest == parameters.INTENT:
            found = parameters.read_with_age(aws, parameter)
            if found is not None:
                one = ClusterId(cluster, uid_of(found[0]))
                there.add(one)
                if found[1] < parameters.STARTING:
                    starting.add(one)
        elif rest:
            there.add(ClusterId(cluster, rest.partition("/")[0]))
    dead = {one for one in there - live - starting if one.name}
    return Standing(frozenset(live), frozenset(starting - live), frozenset(dead))


def uids_of(aws: Aws, name: str) -> tuple[str, ...]:
    """The uids of the clusters of that name of which there is anything."""
    found = look(aws, name)
    return tuple(sorted(one.uid for one in (*found.live, *found.starting, *found.dead)))


def is_idle(aws: Aws) -> bool:
    """Whether no machine of the account is there and no cluster is starting."""
    return not look(aws).names and not instances.find_instances(aws)
