"""Setting an account up: everything is made once, found again, and tagged."""

from __future__ import annotations

import _thread
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.errors import AccessDeniedError, AwsError, ProvisionError
from prefect_coiled.events import Event, hearing
from prefect_coiled.plan import tags
from prefect_coiled.provision import set_up_account
from prefect_coiled.records import AccountRecord
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session


@pytest.fixture(autouse=True)
def nothing_there(sandbox: Sandbox) -> None:
    """Each test begins with an AWS account in which nothing of ours was made."""
    sandbox.reset()
    sandbox.set(boot="none")


READS = ("Describe", "Get", "Head", "List")


def set_up(**keywords: Any) -> AccountRecord:
    return set_up_account("team", "us-east-1", **keywords)


def changes(calls: Counter[str]) -> list[str]:
    return sorted(a for a in calls if not a.split(":")[1].startswith(READS))


def test_every_zone_gets_a_public_and_a_private_subnet(session: Session) -> None:
    record = set_up()
    zones = {f"us-east-1{letter}" for letter in "abcdef"}
    assert {(s.zone, s.tier) for s in record.network.subnets} == {
        (z, t) for z in zones for t in ("public", "private")
    }
    assert set(record.network.private_route_tables) == zones


def test_the_record_goes_through_json(session: Session) -> None:
    record = set_up()
    assert AccountRecord.model_validate_json(record.model_dump_json()) == record


def test_a_zone_in_which_no_subnet_can_be_made_keeps_no_other_from_its_own(
    session: Session, sandbox: Sandbox
) -> None:
    rule = {"effect": "error", "action": "CreateSubnet", "match": {"AvailabilityZone": "us-east-1e"}}
    sandbox.faults([{**rule, "code": "InvalidParameterValue", "status": 400}])
    with pytest.raises(AwsError, match=r"creating p\w+ subnet in us-east-1e"):
        set_up()
    made = sandbox.client("ec2").describe_subnets(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])
    zones = [s["AvailabilityZone"] for s in made["Subnets"]]
    assert sorted(zones) == sorted(f"us-east-1{letter}" for letter in "abcdf" for _ in range(2))


def test_a_second_set_up_only_reads(session: Session, aws: Aws, calls: Counter[str]) -> None:
    first = set_up()
    calls.clear()
    assert set_up() == first
    assert changes(calls) == []


def test_public_subnets_lead_to_the_internet_gateway_and_private_ones_to_the_nat(
    session: Session, sandbox: Sandbox
) -> None:
    record = set_up(zone="us-east-1b")
    ec2 = sandbox.client("ec2")
    tables = ec2.describe_route_tables(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["RouteTables"]
    out = {
        t["RouteTableId"]: next(r for r in t["Routes"] if r.get("DestinationCidrBlock") == "0.0.0.0/0")
        for t in tables
    }
    assert out[record.network.public_route_table_id]["GatewayId"] == record.network.internet_gateway_id
    (nat_id,) = record.network.nat_gateways.values()
    assert set(record.network.nat_gateways) == {"us-east-1b"}
    for table_id in record.network.private_route_tables.values():
        assert out[table_id]["NatGatewayId"] == nat_id


@pytest.mark.parametrize("egress", ["public-ip", "none"])
def test_without_nat_egress_nothing_that_costs_money_is_made(
    session: Session, sandbox: Sandbox, egress: Any
) -> None:
    assert set_up(egress=egress).network.nat_gateways == {}
    ec2 = sandbox.client("ec2")
    assert ec2.describe_nat_gateways()["NatGateways"] == []
    assert ec2.describe_addresses()["Addresses"] == []


def test_the_s3_endpoint_serves_every_route_table(session: Session, sandbox: Sandbox) -> None:
    network = set_up().network
    (endpoint,) = sandbox.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    wanted = {network.public_route_table_id, *network.private_route_tables.values()}
    assert set(endpoint["RouteTableIds"]) == wanted
    assert endpoint["ServiceName"] == "com.amazonaws.us-east-1.s3"


def test_role_profile_and_log_group_are_named_as_the_account(session: Session, sandbox: Sandbox) -> None:
    record = set_up()
    iam = sandbox.client("iam")
    assert iam.get_role(RoleName="team")["Role"]["Arn"] == record.role_arn
    profile = iam.get_instance_profile(InstanceProfileName="team")["InstanceProfile"]
    assert [r["RoleName"] for r in profile["Roles"]] == ["team"]
    (group,) = sandbox.client("logs").describe_log_groups(logGroupNamePrefix="team")["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("team", 30)


def test_a_machine_may_write_its_logs_read_its_keys_wheels_and_image_and_launch_workers_and_nothing_else(
    session: Session, sandbox: Sandbox
) -> None:
    record = set_up()
    iam = sandbox.client("iam")
    (name,) = iam.list_role_policies(RoleName="team")["PolicyNames"]
    policy = iam.get_role_policy(RoleName="team", PolicyName=name)["PolicyDocument"]
    allowed = {
        (a, r)
        for s in policy["Statement"]
        for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
        for r in ([s["Resource"]] if isinstance(s["Resource"], str) else s["Resource"])
    }
    assert {a for a, _ in allowed} == {
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "ssm:GetParameter",
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "ecr:GetAuthorizationToken",
        "ecr:BatchGetImage",
        "ecr:GetDownloadUrlForLayer",
        # Those of a cluster's scheduler, which its templates and conditions narrow: see `test_kept`.
        "ec2:DescribeInstances",
        "ec2:RunInstances",
        "ec2:CreateTags",
        "iam:PassRole",
        # Where disks are encrypted by a key of the AWS account's own; by EC2 and the Parameter Store alone.
        "kms:CreateGrant",
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncrypt*",
    }
    keys = [s for s in policy["Statement"] if any(a.startswith("kms:") for a in s["Action"])]
    assert all(s.get("Condition") for s in keys)
    # Of the bucket with the packages that machines install, nothing but results.
    assert all(r.endswith("/results/*") for a, r in allowed if a == "s3:PutObject")
    number = record.aws_account_id
    assert ("ssm:GetParameter", f"arn:aws:ssm:*:{number}:parameter/prefect-coiled/team/*/node/*") in allowed
    assert all(
        "team" in r
        for a, r in allowed
        if a != "ecr:GetAuthorizationToken" and not a.startswith(("ec2:", "kms:"))
    )


def test_everything_that_can_bear_a_tag_bears_ours_from_its_creating_call_on(
    session: Session, sandbox: Sandbox, aws: Aws, calls: Counter[str]
) -> None:
    set_up()
    ec2 = sandbox.client("ec2")
    ours = [{"Name": "tag:owner", "Values": ["coiled"]}, {"Name": "tag:coiled-account", "Values": ["team"]}]
    counted = {
        "vpc": ec2.describe_vpcs(Filters=ours)["Vpcs"],
        "subnet": ec2.describe_subnets(Filters=ours)["Subnets"],
        "gateway": ec2.describe_internet_gateways(Filters=ours)["InternetGateways"],
        "table": ec2.describe_route_tables(Filters=ours)["RouteTables"],
        "endpoint": ec2.describe_vpc_endpoints(Filters=ours)["VpcEndpoints"],
        "nat": ec2.describe_nat_gateways(Filter=ours)["NatGateways"],
        "address": ec2.describe_addresses(Filters=ours)["Addresses"],
    }
    assert {k: len(v) for k, v in counted.items()} == {
        "vpc": 1,
        "subnet": 12,
        "gateway": 1,
        "table": 7,
        "endpoint": 1,
        "nat": 1,
        "address": 1,
    }
    for resources in counted.values():
        assert all(tags.from_aws(r["Tags"]).get("Name", "").startswith("coiled-team") for r in resources)
    assert tags.from_aws(sandbox.client("iam").list_role_tags(RoleName="team")["Tags"])["owner"] == "coiled"
    assert "ec2:CreateTags" not in calls


def test_a_set_up_that_was_cut_short_is_completed(session: Session, sandbox: Sandbox, aws: Aws) -> None:
    sandbox.faults(
        [
            {
                "service": "ec2",
                "action": "CreateSubnet",
                "effect": "error",
                "code": "UnauthorizedOperation",
                "status": 403,
                "skip": 5,
            }
        ]
    )
    with pytest.raises(AccessDeniedError, match="CreateSubnet"):
        set_up()
    sandbox.faults([])
    record = set_up()
    assert len(record.network.subnets) == 12
    assert (
        len(
            sandbox.client("ec2").describe_vpcs(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["Vpcs"]
        )
        == 1
    )


def test_a_subnet_that_was_deleted_is_made_again(session: Session, sandbox: Sandbox) -> None:
    subnet = set_up().network.subnet("us-east-1c", "private")
    assert subnet is not None
    sandbox.client("ec2").delete_subnet(SubnetId=subnet.subnet_id)
    again = set_up().network.subnet("us-east-1c", "private")
    assert again is not None
    assert again.cidr == subnet.cidr
    assert again.subnet_id != subnet.subnet_id


def test_two_set_ups_at_once_end_in_one_network(account: Account, sandbox: Sandbox) -> None:
    def one(_: int) -> AccountRecord:
        with use_session(Session(account.door("us-east-1"))):
            return set_up()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert first == second
    ec2 = sandbox.client("ec2")
    assert len(ec2.describe_vpcs(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["Vpcs"]) == 1
    assert len(ec2.describe_nat_gateways()["NatGateways"]) == 1


def test_throttled_steps_are_tried_again(session: Session, sandbox: Sandbox) -> None:
    sandbox.faults(
        [
            {
                "service": "ec2",
                "action": "CreateVpc",
                "effect": "error",
                "code": "RequestLimitExceeded",
                "status": 503,
                "times": 1,
            }
        ]
    )
    assert set_up().network.vpc_id


def test_a_lost_reply_to_create_vpc_makes_no_second_vpc(session: Session, sandbox: Sandbox) -> None:
    sandbox.faults([{"service": "ec2", "action": "CreateVpc", "effect": "drop_after", "times": 1}])
    set_up()
    assert (
        len(
            sandbox.client("ec2").describe_vpcs(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["Vpcs"]
        )
        == 1
    )


def test_a_role_of_that_name_that_is_not_ours_is_left_alone(session: Session, sandbox: Sandbox) -> None:
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    sandbox.client("iam").create_role(RoleName="team", AssumeRolePolicyDocument=trust)
    with pytest.raises(ProvisionError, match=r"does not carry our tags.*another account slug"):
        set_up()
    assert sandbox.client("iam").list_role_policies(RoleName="team")["PolicyNames"] == []


def test_the_lease_of_a_set_up_is_given_back(session: Session, sandbox: Sandbox) -> None:
    set_up()
    names = [p["Name"] for p in sandbox.client("ssm").describe_parameters()["Parameters"]]
    assert "/prefect-coiled/team/set-up" not in names


def test_ctrl_c_gives_the_lease_back_after_what_is_begun_and_begins_nothing_more(
    session: Session, sandbox: Sandbox
) -> None:
    told: list[str] = []
    over = threading.Event()

    def press(event: Event) -> None:
        if (event.kind, event.action) == ("call", "ec2:CreateVpc"):
            _thread.interrupt_main()
            over.wait(5)  # as long as it takes until the lease is given back, where that does not wait for it
        if event.action == "ec2:CreateVpc" or event.text.startswith("deleting parameters"):
            told.append(f"{event.kind} {event.action}")
        if event.text.startswith("deleting parameters"):
            over.set()

    with hearing(press), pytest.raises(KeyboardInterrupt):
        set_up()
    assert told.index("reply ec2:CreateVpc") < told.index("call ssm:DeleteParameters")
    assert not sandbox.client("ec2").describe_nat_gateways()["NatGateways"]


def test_the_lease_of_a_set_up_that_was_killed_is_taken_over(
    session: Session, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "/prefect-coiled/team/set-up"
    sandbox.client("ssm").put_parameter(Name=name, Value="a dead holder", Type="String")
    monkeypatch.setattr("prefect_coiled.aws.leases.GOOD_FOR", 5.0)
    assert set_up().network.vpc_id
    assert not sandbox.client("ssm").get_parameters(Names=[name])["Parameters"]
