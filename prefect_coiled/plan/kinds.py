"""What a kind of AWS resource is: one row tells how it is found, judged, made, repaired, removed and priced.

`resources`, set-up, sweep, destroy and costs are written over the rows and name no kind; the rows are in
`aws.kinds`. An item is a resource as AWS describes it. May not call AWS: a row's own functions do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from prefect_coiled.plan import tags
from prefect_coiled.plan.prices import Prices
from prefect_coiled.records import Record

Item = dict[str, Any]
# What there is, by the rows' keys.
There = dict[str, list[Item]]


class Cluster(NamedTuple):
    """A cluster within its account and region. Names come back; a uid never does."""

    name: str
    uid: str


class Scope(NamedTuple):
    """Where to look: at all that an account has in a region, or at the clusters of a name, or at one."""

    cluster: str | None = None
    uid: str | None = None

    def holds(self, cluster: Cluster | None) -> bool:
        """Whether what belongs to a cluster, or to all of them, is in it."""
        name, uid = cluster or (None, None)
        return self.cluster in (None, name) and self.uid in (None, uid)


ALL = Scope()


class Wanted(Record):
    """What a set-up has to see to.

    Attributes:
        zones: The zones that must have their subnets.
        every: All zones of the region: a network that is new gets subnets in all of them.
        zone: The zone of the NAT gateway, if one is to be made.
        nat: Whether private subnets need a NAT gateway.
        repository: Whether a repository for container images is needed.
        boundary: What the account says of the permissions boundary of the machines' role: its ARN, "none",
            or nothing, for the one that is made with the account's policies.
    """

    zones: tuple[str, ...]
    every: tuple[str, ...]
    zone: str
    network: bool = True
    nat: bool = True
    repository: bool = True
    boundary: str = ""


def free(item: Item, prices: Prices) -> float | None:
    """The price of what costs nothing by the hour."""
    return 0.0


def _tags(item: Item) -> dict[str, str]:
    return tags.from_aws(item.get("Tags"))


def _nothing(*_: Any) -> str:
    return ""


def _one(want: Wanted, there: There) -> tuple[str, ...]:
    return ("",)


@dataclass(frozen=True)
class Kind:
    """A kind of resource.

    Attributes:
        name: In the words of the AWS console, such as "NAT gateway".
        find: All of the account in the door's region and in a scope; what AWS finds by its name, whoever it
            belongs to.
        id_of: An item's id, or its name where AWS has no ids.
        owner: Its ARN or the number of its AWS account; None where AWS finds only what is in our own.
        note: State, size or place, in a few words.
        usd: What it costs an hour by these prices, in US dollars; None if that is not known.
        since: When it began to cost.
        of_clusters: Whether it belongs to one cluster.
        everywhere: Whether all regions share it.
        part_of: The row with which it goes, if it is not worth a word beside that.
        listed: Whether `resources` shows it.
        administered: Whether it is left to an administrator where its removal is denied.
        prefix: What tells its names from those of other kinds.
        alive: For a cluster's items: "live" or "starting" if the cluster is that because of it.
        young: What to say of an item because of which a cluster is "starting", to whoever sweeps.
        waits_for: The rows that must be there before it is made, and that go only after it is gone.
        asked: Whether a set-up needs it; None for what no set-up makes.
        places: Where one has to be, such as zones; raises where that cannot be told.
        sketch: What an item at a place will look like, as far as other rows look at it.
        lacks: What an item lacks of what is wanted, in words; empty if it is complete.
        create: Make one at a place. What it lacks then is `update`'s.
        update: Give an item what it lacks. Returns it as it is now.
        surplus: Why a sweep removes an item; empty if it stays. Gets what there is but for what goes already,
            and whether no cluster lives.
        held: Why an item cannot be removed; empty if it can.
        delete: Remove items: one, or as many as `at_once`. None for what goes with another.
        at_once: How many go in one call.
        gone: Wait until items that were deleted are gone, for so many seconds at most.
    """

    name: str
    find: Callable[[Any, Scope], Iterable[Item]]
    id_of: Callable[[Item], str]
    labels: Callable[[Item], Mapping[str, str]] = _tags
    owner: Callable[[Item], str] | None = None
    note: Callable[[Item], str] = _nothing
    usd: Callable[[Item, Prices], float | None] = free
    since: Callable[[Item], datetime | None] = lambda item: item.get("CreateTime")
    of_clusters: bool = False
    everywhere: bool = False
    part_of: str = ""
    listed: bool = True
    administered: bool = False
    prefix: str = ""
    alive: Callable[[Item], str] = _nothing
    young: Callable[[Item], str] = _nothing
    waits_for: tuple[str, ...] = ()
    asked: Callable[[Wanted], bool] | None = None
    places: Callable[[Wanted, There], Iterable[str]] = _one
    place: Callable[[Item], str] = _nothing
    sketch: Callable[[str], Item] = lambda place: {}
    lacks: Callable[[Item, Wanted, There], str] = _nothing
    create: Callable[[Any, str, Wanted, There], Item] | None = None
    update: Callable[[Any, Item, Wanted, There], Item] | None = None
    surplus: Callable[[Item, There, bool], str] = _nothing
    held: Callable[[Item], str] = _nothing
    delete: Callable[[Any, list[Item]], object] | None = None
    at_once: int = 1
    gone: Callable[[Any, list[Item], float], object] | None = None

    def cluster_of(self, item: Item) -> Cluster | None:
        """The cluster that an item belongs to; None for what all clusters share."""
        labels = self.labels(item)
        name = labels.get(tags.CLUSTER, "")
        return Cluster(name, labels.get(tags.CLUSTER_UID, "")) if name else None


def order(kinds: Mapping[str, Kind], *, down: bool = False) -> list[str]:
    """The rows' keys in the order in which they are made, or in which they go: what costs money first."""
    after: dict[str, set[str]] = {key: set() for key in kinds}
    for key, kind in kinds.items():
        for other in set(kind.waits_for) & set(kinds):
            if down:
                after[other].add(key)
            else:
                after[key].add(other)
    done: list[str] = []
    while left := [key for key in kinds if key not in done]:
        ready = [key for key in left if after[key] <= set(done)]
        done.append(min(ready, key=lambda key: down and kinds[key].usd is free))
    return done
