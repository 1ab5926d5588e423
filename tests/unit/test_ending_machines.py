"""Machines are asked to end together; one that AWS keeps keeps no other, and many take few calls."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_coiled.aws.instances import terminate_instances
from prefect_coiled.errors import AccessDeniedError, AwsError, InUseError, NotFoundError


class Door:
    """A door by which some machines cannot be ended; a call that names one of them ends none."""

    def __init__(self, kept: list[str], error: type[AwsError]) -> None:
        self.kept, self.error = set(kept), error
        self.ended: list[str] = []
        self.calls = 0

    def call(self, action: str, what: str, **wanted: Any) -> dict[str, Any]:
        self.calls += 1
        if "i-gone" in wanted["InstanceIds"]:
            raise NotFoundError(what, "AWS knows no such machine.")
        if self.kept & set(wanted["InstanceIds"]):
            raise self.error(what, "AWS says so.")
        self.ended += wanted["InstanceIds"]
        return {"TerminatingInstances": []}


def test_many_that_are_protected_keep_no_other_running() -> None:
    protected, others = [f"i-a{n:02}" for n in range(12)], [f"i-b{n:02}" for n in range(20)]
    door: Any = Door(protected, InUseError)
    with pytest.raises(InUseError) as caught:
        terminate_instances(door, [*protected, *others])
    assert sorted(door.ended) == others
    assert sorted(caught.value.left) == protected


def test_where_a_policy_keeps_all_of_many_few_are_asked_for_one_by_one() -> None:
    machines = [f"i-{n:03}" for n in range(200)]
    door: Any = Door(machines, AccessDeniedError)
    with pytest.raises(AccessDeniedError) as caught:
        terminate_instances(door, machines)
    assert door.calls < 30
    assert sorted(caught.value.left) == machines


def test_what_aws_does_not_know_is_not_told_as_left() -> None:
    door: Any = Door(["i-a"], InUseError)
    with pytest.raises(InUseError) as caught:
        terminate_instances(door, ["i-gone", "i-a"])
    assert list(caught.value.left) == ["i-a"]
