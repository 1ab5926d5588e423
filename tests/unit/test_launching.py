"""How a launch goes on when AWS says no: sizes of calls, shared quotas, and what is not asked again."""

from __future__ import annotations

import pytest

from prefect_coiled.errors import (
    AccessDeniedError,
    AccountStateError,
    AwsError,
    InvalidRequestError,
    NoCapacityError,
    QuotaError,
    ThrottledError,
)
from prefect_coiled.plan.aws_codes import SPOT_ROLE_COMMAND, SPOT_ROLE_MISSING, SUBNET_FULL
from prefect_coiled.plan.aws_errors import aws_error, denied_by, state_words
from prefect_coiled.plan.cluster import Attempt
from prefect_coiled.plan.launching import MISSING_S, Missing, Tally, halves, smaller_call
from prefect_coiled.plan.quotas import machine_quota, of_machines, room, used_vcpus


def on_demand(kind: str, zone: str = "us-east-1a", spot: bool = False) -> Attempt:
    return Attempt(instance_type=kind, zone=zone, spot=spot)


@pytest.mark.parametrize(
    ("refused", "following"), [(100, 50), (50, 25), (25, 12), (12, 10), (10, 10), (3, 3), (1, 1)]
)
def test_fewer_are_asked_for_when_launches_come_too_fast(refused: int, following: int) -> None:
    assert smaller_call(refused) == following


@pytest.mark.parametrize("refused", [1, 2, 3, 7, 20, 100])
def test_as_many_as_a_quota_leaves_room_for_are_found_in_few_calls(refused: int) -> None:
    for fits in range(refused):
        got: list[int] = []
        left = fits
        for size in halves(refused, got):
            got.append(size if size <= left else 0)
            left -= got[-1]
        assert sum(got) == fits
        assert len(got) <= refused.bit_length()


@pytest.mark.parametrize(
    ("kind", "spot", "code"),
    [
        ("m6i.xlarge", False, "L-1216C47A"),
        ("m7i-flex.large", False, "L-1216C47A"),
        ("t3.micro", True, "L-34B43A08"),
        ("im4gn.large", False, "L-1216C47A"),
        ("is4gen.large", False, "L-1216C47A"),
        ("i4i.large", False, "L-1216C47A"),
        ("a1.large", False, "L-1216C47A"),
        ("z1d.large", False, "L-1216C47A"),
        ("h1.2xlarge", False, "L-1216C47A"),
        ("hpc7g.4xlarge", False, "L-F7808C92"),
        ("g4dn.xlarge", False, "L-DB2E81BA"),
        ("gr6.4xlarge", True, "L-3819A6DF"),
        ("g5g.xlarge", True, "L-3819A6DF"),
        ("vt1.3xlarge", False, "L-DB2E81BA"),
        ("p4d.24xlarge", False, "L-417A185B"),
        ("p4d.24xlarge", True, "L-7212CCBC"),
        ("p3dn.24xlarge", True, "L-7212CCBC"),
        ("p5.48xlarge", True, "L-C4BD4855"),
        ("p5en.48xlarge", True, "L-C4BD4855"),
        ("p5.48xlarge", False, "L-417A185B"),
        ("p6-b200.48xlarge", False, "L-417A185B"),
        ("x2gd.large", False, "L-7295265B"),
        ("inf2.xlarge", False, "L-1945791B"),
        ("trn1.2xlarge", True, "L-6B0D517C"),
        ("dl1.24xlarge", False, "L-6E869C2A"),
        ("f1.2xlarge", False, "L-74FC7D96"),
        ("u-6tb1.56xlarge", False, "L-43DA4232"),
        ("u7i-12tb.224xlarge", False, "L-43DA4232"),
    ],
)
def test_a_machine_counts_against_the_quota_of_its_family_and_market(
    kind: str, spot: bool, code: str
) -> None:
    quota = machine_quota(kind, spot=spot)
    assert quota is not None
    assert quota.code == code
    assert quota.console("eu-west-1").endswith(f"/services/ec2/quotas/{code}")


def test_a_family_that_has_no_quota_of_vcpus_has_none() -> None:
    assert machine_quota("mac2.metal", spot=False) is None
    assert machine_quota("p6-b200.48xlarge", spot=True) is None  # AWS names none


def test_machines_on_demand_share_a_quota_that_is_listed_once() -> None:
    listed = of_machines()
    assert len(listed) == len(set(listed))
    assert machine_quota("p4d.24xlarge", spot=False) == machine_quota("p5.48xlarge", spot=False)


def test_the_room_under_a_quota_is_what_others_and_the_scheduler_leave() -> None:
    quota = machine_quota("m6i.xlarge", spot=False)
    assert quota is not None
    running = [
        ("m6i.xlarge", False, 4),
        ("c5.large", False, 2),
        ("m6i.xlarge", True, 4),
        ("g4dn.xlarge", False, 4),
    ]
    assert used_vcpus(running, quota) == 6
    assert room(32, 6, 4, beside=4) == 5
    assert room(5, 0, 4, beside=4) == 0


def test_a_quota_that_is_used_up_is_not_asked_again_by_what_shares_it() -> None:
    tally = Tally()
    assert tally.note(on_demand("m6i.xlarge"), QuotaError("x", "used up", code="VcpuLimitExceeded"))
    assert tally.passes(on_demand("m6a.xlarge"))
    assert tally.passes(on_demand("m6i.xlarge", "us-east-1b"))
    assert tally.passes(on_demand("c6i.2xlarge"))
    assert not tally.passes(on_demand("m6i.large"))  # half as many vCPUs may still fit
    assert not tally.passes(on_demand("m6i.xlarge", spot=True))
    assert not tally.passes(on_demand("g4dn.xlarge"))
    error = tally.failure("launching 20 workers", 3, "Quota: that one.")
    assert isinstance(error, QuotaError)
    assert str(error).count("m6i.xlarge in us-east-1a") == 1
    assert "not asked for again: 3 more" in str(error)
    assert "Quota: that one." in str(error)


def test_a_type_that_the_account_may_not_launch_is_asked_for_in_one_zone() -> None:
    tally = Tally()
    refusal = AccountStateError("x", "the free plan", "Use t3.small.", code="InvalidParameterCombination")
    assert tally.note(on_demand("m6i.xlarge"), refusal)
    assert tally.passes(on_demand("m6i.xlarge", "us-east-1b"))
    assert not tally.passes(on_demand("t3.small"))
    assert isinstance(tally.failure("launching", 0), AccountStateError)
    assert "Use t3.small." in str(tally.failure("launching", 0))


def test_without_their_role_spot_machines_are_asked_for_once_and_on_demand_goes_on() -> None:
    tally = Tally()
    refusal = aws_error(
        "launching", "ec2:RunInstances", {"Error": {"Code": SPOT_ROLE_MISSING, "Message": "No."}}
    )
    assert isinstance(refusal, AccessDeniedError)
    assert tally.note(on_demand("m6i.xlarge", spot=True), refusal)
    assert tally.passes(on_demand("m6a.xlarge", "us-east-1b", spot=True))
    assert not tally.passes(on_demand("m6i.xlarge"))
    assert SPOT_ROLE_COMMAND in str(tally.failure("launching", 0))


def test_what_a_person_can_mend_is_said_before_a_lack_of_capacity() -> None:
    tally = Tally()
    tally.note(on_demand("m6i.xlarge"), NoCapacityError("x", "none", code="InsufficientInstanceCapacity"))
    tally.note(on_demand("m6a.xlarge"), QuotaError("x", "used up", "Ask.", code="VcpuLimitExceeded"))
    tally.note(on_demand("m6i.large"), NoCapacityError("x", "none", code="InsufficientInstanceCapacity"))
    assert isinstance(tally.failure("launching", 0), QuotaError)


@pytest.mark.parametrize(
    ("markets", "advised"),
    [([True], "spot_policy='spot_with_fallback'"), ([False], "later"), ([True, False], "later")],
    ids=["spot", "on demand", "spot and then on demand"],
)
def test_what_is_advised_fits_the_market_in_which_there_was_none(markets: list[bool], advised: str) -> None:
    tally = Tally()
    for spot in markets:
        refusal = NoCapacityError("x", "none", code="InsufficientInstanceCapacity")
        assert tally.note(on_demand("m6i.xlarge", spot=spot), refusal)
    told = tally.failure("launching", 0).diagnosis.next_step
    assert told.startswith("Allow more vm_types or zones, or ")
    assert told.endswith(f"{advised}.")


def test_a_quota_of_disks_is_told_as_such_and_asked_for_once() -> None:
    tally = Tally()
    error = QuotaError("x", "used up", "Give smaller disks.", code="VolumeLimitExceeded")
    assert tally.note(on_demand("m6i.xlarge"), error)
    assert tally.passes(on_demand("t3.small", "us-east-1b", spot=True))
    assert tally.quota is None  # the error itself names it
    assert "Give smaller disks." in str(tally.failure("launching", 0))


def test_the_rate_of_launches_is_one_for_all_types_and_zones() -> None:
    tally = Tally()
    assert tally.note(on_demand("m6i.xlarge"), ThrottledError("x", "slow down", code="RequestLimitExceeded"))
    assert tally.passes(on_demand("t3.small", "us-east-1b"))
    failure = tally.failure("launching 20 workers", 7)
    assert isinstance(failure, ThrottledError)
    assert failure.retried == "never"
    assert "7 came up" in str(failure)


@pytest.mark.parametrize(
    "error", [InvalidRequestError("x", code="InvalidParameterValue"), AwsError("x"), AccessDeniedError("x")]
)
def test_other_refusals_end_the_launch(error: AwsError) -> None:
    assert not Tally().note(on_demand("m6i.xlarge"), error)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("... on resource: * with an explicit deny in a service control policy", "service control policy"),
        ("... with an explicit deny in an identity-based policy.", "identity-based policy"),
        (
            "... because no permissions boundary allows the ec2:CreateVpc action",
            "permissions boundary",
        ),
        ("... because no identity-based policy allows the ec2:CreateVpc action", ""),
        ("You are not authorized to perform this operation.", ""),
    ],
)
def test_a_denial_that_no_permission_lifts_is_told_apart(message: str, kind: str) -> None:
    assert denied_by(message) == kind


def test_the_end_of_a_machine_is_told_with_what_it_means() -> None:
    assert "KMS key" in state_words("Client.InternalError: Client error on launch")
    assert state_words("Client.UserInitiatedShutdown: User initiated shutdown").endswith(
        "User initiated shutdown"
    )
    assert state_words("") == ""


def test_what_was_missing_a_moment_ago_is_asked_for_last() -> None:
    missing, place = Missing(), "123456789012 us-east-1"
    ways = [on_demand("m6i.large"), on_demand("m5.large"), on_demand("m6i.large", "us-east-1b")]
    missing.note(place, ways[0], 100.0)
    assert missing.last(place, ways, 100.0 + MISSING_S - 1) == [ways[1], ways[2], ways[0]]
    assert missing.last(place, ways, 100.0 + MISSING_S) == ways
    assert missing.last("123456789012 eu-west-1", ways, 101.0) == ways
    missing.note(place, ways[0], 100.0)
    missing.forget(place, ways[0])
    assert missing.last(place, ways, 101.0) == ways


def test_all_that_is_missing_is_asked_for_in_its_order() -> None:
    missing, ways = Missing(), [on_demand("m6i.large", spot=True), on_demand("m6i.large")]
    for way in ways:
        missing.note("x", way, 5.0)
    assert missing.last("x", ways, 6.0) == ways


def test_what_is_on_demand_stays_behind_spot_that_was_missing() -> None:
    missing = Missing()
    ways = [on_demand(kind, spot=spot) for spot in (True, False) for kind in ("m6i.large", "m5.large")]
    missing.note("x", ways[0], 5.0)
    assert missing.last("x", ways, 6.0) == [ways[1], ways[0], *ways[2:]]
    missing.note("x", ways[1], 5.0)
    assert missing.last("x", ways, 6.0) == ways


def test_fewer_than_asked_for_without_a_word_are_told_of() -> None:
    tally = Tally()
    tally.gave(on_demand("m6i.large", spot=True), 3, 10)
    told = str(tally.failure("launching 10 workers", 3))
    assert "3 came up; tried m6i.large in us-east-1a (spot): AWS gave 3 of 10." in told
    assert "spot_with_fallback" in told


def test_a_subnet_without_addresses_is_asked_for_no_other_type() -> None:
    tally, full = Tally(), NoCapacityError("launching", "no free addresses", code=SUBNET_FULL)
    assert tally.note(on_demand("m6i.large"), full)
    assert tally.passes(on_demand("m5.large"))
    assert not tally.passes(on_demand("m5.large", "us-east-1b"))
    assert "larger subnet" in str(tally.failure("launching 10 workers", 3))
    assert tally.note(on_demand("m5.large", "us-east-1b"), NoCapacityError("launching", "none", code="x"))
    assert "larger subnet" not in str(tally.failure("launching 10 workers", 3))
