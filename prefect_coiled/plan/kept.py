"""By what a cluster's scheduler launches workers itself: launch templates that say all there is to say.

The machines' role may launch what such a template says, unchanged, and only the scheduler whose machine it
names (see `machine_policies`). So there is one for each way to get workers that the scheduler may try.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from prefect_coiled.plan import tags
from prefect_coiled.plan.cluster import Attempt, ClusterSpec, cluster_tags, template_name
from prefect_coiled.plan.node_config import Keep
from prefect_coiled.records import InstanceRecord

# Each is a call to AWS at every launch.
MOST_WAYS = 3

# A type, a zone and a market; its subnet, and whether its machines get a public address.
Way = tuple[Attempt, tuple[str, bool]]


def ways(
    possible: Iterable[Way], launched: Iterable[InstanceRecord], most: int = MOST_WAYS
) -> tuple[Way, ...]:
    """The ways to get workers that a scheduler may try: those that gave some at the launch first.

    What one zone has not, another may have; and where others may come in place of spot machines, one way is
    that.

    Args:
        possible: All that the launch may try, in its order.
        launched: The workers that it gave.
    """
    gave = Counter((m.instance_type, m.zone, m.spot) for m in launched)
    listed = list(possible)
    listed.sort(key=lambda way: -gave[(way[0].instance_type, way[0].zone, way[0].spot)])
    first, later = listed[:1], listed[1:]
    later.sort(
        key=lambda way: (
            not gave[(way[0].instance_type, way[0].zone, way[0].spot)],
            way[0].zone == first[0][0].zone,
        )
    )
    chosen = [*first, *later][:most]
    on_demand = next((way for way in listed if not way[0].spot), None)
    if on_demand is not None and all(way[0].spot for way in chosen):
        chosen[-1] = on_demand
    return tuple(chosen)


def kept_names(spec: ClusterSpec, count: int = MOST_WAYS) -> tuple[str, ...]:
    """The names of the templates, in the order of the ways."""
    return tuple(template_name(spec, "worker", way) for way in range(1, count + 1))


def keep_of(spec: ClusterSpec, count: int = MOST_WAYS) -> Keep | None:
    """What the scheduler is told; None if there is no way."""
    if not count:
        return None
    return Keep(uid=spec.uid, n_workers=spec.n_workers, templates=kept_names(spec, count))


def kept_template(
    spec: ClusterSpec, base: Mapping[str, Any], way: Way, group_ids: Iterable[str]
) -> dict[str, Any]:
    """`LaunchTemplateData` of one way: what the workers' own template says, and what a launch adds to it."""
    attempt, (subnet_id, public) = way
    labels = cluster_tags(spec, "worker")
    data = {
        **base,
        "InstanceType": attempt.instance_type,
        "NetworkInterfaces": [interface(subnet_id, public, group_ids)],
        "TagSpecifications": tags.specifications(labels, "instance", "volume", "network-interface"),
    }
    return {**data, **market(attempt.spot)}


def kept_tags(spec: ClusterSpec, launcher: str) -> dict[str, str]:
    """The tags of such a template.

    Args:
        launcher: The ARN of the machine that may launch by it.
    """
    return {**cluster_tags(spec, "worker"), tags.LAUNCHER: launcher}


def interface(subnet_id: str, public: bool, group_ids: Iterable[str]) -> dict[str, Any]:
    """The one network interface of a machine."""
    return {
        "DeviceIndex": 0,
        "SubnetId": subnet_id,
        "Groups": list(group_ids),
        "AssociatePublicIpAddress": public,
        "DeleteOnTermination": True,
    }


def market(spot: bool) -> dict[str, Any]:
    """What a launch says of the market."""
    if not spot:
        return {}
    return {
        "InstanceMarketOptions": {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    }
