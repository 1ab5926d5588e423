"""What a plan is made of: rows and what there is; tried with kinds that do not exist."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from prefect_coiled.aws.kinds import KINDS
from prefect_coiled.plan import changes, tags
from prefect_coiled.plan.changes import Plan, standing
from prefect_coiled.plan.kinds import Cluster, Item, Kind, There, Wanted, order
from prefect_coiled.plan.prices import shipped

of_set_up = partial(changes.of_set_up, prices=shipped())
of_sweep = partial(changes.of_sweep, prices=shipped())
of_destruction = partial(changes.of_destruction, prices=shipped())
WANT = Wanted(zones=("a", "b"), every=("a", "b", "c"), zone="a")


def kind(name: str, **more: Any) -> Kind:
    more.setdefault("delete", lambda aws, items: None)
    return Kind(name=name, find=lambda aws, scope: (), id_of=lambda item: str(item["id"]), **more)


def item(id_: str, cluster: str = "", uid: str = "", **more: Any) -> Item:
    labels = {tags.CLUSTER: cluster, tags.CLUSTER_UID: uid} if cluster else {}
    return {"id": id_, "Tags": tags.to_aws(labels), **more}


def plan(made: Any) -> Plan:
    return Plan(what="sweep", account="team", region="us-east-1", changes=tuple(made))


def test_each_kind_is_made_after_those_that_it_waits_for_and_goes_before_them() -> None:
    up, down = order(KINDS), order(KINDS, down=True)
    assert set(up) == set(down) == set(KINDS)
    for key, row in KINDS.items():
        for other in row.waits_for:
            assert up.index(other) < up.index(key), (other, key)
            assert down.index(key) < down.index(other), (key, other)


def test_what_costs_money_goes_first() -> None:
    rows = {"a": kind("a"), "b": kind("b", usd=lambda item, prices: 1.0, waits_for=("c",)), "c": kind("c")}
    assert order(rows, down=True) == ["b", "a", "c"]
    assert order(KINDS, down=True)[0] == "instance"


def test_every_row_is_told_whole() -> None:
    for key, row in KINDS.items():
        assert set(row.waits_for) <= set(KINDS), key
        assert row.part_of in {"", *KINDS}, key
        assert row.delete or row.part_of or not row.listed, f"{key} is listed, and nothing removes it"
        assert row.asked is None or row.create, f"a set-up asks for {key}, and nothing makes it"


def test_a_set_up_makes_what_lacks_repairs_what_is_incomplete_and_says_what_it_needs_not() -> None:
    rows = {
        "place": kind(
            "place",
            asked=lambda want: True,
            places=lambda want, there: want.zones,
            place=lambda item: str(item["zone"]),
            sketch=lambda place: {"id": place, "zone": place},
            usd=lambda item, prices: 0.5,
        ),
        # What is made by the plan counts for what comes after it.
        "list": kind(
            "list",
            asked=lambda want: True,
            waits_for=("place",),
            lacks=lambda item, want, there: "b is not on it" if len(there["place"]) > 1 else "",
        ),
        "other": kind("other"),
    }
    there: There = {"place": [item("p-1", zone="a")], "list": [item("l-1"), item("l-2")], "other": []}
    found = plan(of_set_up(rows, there, WANT))
    assert [(c.action, c.resource_id, c.why) for c in found.changes] == [
        ("keep", "p-1", "as it should be"),
        ("create", "b", "there is none"),
        ("update", "l-1", "b is not on it"),
        ("keep", "l-2", "no set-up needs it"),
    ]
    assert (found.costs, found.saves) == (0.5, 0)
    assert len(there["place"]) == 1, "what there is is not changed by planning"


def test_of_several_at_a_place_the_complete_one_is_kept() -> None:
    rows = {
        "gate": kind(
            "gate", asked=lambda want: True, lacks=lambda item, want, there: "" if item["up"] else "down"
        )
    }
    there: There = {"gate": [item("g-1", up=False), item("g-2", up=True)]}
    assert [(c.action, c.resource_id) for c in of_set_up(rows, there, WANT)] == [
        ("keep", "g-2"),
        ("keep", "g-1"),
    ]


def test_a_sweep_takes_dead_clusters_and_what_nothing_uses_once_others_are_gone() -> None:
    rows = {
        "machine": kind(
            "machine", alive=lambda item: "live" if item["up"] else "", usd=lambda item, prices: None
        ),
        "disk": kind("disk", delete=None, part_of="machine"),
        "gate": kind(
            "gate", surplus=lambda item, there, idle: "idle" if idle else "", waits_for=("address",)
        ),
        "address": kind("address", surplus=lambda item, there, idle: "" if there["gate"] else "loose"),
    }
    dead = item("m-1", "x", "1", up=False)
    live = item("m-2", "x", "2", up=True)
    there: There = {
        "machine": [dead],
        "disk": [item("d-9", "y", "1")],
        "gate": [item("g-1")],
        "address": [item("a-1")],
    }
    found = plan(of_sweep(rows, there))
    assert [c.resource_id for c in found.todo] == ["m-1", "g-1", "a-1"]
    assert found.saves is None, "a price is not known"
    # A cluster of the same name that lives keeps what is shared, and itself.
    there["machine"].append(live)
    assert standing(rows, there).dead == {Cluster("x", "1")}
    assert standing(rows, there).names == ("x",)
    assert [c.resource_id for c in plan(of_sweep(rows, there)).todo] == ["m-1"]
    assert [c.resource_id for c in plan(of_sweep(rows, there, kept=frozenset({"machine"}))).todo] == []


def test_the_end_of_an_account_keeps_what_other_regions_need_and_says_what_it_cannot_remove() -> None:
    rows = {
        "role": kind("role", everywhere=True, prefix="role/"),
        "profile": kind("profile", everywhere=True, part_of="role"),
        "address": kind("address", held=lambda item: "in use", usd=lambda item, prices: 0.005),
    }
    there: There = {"role": [item("team")], "profile": [item("team")], "address": [item("a-1")]}
    found = plan(of_destruction(rows, there, stays="used in eu-west-1", needed=True))
    assert found.todo == ()
    assert {c.resource_id: (c.why, c.left, c.needed) for c in found.left} == {
        "role/team": ("used in eu-west-1", False, True),
        "a-1": ("in use", True, False),
    }
    assert {c.resource_id for c in of_destruction(rows, there) if c.action == "delete"} == {
        "role/team",
        "team",
    }


def test_a_plan_is_carried_out_as_far_as_a_later_one_agrees() -> None:
    rows = {"gate": kind("gate", surplus=lambda item, there, idle: "idle")}
    before = plan(of_sweep(rows, {"gate": [item("g-1"), item("g-2")]}))
    later = plan(of_sweep(rows, {"gate": [item("g-2"), item("g-3")]}))
    assert [c.resource_id for c in before.within(later).todo] == ["g-2"]


def test_what_may_not_go_any_more_when_a_plan_is_carried_out_is_said() -> None:
    def plan_with(held: str) -> Plan:
        rows = {"gate": kind("gate", surplus=lambda item, there, idle: "idle", held=lambda item: held)}
        return plan(of_sweep(rows, {"gate": [item("g-1")]}))

    found = plan_with("").within(plan_with("in use"))
    assert found.todo == ()
    assert [(c.resource_id, c.why) for c in found.left] == [("g-1", "in use")]


@pytest.mark.parametrize(
    ("price", "text"),
    [(0.0, "1 to remove"), (0.05, "1 to remove; saves $0.0500 an hour"), (None, "saves price not known")],
)
def test_the_last_line_says_how_much_and_at_what_price(price: float | None, text: str) -> None:
    rows = {"gate": kind("gate", usd=lambda item, prices: price)}
    assert text in plan(of_destruction(rows, {"gate": [item("g-1")]})).summary()
