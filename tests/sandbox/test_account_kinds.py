"""What a fresh AWS account may not do yet, how often calls may come, and what needs time; by plain boto3."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.sandbox.rules.account import History
from prefect_coiled.sandbox.rules.fresh import FREE_TYPES, family
from prefect_coiled.sandbox.rules.rates import RATES, Rates, rates_of
from prefect_coiled.sandbox.rules.table import rows
from prefect_coiled.sandbox.settings import Settings

IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
ONCE = Config(retries={"total_max_attempts": 1})
EVERYTHING = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
)
SPOT = {"InstanceMarketOptions": {"MarketType": "spot"}}
TOLD = {
    "ec2-address-limit",
    "ec2-free-plan",
    "ec2-gateway-limit",
    "ec2-lag",
    "ec2-new-profile",
    "ec2-rates",
    "ec2-region-validated",
    "ec2-spot-role",
    "ec2-vcpus",
    "ec2-vpc-limit",
    "ecr-rates",
    "iam-new-policy",
    "iam-rates",
    "logs-rates",
    "s3-kept-name",
    "s3-rates",
    "ssm-rates",
    "sts-rates",
}


@pytest.fixture(scope="module")
def own() -> Iterator[Sandbox]:
    with Sandbox({"boot": "none"}) as sandbox:
        yield sandbox


@pytest.fixture
def aws(own: Sandbox) -> Iterator[Callable[..., Any]]:
    """A client of an empty account; settings are as at the start afterwards."""
    own.reset()
    yield lambda service, region="us-east-1": own.client(service, region, config=ONCE)
    own.set(profile="fast", account="used", iam="off")


@pytest.fixture
def launch(own: Sandbox, aws: Callable[..., Any]) -> Callable[..., list[str]]:
    image = aws("ssm").get_parameter(Name=IMAGE)["Parameter"]["Value"]

    def run(instance_type: str, least: int = 1, most: int = 0, **options: Any) -> list[str]:
        counts = {"MinCount": least, "MaxCount": most or least}
        asked = {"ImageId": image, "InstanceType": instance_type, **counts, **options}
        return [i["InstanceId"] for i in aws("ec2").run_instances(**asked)["Instances"]]

    return run


def code_of(call: Callable[..., Any], *args: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(*args, **params)
    return str(caught.value.response["Error"]["Code"])


# -- fresh accounts ------------------------------------------------------------------------------------------


def test_a_fresh_account_launches_the_types_of_the_free_plan_only(own, launch):
    own.set(account="fresh", validation=0)
    assert code_of(launch, "m6i.large") == "InvalidParameterCombination"
    assert launch("t3.micro")
    assert set(FREE_TYPES) == {
        "t3.micro",
        "t3.small",
        "t4g.micro",
        "t4g.small",
        "c7i-flex.large",
        "m7i-flex.large",
    }


def test_vcpus_are_counted_by_family_and_as_many_machines_come_as_fit(own, aws, launch):
    own.set(vcpus={"standard": 5, "g": 0})
    assert code_of(launch, "m6i.large", 3) == "VcpuLimitExceeded"
    assert len(launch("m6i.large", 1, 10)) == 2  # two vCPUs each
    assert code_of(launch, "m6i.large") == "VcpuLimitExceeded"
    assert code_of(launch, "g5.xlarge") == "VcpuLimitExceeded"
    # Spot has a quota of its own.
    assert len(launch("m6i.large", 1, 10, **SPOT)) == 2
    assert code_of(launch, "m6i.large", **SPOT) == "MaxSpotInstanceCountExceeded"
    assert code_of(launch, "t3.micro", 1) == "VcpuLimitExceeded"
    live = [i["InstanceId"] for r in aws("ec2").describe_instances()["Reservations"] for i in r["Instances"]]
    aws("ec2").terminate_instances(InstanceIds=live)
    assert len(launch("m6i.large", 2)) == 2


def test_spot_machines_of_p5_have_a_quota_apart_from_older_ones(own, aws, launch):
    own.set(vcpus={"p": 192})
    assert launch("p4d.24xlarge", 2, **SPOT)  # 96 vCPUs each
    assert code_of(launch, "p4d.24xlarge", **SPOT) == "MaxSpotInstanceCountExceeded"
    assert launch("p5.48xlarge", **SPOT)
    assert code_of(launch, "p5.48xlarge", **SPOT) == "MaxSpotInstanceCountExceeded"
    # On demand all of them share one.
    assert launch("p4d.24xlarge")
    assert code_of(launch, "p5.48xlarge") == "VcpuLimitExceeded"
    quotas = aws("service-quotas")
    told = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-C4BD4855")["Quota"]
    assert (told["QuotaName"], told["Value"]) == ("All Spot p5 instances", 192)


@pytest.mark.parametrize(
    ("instance_type", "name"),
    [
        ("m6i.large", "standard"),
        ("t4g.micro", "standard"),
        ("c7i-flex.large", "standard"),
        ("i3en.large", "standard"),
        ("g5.xlarge", "g"),
        ("gr6.4xlarge", "g"),
        ("vt1.3xlarge", "g"),
        ("p4d.24xlarge", "p"),
        ("inf2.xlarge", "inf"),
        ("trn1.2xlarge", "trn"),
        ("dl1.24xlarge", "dl"),
        ("x2idn.16xlarge", "x"),
        ("f1.2xlarge", "f"),
        ("hpc7a.12xlarge", "hpca"),
        ("u-6tb1.metal", "u"),
    ],
)
def test_each_type_counts_against_the_quota_of_its_family(instance_type, name):
    assert family(instance_type) == name


def test_service_quotas_tells_the_limits_that_are_held_to(own, aws):
    own.set(account="fresh", vcpus={"standard": 5, "g": 0})
    quotas = aws("service-quotas")

    def value(service: str, code: str) -> float:
        return float(quotas.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"])

    assert (value("ec2", "L-1216C47A"), value("ec2", "L-34B43A08"), value("ec2", "L-DB2E81BA")) == (5, 5, 0)
    assert value("ec2", "L-417A185B") > 1000
    assert (value("ec2", "L-0263D0A3"), value("vpc", "L-F678F1CE")) == (5, 5)
    assert code_of(quotas.get_service_quota, ServiceCode="ec2", QuotaCode="L-0") == "NoSuchResourceException"


def test_the_plan_of_the_account_is_told(own, aws):
    plan = aws("freetier").get_account_plan_state
    assert plan()["accountPlanType"] == "PAID"
    own.set(account="fresh")
    assert (plan()["accountPlanType"], plan()["accountPlanStatus"]) == ("FREE", "ACTIVE")


def test_spot_takes_the_role_that_is_made_once(own, aws, launch):
    own.set(spot_role=False)
    assert code_of(launch, "t3.micro", **SPOT) == "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
    assert launch("t3.micro")
    aws("iam").create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    assert launch("t3.micro", **SPOT)


def test_a_region_is_validated_at_the_first_launch_in_it(own, launch, until):
    own.set(validation=1.0)
    assert code_of(launch, "t3.micro") == "PendingVerification"

    def launched():
        try:
            return launch("t3.micro")
        except ClientError:
            return None

    assert until(launched)
    assert launch("t3.micro")


def test_a_fresh_account_has_five_vpcs_gateways_and_addresses(own, aws):
    own.set(account="fresh")
    ec2 = aws("ec2")
    for _ in range(5 - len(ec2.describe_vpcs()["Vpcs"])):  # the default one counts
        ec2.create_vpc(CidrBlock="10.0.0.0/16")
    assert code_of(ec2.create_vpc, CidrBlock="10.0.0.0/16") == "VpcLimitExceeded"
    for _ in range(5 - len(ec2.describe_internet_gateways()["InternetGateways"])):
        ec2.create_internet_gateway()
    assert code_of(ec2.create_internet_gateway) == "InternetGatewayLimitExceeded"
    for _ in range(5):
        ec2.allocate_address(Domain="vpc")
    assert code_of(ec2.allocate_address, Domain="vpc") == "AddressLimitExceeded"


def test_what_is_set_goes_before_the_kind_of_account_and_a_used_one_is_as_before():
    settings = Settings()
    settings.update({"account": "fresh", "vcpus": {"standard": 64}, "profile": "realistic"})
    assert (settings.vcpus, settings.free_plan, settings.rates) == ({"standard": 64}, True, "on")
    settings.update({"account": "used", "profile": "fast"})
    assert settings == Settings()
    with pytest.raises(SandboxError, match="fresh"):
        settings.update({"account": "old"})


# -- rates ---------------------------------------------------------------------------------------------------


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def taken(clock: Clock) -> Callable[..., int]:
    """How many of so many calls at once are taken."""
    rates = Rates(lambda environ, start: [], Settings(rates="on"), clock)

    def count(service: str, action: str, calls: int, **params: Any) -> int:
        asked = SimpleNamespace(
            service=service,
            action=action,
            region="us-east-1",
            params=params,
            get=params.get,
            all=lambda name: params.get(name, []),
        )
        return sum(rates.allows(asked) for _ in range(calls))  # type: ignore[arg-type]

    return count


@pytest.mark.parametrize(
    ("service", "action", "size", "refill"),
    [
        ("ec2", "RunInstances", 5, 2),
        ("ec2", "TerminateInstances", 100, 5),
        ("ec2", "CreateTags", 100, 10),
        ("ec2", "DescribeVpcs", 100, 20),
        ("ec2", "DescribeInstances", 50, 10),
        ("ec2", "CreateSecurityGroup", 50, 5),
        ("ec2", "CreateNatGateway", 10, 1),
        ("logs", "CreateLogStream", 50, 50),
        ("ssm", "PutParameter", 3, 3),
        ("ssm", "GetParameter", 40, 40),
        ("iam", "CreateRole", 10, 5),
        ("ecr", "DescribeImages", 10, 10),
        ("s3", "PutObject", 3500, 3500),
        ("sts", "GetCallerIdentity", 600, 600),
    ],
)
def test_a_bucket_is_emptied_at_once_and_fills_again(taken, clock, service, action, size, refill):
    params = {"MaxCount": 1, "InstanceIds": ["i-12345678"]} if action.endswith("Instances") else {}
    assert taken(service, action, size + 10, **params) == size
    clock.now += 1
    assert taken(service, action, size + 10, **params) == refill


def test_machines_have_a_bucket_of_their_own(taken, clock):
    assert taken("ec2", "RunInstances", 1, MaxCount=600) == 1
    assert taken("ec2", "RunInstances", 1, MaxCount=600) == 0
    # What was refused took nothing of the requests' bucket.
    assert taken("ec2", "RunInstances", 9, MaxCount=1) == 4
    clock.now += 100
    assert taken("ec2", "RunInstances", 1, MaxCount=596) == 1
    assert taken("ec2", "RunInstances", 1, MaxCount=200) == 0


def test_lists_with_a_filter_have_the_larger_bucket_and_reads_of_parameters_share_one(taken):
    assert taken("ec2", "DescribeInstances", 200, Filters=[{"Name": "vpc-id", "Values": ["x"]}]) == 100
    assert taken("ssm", "GetParameter", 30) == 30
    assert taken("ssm", "GetParametersByPath", 30) == 10
    assert taken("ssm", "PutParameter", 5) == 3


def test_every_call_to_ec2_has_a_bucket():
    assert rates_of("ec2", "ModifyVpcAttribute")[0].size == 50
    assert {rate.service for rate in RATES} == {"ec2", "logs", "ssm", "ecr", "iam", "sts", "s3"}


@pytest.mark.parametrize(
    ("service", "operation", "params", "code", "status"),
    [
        (
            "ec2",
            "create_vpc_endpoint",
            {"VpcId": "vpc-12345678", "DryRun": True},
            "RequestLimitExceeded",
            503,
        ),
        ("ssm", "put_parameter", {"Name": "/a", "Value": "v", "Overwrite": True}, "ThrottlingException", 400),
        ("iam", "delete_role", {"RoleName": "nobody"}, "Throttling", 400),
    ],
)
def test_what_comes_too_often_is_refused_on_the_wire(own, aws, service, operation, params, code, status):
    def throttled() -> Any:
        for _ in range(60):
            try:
                getattr(aws(service), operation)(**params)
            except ClientError as error:
                if error.response["Error"]["Code"] == code:
                    return error.response["ResponseMetadata"]["HTTPStatusCode"]
        return None

    assert throttled() is None
    own.set(rates="on")
    assert throttled() == status


# -- time ----------------------------------------------------------------------------------------------------


def test_a_new_profile_can_be_launched_with_after_a_while(own, aws, launch, trust, until):
    own.set(profile_delay=1.5)
    iam = aws("iam")
    iam.create_role(RoleName="young", AssumeRolePolicyDocument=trust)
    iam.create_instance_profile(InstanceProfileName="young")
    iam.add_role_to_instance_profile(InstanceProfileName="young", RoleName="young")
    profile = {"IamInstanceProfile": {"Name": "young"}}
    assert code_of(launch, "t3.micro", **profile) == "InvalidParameterValue"

    def launched():
        try:
            return launch("t3.micro", **profile)
        except ClientError:
            return None

    assert until(launched)


@pytest.mark.parametrize("iam", ["off", "on"])
def test_a_new_roles_policy_counts_after_a_while_also_for_its_machines(own, aws, trust, until, iam):
    own.set(iam=iam, policy_delay=1.5)
    made = aws("iam").create_role(RoleName="young", AssumeRolePolicyDocument=trust)["Role"]
    given = aws("sts").assume_role(RoleArn=made["Arn"], RoleSessionName="machine")["Credentials"]
    keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    logs, s3 = (
        boto3.Session(*keys).client(name, "us-east-1", endpoint_url=own.endpoint, config=ONCE)
        for name in ("logs", "s3")
    )
    aws("iam").put_role_policy(RoleName="young", PolicyName="all", PolicyDocument=EVERYTHING)
    assert code_of(logs.create_log_group, logGroupName="g") == "AccessDeniedException"
    assert code_of(s3.list_buckets) == "AccessDenied"

    def allowed():
        try:
            return s3.list_buckets()
        except ClientError:
            return None

    assert until(allowed)
    logs.create_log_group(logGroupName="g")


def test_what_was_just_made_is_neither_listed_nor_found_for_a_while(own, aws, launch, until):
    ec2 = aws("ec2")
    old = launch("t3.micro")[0]
    own.set(list_lag=2.0)
    new = launch("t3.micro")[0]
    group = ec2.create_security_group(GroupName="young", Description="x")["GroupId"]

    def listed():
        found = ec2.describe_instances()["Reservations"]
        return [i["InstanceId"] for r in found for i in r["Instances"]]

    assert listed() == [old]
    assert code_of(ec2.describe_instances, InstanceIds=[new]) == "InvalidInstanceID.NotFound"
    assert code_of(ec2.delete_security_group, GroupId=group) == "InvalidGroup.NotFound"
    assert group not in {g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"]}
    until(lambda: set(listed()) == {old, new})
    until(lambda: group in {g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"]})
    ec2.delete_security_group(GroupId=group)


def test_the_name_of_a_deleted_bucket_stays_taken_for_a_while(own, aws, until):
    s3 = aws("s3")
    own.set(bucket_name_kept=1.5)
    s3.create_bucket(Bucket="again")
    s3.delete_bucket(Bucket="again")
    assert code_of(s3.create_bucket, Bucket="again") == "OperationAborted"

    def made():
        try:
            return s3.create_bucket(Bucket="again")
        except ClientError:
            return None

    assert until(made)


def test_calls_and_machines_take_their_time(own, aws, launch, until):
    own.set(api_delay=(0.1, 0.1), boot_delay=0.5, boot_spread=0.2)
    before = time.monotonic()
    (name,) = launch("t3.micro")
    assert time.monotonic() - before > 0.1
    until(lambda: own.instances()[name]["state"] == "running")
    assert time.monotonic() - before > 0.6


def test_history_tells_ages_by_its_clock(clock):
    history = History(clock)
    assert history.age("profile", "a") == float("inf")
    history.note_first("policy", "a")
    clock.now = 3.0
    history.note_first("policy", "a")
    assert history.age("policy", "a") == 3.0
    history.forget("policy", "a")
    assert history.age("policy", "a") == float("inf")


def test_every_rule_of_accounts_rates_and_times_is_tried_here():
    assert {row.name for row in rows() if row.when != "always"} == TOLD
