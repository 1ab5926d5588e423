"""Which workers of a cluster count, whoever scaled it, and how many a wish in cores or memory is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from prefect_coiled.cluster.fleet import Fleet
from prefect_coiled.cluster.sizes import WorkerSize, check_adaptive, worker_size
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.records import InstanceRecord


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def machine(name: str, state: str = "running") -> InstanceRecord:
    return InstanceRecord(
        instance_id=name,
        role="worker",
        instance_type="m6i.xlarge",
        zone="us-east-1a",
        state=state,
        cluster="c",
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    made = Fleet(clock)
    made.launched([machine("a"), machine("b")])
    return made


def test_a_worker_that_comes_back_in_time_was_never_lost(fleet: Fleet) -> None:
    fleet.away("a")
    assert set(fleet.workers) == {"a", "b"}
    fleet.joined(["a"])
    assert not fleet.give_up("a")
    assert set(fleet.workers) == {"a", "b"}


def test_a_worker_that_does_not_come_back_is_lost_once_and_counts_again_when_it_does(fleet: Fleet) -> None:
    fleet.away("a")
    assert fleet.give_up("a")
    assert not fleet.give_up("a")
    assert set(fleet.workers) == {"b"}
    assert set(fleet.all) == {"a", "b"}, "its machine may still run, and is terminated with the others"
    fleet.joined(["a"])
    assert set(fleet.workers) == {"a", "b"}


def test_those_that_may_come_back_are_counted_on_until_they_are_given_up(fleet: Fleet) -> None:
    assert fleet.awaited == frozenset()
    fleet.away("a")
    assert fleet.awaited == {"a"}
    fleet.joined(["a"])
    assert fleet.awaited == frozenset()
    fleet.away("a")
    assert fleet.give_up("a")
    assert fleet.awaited == frozenset()


def test_what_was_announced_does_not_wait(fleet: Fleet) -> None:
    fleet.away("a", for_good=True)
    assert set(fleet.workers) == {"b"}
    assert not fleet.give_up("a"), "it is no loss"


def test_what_somebody_else_launched_or_ended_counts_as_aws_has_it(fleet: Fleet) -> None:
    assert fleet.joined(["c"]), "launched by another object: AWS is to be asked"
    assert fleet.seen([machine("a"), machine("b", "shutting-down"), machine("c")]) == {"b"}
    assert set(fleet.workers) == {"a", "c"}
    assert not fleet.joined(["c"])


def test_a_machine_that_aws_does_not_list_yet_counts_for_a_while(fleet: Fleet, clock: Clock) -> None:
    assert fleet.seen([]) == set()
    assert set(fleet.workers) == {"a", "b"}
    clock.now = 121.0
    assert fleet.seen([machine("a")]) == set(), "a single list may be incomplete"
    assert fleet.seen([machine("a")]) == {"b"}
    assert set(fleet.workers) == {"a"}


def test_one_list_that_lacks_machines_ends_none(fleet: Fleet, clock: Clock) -> None:
    clock.now = 3600.0
    for _ in range(3):
        assert fleet.seen([]) == set()
        assert set(fleet.workers) == {"a", "b"}
        assert fleet.seen([machine("a"), machine("b")]) == set()
    assert set(fleet.workers) == {"a", "b"}
    assert not fleet.joined(["a", "b"]), "neither is a stranger"


def test_a_machine_that_was_terminated_does_not_come_back_by_an_old_list(fleet: Fleet) -> None:
    assert set(fleet.remove(["a", "unknown"])) == {"a"}
    assert fleet.seen([machine("a"), machine("b")]) == set()
    assert set(fleet.workers) == {"b"}
    fleet.launched([machine("a")])  # it could not be terminated after all
    assert set(fleet.workers) == {"a", "b"}


SIZE = WorkerSize(threads=4, memory=16 * 2**30)


@pytest.mark.parametrize(
    ("given", "workers"),
    [
        ({"n": 2}, 2), ({"n": 1.0}, 1), ({"n": np.int64(3)}, 3), ({"cores": 2}, 1), ({"cores": 9}, 3),
        ({"memory": "64 GiB"}, 4), ({"memory": 65 * 2**30}, 5), ({"n": 4, "cores": 1}, 4), ({}, 0),
        ({"cores": np.float64(8)}, 2), ({"cores": 0}, 0),
    ],
)  # fmt: skip
def test_cores_and_memory_are_as_many_workers_as_have_them(given: dict[str, Any], workers: int) -> None:
    assert SIZE.at_least(given.pop("n", 0), **given) == workers


@pytest.mark.parametrize(
    ("given", "workers"),
    [
        ({"n": 2}, 2), ({"cores": 9}, 2), ({"cores": 2}, 0), ({"memory": "100 GiB"}, 6),
        ({"n": math.inf}, math.inf), ({"n": 1, "cores": 16}, 1), ({}, math.inf),
    ],
)  # fmt: skip
def test_a_maximum_in_cores_or_memory_is_never_exceeded(given: dict[str, Any], workers: float) -> None:
    assert SIZE.at_most(given.pop("n", None), **given) == workers


@pytest.mark.parametrize(
    "wrong",
    [{"cores": "many"}, {"cores": -1}, {"memory": "lots"}, {"memory": True}, {"cores": math.nan}, {"n": "2"}],
)
def test_a_number_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match=next(iter(wrong)) if "n" not in wrong else "n_workers"):
        SIZE.at_least(wrong.pop("n", 0), **wrong)


def node(**more: Any) -> NodeConfig:
    return NodeConfig(
        account="a", region="r", cluster="c", role="worker", secrets_parameter="p", log_group="g", **more
    )


def test_a_worker_has_what_it_was_told_else_what_those_have_that_are_there_else_what_its_type_has() -> None:
    there = [{"nthreads": 3, "memory_limit": 5 * 10**9}]
    assert worker_size(node(nthreads=2, memory_limit="4000000000"), ["m6i.xlarge"], there) == WorkerSize(
        2, 4e9
    )
    assert worker_size(node(), ["m6i.xlarge"], there) == WorkerSize(3, 5 * 10**9)
    assert worker_size(node(), ["m6i.xlarge"], []) == WorkerSize(4, 16 * 2**30)
    with pytest.raises(OptionsError, match="nobody knows yet"):
        worker_size(node(), ["x9z.large"], []).at_least(cores=2)


def test_the_worker_on_the_schedulers_machine_is_smaller_and_counted_so() -> None:
    there = [
        {"name": "i-scheduler", "nthreads": 3, "memory_limit": 12 * 2**30},
        {"name": "i-worker", "nthreads": 4, "memory_limit": 16 * 2**30},
    ]
    for listed in (there, there[:1]):
        size = worker_size(node(), ["m6i.xlarge"], listed, "i-scheduler")
        assert size.at_most(cores=16) == 4  # 3 and 3 times 4
        assert size.at_least(cores=16) == size.at_least(cores=19) == 5
        assert size.at_most(memory="64 GiB") == 4
        assert size.at_least(cores=3) == 1
        assert size.at_least(cores=0) == 0
        assert size.at_most(cores=2) == 0
    large = WorkerSize(2, None, first=WorkerSize(8, None))
    assert large.at_most(cores=4) == 0
    assert large.at_least(cores=4) == 1
    assert worker_size(node(), ["m6i.xlarge"], there).at_most(cores=16) == 5


def test_a_misspelt_limit_is_told_and_not_swallowed() -> None:
    check_adaptive({"interval": "1s", "wait_count": 2})
    with pytest.raises(OptionsError, match="Did you mean 'maximum'"):
        check_adaptive({"maximm": 2})
