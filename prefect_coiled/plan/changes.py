"""Plans: what a set-up, a sweep or the end of an account would change, before anything is changed.

A plan is a value: it is made of what there is and what is wanted, printed, and carried out. Written over the
rows of `plan.kinds`; calls nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from prefect_coiled.plan.kinds import Cluster, Item, Kind, There, Wanted, order
from prefect_coiled.plan.prices import Prices, total, usd
from prefect_coiled.records import Record

Action = Literal["create", "update", "delete", "keep"]


class Change(Record):
    """What becomes of one resource.

    Attributes:
        action: What is done with it; "keep" is nothing.
        kind: Such as "NAT gateway".
        row: The key of its row.
        resource_id: Its id or name; of what is to be made, where it will be.
        place: Where it has to be, for what a set-up sees to; such as a zone.
        why: In words.
        usd_per_hour: What it costs an hour, in US dollars by list prices, once it is there; None if that is
            not known.
        cluster: The cluster that it belongs to; empty for what all of them share.
        uid: The uid of that cluster.
        left: Whether it should go, and cannot.
        needed: Whether it stays because something else needs it.
    """

    action: Action
    kind: str
    row: str
    resource_id: str
    place: str = ""
    why: str = ""
    usd_per_hour: float | None = 0.0
    cluster: str = ""
    uid: str = ""
    left: bool = False
    needed: bool = False

    @property
    def named(self) -> str:
        """Kind and id; the kind alone for what has no other name yet."""
        return self.kind if self.resource_id == self.kind else f"{self.kind} {self.resource_id}"

    @property
    def of(self) -> tuple[str, str]:
        """Which resource it is of."""
        return self.row, self.resource_id

    @property
    def whose(self) -> Cluster | None:
        """The cluster that it belongs to; None for what all of them share."""
        return Cluster(self.cluster, self.uid) if self.cluster else None


class Plan(Record):
    """All that would be changed, in the order in which it is, and what stays.

    Attributes:
        what: "set-up", "sweep" or "destroy".
        changes: What becomes of each resource that was looked at.
    """

    what: str
    account: str
    region: str
    changes: tuple[Change, ...]

    @property
    def todo(self) -> tuple[Change, ...]:
        """What is made, repaired or removed."""
        return tuple(c for c in self.changes if c.action != "keep")

    @property
    def left(self) -> tuple[Change, ...]:
        """What should go, and cannot, or is needed elsewhere."""
        return tuple(c for c in self.changes if c.left or c.needed)

    @property
    def costs(self) -> float | None:
        """What is made costs so much an hour, in US dollars; None if a price is not known."""
        return total([c.usd_per_hour for c in self.changes if c.action == "create"])

    @property
    def saves(self) -> float | None:
        """What is removed has cost so much an hour, in US dollars; None if a price is not known."""
        return total([c.usd_per_hour for c in self.changes if c.action == "delete"])

    def within(self, other: Plan) -> Plan:
        """This one without what another one, made later, would not do any more; why it is left is kept."""
        later = {c.of: c for c in other.changes}
        agreed = (c if c.action == "keep" else later.get(c.of) for c in self.changes)
        return self.model_copy(update={"changes": tuple(c for c in agreed if c is not None)})

    def agreed(self, other: Plan) -> Plan:
        """This one, in which all stays that an earlier one, which somebody agreed to, would not have removed.

        A cluster was agreed to as a whole, all else by itself.
        """
        there = {c.whose or c.of for c in other.todo}
        late = {"action": "keep", "left": True, "why": "it came after the plan"}
        agreed = (
            c if c.action == "keep" or (c.whose or c.of) in there else c.model_copy(update=late)
            for c in self.changes
        )
        return self.model_copy(update={"changes": tuple(agreed)})

    def summary(self) -> str:
        """In one line: how much of what, and what it costs and saves an hour."""
        counted = {
            word: sum(c.action == action for c in self.changes)
            for action, word in (("create", "make"), ("update", "repair"), ("delete", "remove"))
        }
        parts = [f"{n} to {word}" for word, n in counted.items() if n]
        money = [
            f"{word} {usd(sum_)}"
            for word, sum_ in (("costs", self.costs), ("saves", self.saves))
            if sum_ != 0
        ]
        text = ", ".join(parts) if parts else "nothing changes"
        return f"{self.what} of {self.account} in {self.region}: {text}" + (
            f"; {' and '.join(money)} an hour" if money else ""
        )


class Standing(NamedTuple):
    """The clusters of an account in a region.

    Attributes:
        starting: Those that were asked for a short while ago, and have no scheduler yet.
        dead: Those of which something is left.
    """

    live: frozenset[Cluster]
    starting: frozenset[Cluster]
    dead: frozenset[Cluster]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of those that live or are starting."""
        return tuple(sorted({one.name for one in (*self.live, *self.starting)}))


def standing(kinds: Mapping[str, Kind], there: There) -> Standing:
    """Which clusters live, which are starting, and of which others something is left."""
    seen: dict[str, set[Cluster]] = {"live": set(), "starting": set(), "": set()}
    for key, items in there.items():
        for item in items:
            cluster = kinds[key].cluster_of(item)
            # What goes with something else (a volume) may be seen for a while when that is gone.
            if cluster is not None and kinds[key].delete is not None:
                seen[kinds[key].alive(item)].add(cluster)
    live, starting = seen["live"], seen["starting"] - seen["live"]
    return Standing(frozenset(live), frozenset(starting), frozenset(seen[""] - live - starting))


def choose(kind: Kind, place: str, items: Iterable[Item], want: Wanted, there: There) -> Item | None:
    """Of the items at a place the one that lacks nothing, else the first; None if there is none."""
    fitting = [item for item in items if kind.place(item) == place]
    complete = (item for item in fitting if not kind.lacks(item, want, there))
    return next(complete, fitting[0] if fitting else None)


def of_set_up(kinds: Mapping[str, Kind], there: There, want: Wanted, *, prices: Prices) -> Iterator[Change]:
    """What a set-up makes and repairs.

    Raises:
        ProvisionError: If it cannot be told, such as with two networks.
    """
    there = {key: list(items) for key, items in there.items()}
    for key in order(kinds):
        kind = kinds[key]
        if kind.asked is None or not kind.asked(want):
            continue
        used: list[Item] = []
        for place in kind.places(want, there):
            item = choose(kind, place, there[key], want, there)
            if item is None:
                item = kind.sketch(place)
                there[key].append(item)
                named = {"resource_id": place or kind.name, "usd_per_hour": kind.usd(item, prices)}
                yield Change(
                    action="create", kind=kind.name, row=key, place=place, why="there is none", **named
                )
            else:
                lack = kind.lacks(item, want, there)
                change = _change(
                    "update" if lack else "keep", key, kind, item, prices, lack or "as it should be"
                )
                yield change.model_copy(update={"place": place})
            used.append(item)
        for item in there[key]:
            if not any(item is one for one in used):
                yield _change("keep", key, kind, item, prices, "no set-up needs it")


def of_sweep(
    kinds: Mapping[str, Kind], there: There, *, prices: Prices, kept: frozenset[str] = frozenset()
) -> Iterator[Change]:
    """What a sweep removes: what dead clusters left, and what nothing uses."""
    clusters = standing(kinds, there)
    there = {key: list(items) for key, items in there.items()}
    for key in order(kinds, down=True):
        kind = kinds[key]
        if kind.delete is None:
            continue
        for item in tuple(there[key]):
            cluster = kind.cluster_of(item)
            if cluster is not None:
                dead = cluster in clusters.dead
                why = f"cluster {cluster.name} is gone" if dead else ""
                stays = f"of cluster {cluster.name}"
                if cluster in clusters.starting and (word := kind.young(item)):
                    kept_young = _change("keep", key, kind, item, prices, f"{stays}, {word}")
                    yield kept_young.model_copy(update={"needed": True})
                    continue
            else:
                why = kind.surplus(item, there, not clusters.names)
                stays = "in use, or of use to the next cluster"
            if why and key not in kept:
                change = _going(key, kind, item, prices, why)
                if change.action == "delete":
                    there[key].remove(item)
                yield change
            else:
                yield _change("keep", key, kind, item, prices, "to be kept" if why else stays)


def of_destruction(
    kinds: Mapping[str, Kind],
    there: There,
    *,
    prices: Prices,
    everywhere: bool | None = None,
    stays: str = "",
    needed: bool = False,
) -> Iterator[Change]:
    """What goes with an account in a region: all of it.

    Args:
        everywhere: Whether of what all regions share, or of what the region has; None for both.
        stays: Why what all regions share stays; empty if it goes.
    """
    for key in order(kinds, down=True):
        kind = kinds[key]
        if kind.delete is None or everywhere not in (None, kind.everywhere):
            continue
        for item in there[key]:
            if kind.everywhere and stays:
                said = {} if kind.part_of else {"needed": needed, "left": not needed}
                yield _change("keep", key, kind, item, prices, stays).model_copy(update=said)
            else:
                yield _going(key, kind, item, prices, "the account goes")


def _going(key: str, kind: Kind, item: Item, prices: Prices, why: str) -> Change:
    held = kind.held(item)
    if held:
        return _change("keep", key, kind, item, prices, held).model_copy(update={"left": True})
    return _change("delete", key, kind, item, prices, why)


def _change(action: Action, key: str, kind: Kind, item: Item, prices: Prices, why: str) -> Change:
    cluster = kind.cluster_of(item) or Cluster("", "")
    return Change(
        action=action,
        kind=kind.name,
        row=key,
        resource_id=f"{kind.prefix}{kind.id_of(item)}",
        why=why,
        usd_per_hour=kind.usd(item, prices),
        cluster=cluster.name,
        uid=cluster.uid,
    )
