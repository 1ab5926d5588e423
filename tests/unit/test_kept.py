"""Which ways to get workers a scheduler may try."""

from __future__ import annotations

from prefect_coiled.plan.cluster import Attempt
from prefect_coiled.plan.kept import Way, ways
from prefect_coiled.records import InstanceRecord


def way(text: str) -> Way:
    """Such as "m6i a spot"."""
    kind, zone, *market = text.split()
    return Attempt(instance_type=kind, zone=zone, spot=market == ["spot"]), (f"subnet-{zone}", False)


def said(found: tuple[Way, ...]) -> list[str]:
    return [f"{a.instance_type} {a.zone}{' spot' if a.spot else ''}" for a, _ in found]


def worker(text: str) -> InstanceRecord:
    attempt, _ = way(text)
    return InstanceRecord(
        instance_id="i-1",
        role="worker",
        instance_type=attempt.instance_type,
        zone=attempt.zone,
        subnet_id="s",
        private_ip="",
        public_ip="",
        spot=attempt.spot,
        state="running",
        state_reason="",
    )


def test_what_gave_workers_at_the_launch_comes_first_and_then_another_zone() -> None:
    possible = [way(text) for text in ("m6i a", "m5 a", "m6i b", "m5 b", "m6i c")]
    assert said(ways(possible, [worker("m5 a")] * 3)) == ["m5 a", "m6i b", "m5 b"]
    assert said(ways(possible, [worker("m5 a"), *[worker("m6i a")] * 2])) == ["m6i a", "m5 a", "m6i b"]
    assert said(ways(possible, [])) == ["m6i a", "m6i b", "m5 b"]


def test_where_spot_machines_may_be_replaced_by_others_one_way_is_that() -> None:
    spot = [way(f"m6i {zone} spot") for zone in "abcd"]
    assert said(ways(spot, [])) == ["m6i a spot", "m6i b spot", "m6i c spot"]
    assert said(ways([*spot, way("m6i a"), way("m6i b")], [])) == ["m6i a spot", "m6i b spot", "m6i a"]


def test_there_are_no_more_ways_than_there_are() -> None:
    assert said(ways([way("m6i a")], [])) == ["m6i a"]
    assert ways([], []) == ()
