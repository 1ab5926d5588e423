"""Everything of an account in a region, found by tag or by its fixed name. Reads only."""

from __future__ import annotations

from datetime import datetime

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find_all
from prefect_coiled.aws.price_list import find_prices, seen_prices
from prefect_coiled.plan.kinds import Scope, free
from prefect_coiled.records import Record


class Resource(Record):
    """A resource in AWS.

    Attributes:
        resource_id: Its id, or its name where AWS has no ids.
        cluster: The cluster it belongs to; empty for what all clusters share.
        uid: Which cluster of that name.
        note: State, size or place, in a few words.
        usd_per_hour: What it costs an hour by list prices, in US dollars, without what is stored; None if
            that is not known.
        since: When it began to cost, where AWS says so.
        everywhere: Whether all regions share it.
    """

    kind: str
    resource_id: str
    cluster: str = ""
    uid: str = ""
    note: str = ""
    usd_per_hour: float | None = 0.0
    since: datetime | None = None
    everywhere: bool = False


def take_inventory(
    aws: Aws,
    cluster: str | None = None,
    *,
    costly: bool = False,
    shared: bool = True,
    ask_prices: bool = True,
) -> tuple[Resource, ...]:
    """All that the account has in the door's region; its role and instance profile belong to all regions.

    Args:
        cluster: Only what belongs to the clusters of that name.
        costly: Only kinds that may cost something by the hour; AWS is not asked for others.
        shared: Also kinds that all clusters share.
        ask_prices: Ask AWS for prices that are not known yet.
    """
    keys = [
        key
        for key, kind in KINDS.items()
        if kind.listed
        and (kind.of_clusters or (shared and cluster is None))
        and (kind.usd is not free or not costly)
    ]
    found = []
    there = find_all(aws, keys, Scope(cluster))
    costs = any(items and KINDS[key].usd is not free for key, items in there.items())
    types = [item["InstanceType"] for item in there["instance"]]
    spot = [item["InstanceType"] for item in there["instance"] if item.get("InstanceLifecycle") == "spot"]
    prices = find_prices(aws, types, spot=spot) if costs and ask_prices else seen_prices(aws)
    for key, items in there.items():
        kind = KINDS[key]
        for item in items:
            of = kind.cluster_of(item)
            found.append(
                Resource(
                    kind=kind.name,
                    resource_id=kind.id_of(item),
                    cluster=of.name if of else "",
                    uid=of.uid if of else "",
                    note=kind.note(item),
                    usd_per_hour=kind.usd(item, prices),
                    since=kind.since(item),
                    everywhere=kind.everywhere,
                )
            )
    return tuple(sorted(found, key=lambda r: (r.cluster, r.kind, r.resource_id)))
