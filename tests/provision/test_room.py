"""What an AWS account leaves room for is told before anything is launched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import botocore.client
import pytest
from botocore.exceptions import ClientError

from prefect_coiled.aws.caller import Caller
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.foresight import may_use_key
from prefect_coiled.aws.quotas import FREE_PLAN_TYPES, find_uses
from prefect_coiled.provision.room import Room, find_room

_call = botocore.client.BaseClient._make_api_call


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What AWS answers by operation, as a reply or as an error's code; all else is the sandbox's."""
    found: dict[str, Any] = {"GetAccountPlanState": {"accountPlanType": "PAID"}}

    def call(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        answer = found.get(operation)
        if isinstance(answer, str):
            metadata = {"HTTPStatusCode": 400, "HTTPHeaders": {}}
            raise ClientError(
                {"Error": {"Code": answer, "Message": "No."}, "ResponseMetadata": metadata}, operation
            )
        return _call(self, operation, parameters) if answer is None else answer

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)
    return found


@pytest.fixture
def limits(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What AWS allows, by the code of the quota."""
    found: dict[str, float] = {}
    monkeypatch.setattr("prefect_coiled.aws.quotas.find_limit", lambda aws, quota: found[quota.code])
    return found


def machines(*types: str, spot: bool = False) -> dict[str, Any]:
    market = {"InstanceLifecycle": "spot"} if spot else {}
    cpu = {"CoreCount": 2, "ThreadsPerCore": 2}
    return {
        "Reservations": [{"Instances": [{"InstanceType": t, "CpuOptions": cpu, **market} for t in types]}]
    }


def room(aws: Aws, worker_type: str = "m6i.xlarge", *, spot: bool = False) -> Room:
    return find_room(aws, worker_type, "m6i.xlarge", spot=spot)


def test_the_quota_less_what_runs_and_the_scheduler_is_the_room(aws: Aws, answers: dict[str, Any]) -> None:
    answers["GetServiceQuota"] = {"Quota": {"Value": 32.0}}
    answers["DescribeInstances"] = machines("m5.xlarge", "c6i.large", "g4dn.xlarge")
    found = room(aws)
    assert (found.workers, found.suffices) == (5, True)
    assert found.quota is not None
    assert found.quota.used == 6
    (line,) = found.lines()
    assert "5 workers, m6i.xlarge on demand" in line
    assert "(L-1216C47A): 32 vCPUs, 6 used; https://us-east-1.console.aws.amazon.com/" in line


@pytest.mark.parametrize("failing", ["GetServiceQuota", "DescribeInstances", "DescribeAddresses"])
@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException", "InternalError"])
def test_a_quota_that_aws_does_not_show_keeps_no_other(
    aws: Aws, answers: dict[str, Any], calls: Counter[str], failing: str, code: str
) -> None:
    answers |= {"GetServiceQuota": {"Quota": {"Value": 5.0}}, "DescribeInstances": machines("m5.xlarge")}
    answers[failing] = code
    found = {one.code: one for one in find_uses(aws)}
    unknown = {one.code for one in found.values() if code in one.unknown}
    vcpus = {one.code for one in found.values() if one.unit}
    of = {"GetServiceQuota": set(found), "DescribeInstances": vcpus, "DescribeAddresses": {"L-0263D0A3"}}
    assert unknown == of[failing]
    for one in found.values():
        assert (one.limit is None) is (failing == "GetServiceQuota")
        assert (one.used is None) is (one.code in unknown and failing != "GetServiceQuota")
    # Whom AWS does not answer once, it is not asked for all the others.
    assert calls["servicequotas:GetServiceQuota"] == (1 if failing == "GetServiceQuota" else len(found))


def test_the_quotas_are_listed_with_what_is_used_of_them(aws: Aws, answers: dict[str, Any]) -> None:
    answers["GetServiceQuota"] = {"Quota": {"Value": 5.0}}
    answers["DescribeInstances"] = machines("m5.xlarge", "g4dn.xlarge")
    answers["DescribeAddresses"] = {"Addresses": [{}, {}, {}]}
    found = {one.code: one for one in find_uses(aws)}
    assert str(found["L-1216C47A"]).startswith(
        "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"
    )
    used = {code: (found[code].used, found[code].unit) for code in ("L-1216C47A", "L-DB2E81BA", "L-34B43A08")}
    assert used == {"L-1216C47A": (4, "vCPUs"), "L-DB2E81BA": (4, "vCPUs"), "L-34B43A08": (0, "vCPUs")}
    addresses = found["L-0263D0A3"]
    assert (addresses.limit, addresses.used, addresses.unit) == (5.0, 3, "")
    assert addresses.console.endswith("/services/ec2/quotas/L-0263D0A3")


def test_spot_machines_have_a_quota_of_their_own(aws: Aws, answers: dict[str, Any]) -> None:
    answers["GetServiceQuota"] = {"Quota": {"Value": 32.0}}
    answers["DescribeInstances"] = machines("m5.xlarge")
    found = room(aws, spot=True)
    assert found.workers == 8
    assert found.quota is not None
    assert found.quota.code == "L-34B43A08"


def test_without_room_for_the_scheduler_which_is_on_demand_spot_workers_do_not_suffice(
    aws: Aws, answers: dict[str, Any], limits: dict[str, float]
) -> None:
    limits |= {"L-34B43A08": 64.0, "L-1216C47A": 5.0}
    answers["DescribeInstances"] = machines("m5.large")  # 2 vCPUs on demand
    found = room(aws, spot=True)
    assert (found.workers, found.schedulers, found.suffices) == (16, 0, False)
    workers, scheduler = found.lines()
    assert workers.startswith("Room for 16 workers, m6i.xlarge spot: All Standard")
    assert scheduler.startswith("No room for a scheduler, m6i.xlarge on demand: Running On-Demand Standard")
    assert "(L-1216C47A): 5 vCPUs, 2 used" in scheduler
    limits["L-1216C47A"] = 6.0
    assert room(aws, spot=True).suffices
    assert room(aws, spot=True).lines()[1].startswith("Room for a scheduler, m6i.xlarge on demand: ")


def test_a_scheduler_of_another_family_counts_against_a_quota_of_its_own(
    aws: Aws, answers: dict[str, Any], limits: dict[str, float]
) -> None:
    limits |= {"L-DB2E81BA": 64.0, "L-1216C47A": 0.0}
    answers["DescribeInstances"] = machines()
    assert (room(aws, "g4dn.xlarge").workers, room(aws, "g4dn.xlarge").suffices) == (16, False)
    # What is not known of the workers hides nothing of the scheduler.
    found = room(aws, "mac2.metal")
    assert (found.workers, found.schedulers, found.suffices) == (None, 0, False)
    assert "cannot be told" in found.lines()[0]
    assert "No room for a scheduler" in found.lines()[1]


@pytest.mark.parametrize(("limit", "kind"), [(5.0, "m6i.xlarge"), (0.0, "g4dn.xlarge")])
def test_a_new_account_has_no_room_for_the_defaults(
    aws: Aws, answers: dict[str, Any], limit: float, kind: str
) -> None:
    answers["GetServiceQuota"] = {"Quota": {"Value": limit}}
    answers["DescribeInstances"] = machines()
    assert (room(aws, kind).workers, room(aws, kind).suffices) == (0, False)


def test_without_the_permission_it_is_said_with_the_policy_that_has_it(
    aws: Aws, answers: dict[str, Any]
) -> None:
    answers["GetServiceQuota"] = "AccessDeniedException"
    found = room(aws)
    assert (found.workers, found.suffices) == (None, True)
    assert "servicequotas:GetServiceQuota" in found.lines()[0]
    assert "prefect-coiled policies ongoing" in found.lines()[0]


def test_what_aws_does_not_say_is_not_guessed(aws: Aws, answers: dict[str, Any]) -> None:
    answers["GetServiceQuota"] = "NoSuchResourceException"
    assert room(aws).workers is None
    assert "cannot be told" in room(aws).lines()[0]
    assert room(aws, "mac2.metal").workers is None


def test_the_free_plan_is_told_with_its_types(aws: Aws, answers: dict[str, Any]) -> None:
    answers["GetAccountPlanState"] = {"accountPlanType": "FREE"}
    answers["GetServiceQuota"] = {"Quota": {"Value": 64.0}}
    answers["DescribeInstances"] = machines()
    answers["DescribeInstanceTypes"] = {"InstanceTypes": [{"InstanceType": t} for t in FREE_PLAN_TYPES]}
    found = room(aws)
    assert not found.suffices
    assert all(name in found.lines()[0] for name in FREE_PLAN_TYPES)
    assert not room(aws, "t3.small").suffices  # the scheduler's type is none of them
    assert find_room(aws, "t3.small", "t3.small", spot=False).suffices


@pytest.mark.parametrize("failing", ["GetServiceQuota", "DescribeInstances"])
def test_where_aws_fails_to_say_it_that_is_told_and_nothing_depends_on_it(
    aws: Aws, answers: dict[str, Any], failing: str
) -> None:
    answers |= {"GetServiceQuota": {"Quota": {"Value": 32.0}}, failing: "InternalError"}
    found = room(aws)
    assert (found.workers, found.suffices) == (None, True)
    assert f":{failing} answered InternalError" in found.lines()[0]


def test_where_iam_fails_to_say_whether_a_key_may_be_used_it_is_unknown(
    aws: Aws, answers: dict[str, Any]
) -> None:
    answers["SimulatePrincipalPolicy"] = "ServiceFailure"
    caller = Caller(aws_account_id="123456789012", arn="arn:aws:iam::123456789012:user/me")
    assert may_use_key(aws, caller, "arn:aws:kms:us-east-1:123456789012:key/1") is None
