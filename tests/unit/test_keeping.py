"""When a scheduler launches workers itself, and how many: told the time, the workers and AWS's list."""

from __future__ import annotations

import pytest

from prefect_coiled.node.adapting import Adapting
from prefect_coiled.node.keeping import NOT_LISTED_YET_S, PAUSES_S, STABLE_S, START_S, Keeping
from prefect_coiled.plan.node_config import HOLD_S

PATIENCE = 30.0


def begun(wanted: int, there: set[str]) -> Keeping:
    """At second 0 a client has said that it launched these, and they are there."""
    keeping = Keeping(0.0, wanted, PATIENCE)
    keeping.told(0.0, launched=there)
    keeping.workers(0.0, there)
    keeping.machines(0.0, dict.fromkeys(there, "running"))
    return keeping


def test_nothing_is_asked_while_all_are_there() -> None:
    keeping = begun(2, {"a", "b"})
    assert not keeping.look_due(1000.0)
    assert keeping.lacking(1000.0) == 0


def test_a_machine_that_ended_is_replaced_at_the_first_look() -> None:
    keeping = begun(2, {"a", "b"})
    keeping.workers(10.0, {"a"})
    assert not keeping.look_due(11.0), "AWS may not know it yet"
    assert keeping.look_due(12.0)
    keeping.machines(12.0, {"a": "running", "b": "shutting-down"})
    assert keeping.lacking(12.0) == 1
    assert keeping.may_try(12.0)


def test_a_worker_that_its_nanny_starts_anew_is_not_replaced_until_it_stays_away() -> None:
    keeping = begun(2, {"a", "b"})
    keeping.workers(10.0, {"a"})
    running = {"a": "running", "b": "running"}
    keeping.machines(12.0, running)
    assert keeping.lacking(12.0) == 0
    keeping.machines(10.0 + PATIENCE, running)
    assert keeping.lacking(10.0 + PATIENCE) == 1
    keeping.workers(41.0, {"a", "b"})
    assert keeping.lacking(41.0) == 0


def test_a_list_that_lacks_machines_which_boot_ends_none_of_them() -> None:
    keeping = begun(2, {"a"})
    booting = {"a": "running", "b": "running"}
    keeping.machines(10.0, booting)
    assert keeping.lacking(10.0) == 0
    keeping.machines(10.0 + NOT_LISTED_YET_S, {"a": "running"})
    assert keeping.lacking(10.0 + NOT_LISTED_YET_S) == 0, "the next list may have it again"
    keeping.machines(20.0 + NOT_LISTED_YET_S, booting)
    assert keeping.lacking(20.0 + NOT_LISTED_YET_S) == 0
    for later in (30.0, 40.0):
        keeping.machines(later + NOT_LISTED_YET_S, {"a": "running"})
    assert keeping.lacking(40.0 + NOT_LISTED_YET_S) == 1, "two lists lack it"


def test_machines_that_hang_are_replaced_once_and_no_more() -> None:
    keeping = begun(2, {"a", "b"})
    keeping.workers(10.0, set())
    states = {"a": "running", "b": "running"}
    keeping.machines(100.0, states)
    assert keeping.lacking(100.0) == 2
    keeping.tried(100.0, ["c", "d"])
    keeping.machines(105.0, {**states, "c": "running", "d": "running"})
    keeping.workers(110.0, {"c", "d"})
    keeping.workers(120.0, set())
    keeping.machines(200.0, {**states, "c": "running", "d": "running"})
    assert keeping.lacking(200.0) == 0, "never more machines than twice those that are wanted"


def test_a_worker_that_was_there_for_a_moment_only_was_there() -> None:
    keeping = begun(1, set())
    keeping.left(10.0, ["a"])
    keeping.machines(12.0, {"a": "running"})
    assert keeping.lacking(12.0) == 0
    assert keeping.lacking(10.0 + PATIENCE) == 1


def test_a_machine_that_never_has_a_worker_is_replaced_after_the_time_that_it_has_to_boot() -> None:
    keeping = begun(1, set())
    keeping.machines(10.0, {"a": "running"})
    keeping.machines(9.0 + keeping.boot_s, {"a": "running"})
    assert keeping.lacking(9.0 + keeping.boot_s) == 0
    assert keeping.lacking(10.0 + keeping.boot_s) == 1


def test_a_machine_that_aws_takes_back_is_replaced_while_it_runs() -> None:
    keeping = begun(2, {"a", "b"})
    keeping.announced(10.0, ["a"])
    assert keeping.look_due(10.0)
    keeping.machines(10.0, {"a": "running", "b": "running"})
    assert keeping.lacking(10.0) == 1
    keeping.tried(10.0, ["c"])
    keeping.machines(15.0, {"a": "running", "b": "running", "c": "pending"})
    assert keeping.lacking(15.0) == 0
    keeping.workers(50.0, {"a", "b", "c"})
    assert not keeping.look_due(100.0)
    keeping.workers(120.0, {"b", "c"})
    assert not keeping.look_due(200.0), "two were wanted, and are there"
    keeping.machines(200.0, {"b": "running", "c": "running"})
    assert keeping.leaving == set(), "nothing is kept of those that are gone"


def test_machines_that_aws_takes_back_all_at_once_are_replaced_at_once() -> None:
    keeping = begun(2, {"a", "b"})
    keeping.announced(10.0, ["a"])
    keeping.announced(10.5, ["b"])
    keeping.machines(11.0, {"a": "running", "b": "running"})
    assert keeping.lacking(11.0) == 2


def test_what_was_launched_a_moment_ago_counts_though_aws_does_not_list_it() -> None:
    keeping = begun(1, set())
    keeping.machines(1.0, {})
    assert keeping.lacking(1.0) == 1
    keeping.tried(1.0, ["a"])
    keeping.machines(20.0, {})
    assert keeping.lacking(20.0) == 0
    assert keeping.unlisted(20.0) == ["a"], "which a client that scales then counts too"
    keeping.machines(2.0 + NOT_LISTED_YET_S, {})
    assert keeping.lacking(2.0 + NOT_LISTED_YET_S) == 1


def test_nothing_is_done_before_who_launched_the_cluster_has_said_so() -> None:
    keeping = Keeping(0.0, 2, PATIENCE)
    keeping.workers(1.0, set())
    assert not keeping.look_due(START_S - 1)
    assert keeping.look_due(START_S), "nor will it say so by now"


def test_nothing_is_launched_beside_a_client_that_scales() -> None:
    keeping = begun(1, {"a"})
    keeping.told(10.0, 3)
    keeping.hold(10.0, "one")
    keeping.hold(15.0, "another")
    keeping.release("another")
    assert not keeping.look_due(20.0)
    keeping.told(30.0, launched=["b", "c"])
    keeping.release("one")
    assert keeping.look_due(30.0)
    keeping.machines(30.0, {"a": "running"})
    assert keeping.lacking(30.0) == 0
    keeping.told(40.0, 5)
    keeping.hold(40.0, "one")
    assert keeping.look_due(40.0 + HOLD_S), "one that never came back is not waited for for ever"


def test_a_client_that_is_gone_in_the_middle_of_a_launch_is_not_waited_for() -> None:
    keeping = begun(1, {"a"})
    keeping.told(10.0, 3)
    keeping.hold(10.0, "one")
    keeping.alone(20.0)
    assert not keeping.look_due(20.0), "AWS may not list yet what it launched"
    assert keeping.look_due(25.0)


def test_of_two_clients_one_launches_until_it_is_heard_no_more() -> None:
    keeping = begun(1, {"a"})
    assert keeping.hold(10.0, "one")
    assert keeping.hold(10.0 + HOLD_S - 1, "one"), "it says so again"
    assert not keeping.hold(10.0 + HOLD_S, "another")
    assert keeping.hold(10.0 + 2 * HOLD_S, "another"), "it is gone, or was not heard of since"


def test_what_was_scaled_down_is_not_grown_back() -> None:
    keeping = begun(2, {"a", "b"})
    keeping.told(10.0, 1)
    keeping.workers(11.0, {"a"})
    assert not keeping.look_due(100.0)


def test_tries_come_slower_and_slower_and_end() -> None:
    keeping = begun(1, set())
    now, waited = 10.0, []
    while not keeping.spent:
        assert keeping.look_due(now)
        assert keeping.may_try(now)
        keeping.machines(now, {})
        keeping.tried(now)
        begin = now
        while not keeping.spent and not (keeping.may_try(now) and keeping.look_due(now)):
            now += 1.0
        waited.append(now - begin)
    assert len(waited) == len(PAUSES_S)
    assert waited[:3] == sorted(waited[:3])
    assert waited[-2] >= PAUSES_S[-1]
    assert not keeping.look_due(now + 1e6)
    keeping.told(now, 1)
    assert keeping.look_due(now), "whoever scales begins anew"


def test_a_replacement_that_stays_is_a_success_and_one_that_does_not_is_none() -> None:
    keeping = begun(1, set())
    keeping.tried(0.0, ["a"])
    keeping.workers(10.0, {"a"})
    keeping.workers(20.0, set())
    keeping.tried(30.0, ["b"])
    assert keeping.tries == 2
    keeping.workers(40.0, {"b"})
    keeping.workers(40.0 + STABLE_S, {"b"})
    assert keeping.tries == 0


def test_launches_whose_machines_end_before_they_join_end_sooner() -> None:
    keeping, now, launches = begun(1, set()), 10.0, 0
    while not keeping.spent:
        if keeping.look_due(now):
            keeping.machines(now, {f"m{n}": "terminated" for n in range(launches)})
            if keeping.lacking(now) and keeping.may_try(now):
                keeping.tried(now, [f"m{launches}"])
                launches += 1
        now += 1.0
    assert launches == 3


def adapting(**said: object) -> Adapting:
    told = {"minimum": 1, "maximum": 5, "interval": 1.0, "wait_count": 3, "target_duration": 5.0}
    return Adapting(**{**told, "asks": True, "asked_at": 0.0, **said})  # type: ignore[arg-type]


def test_a_client_that_asks_decides_and_one_that_is_gone_or_silent_does_not() -> None:
    one = adapting()
    assert one.is_clients(10.0, connected=1)
    assert not one.is_clients(10.0, connected=0)
    assert not one.is_clients(20.0, connected=1), "another object is connected, which does not adapt"
    assert adapting(interval=60.0).is_clients(100.0, connected=1)
    assert adapting(asks=False).is_clients(1000.0, connected=1), "a class of its own may ask nothing"


@pytest.mark.parametrize(("target", "wanted", "found"), [(3, 1, 3), (9, 1, 5), (0, 1, 1), (2, 2, 2)], ids=str)
def test_the_target_is_kept_between_the_limits(target: int, wanted: int, found: int) -> None:
    assert adapting().decide(target, wanted) == found


def test_fewer_are_wanted_only_after_it_was_so_several_times() -> None:
    one = adapting()
    assert [one.decide(1, 4) for _ in range(3)] == [4, 4, 1]
    assert [one.decide(1, 4), one.decide(4, 4), one.decide(1, 4)] == [4, 4, 4]


def test_without_a_maximum_it_never_grows_alone() -> None:
    assert adapting(maximum=None).decide(100, 2) == 2
    assert adapting(maximum=None, minimum=3).decide(100, 2) == 3
