"""Taking an account down leaves nothing of it, and everything of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import botocore.client
import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.errors import AwsError, ProvisionError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import (
    create_cluster,
    delete_cluster,
    destroy_account,
    plan_destruction,
    set_up_account,
    take_inventory,
)
from prefect_coiled.provision.inventory import Resource
from prefect_coiled.provision.planning import Elsewhere
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session
from tests.matrix.lives import what_there_is
from tests.matrix.races import Race
from tests.provision.laid import bring_up, hurry, lay_over


def by_kind(resources: Iterable[Resource]) -> dict[str, tuple[str, ...]]:
    """The ids by kind."""
    listed = sorted(resources, key=lambda one: one.kind)
    return {kind: tuple(one.resource_id for one in some) for kind, some in groupby(listed, lambda o: o.kind)}


@pytest.fixture(autouse=True)
def nothing_there(sandbox: Sandbox) -> None:
    sandbox.reset()
    sandbox.set(boot="none")


@pytest.fixture
def raw(sandbox: Sandbox) -> Callable[[], dict[str, set[str]]]:
    """What there is in the AWS account, whoever it belongs to, but for what every account has."""

    def look() -> dict[str, set[str]]:
        ec2, iam = sandbox.client("ec2"), sandbox.client("iam")
        vpcs = {v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"] if not v["IsDefault"]}
        wanted = [{"Name": "vpc-id", "Values": sorted(vpcs) or ["none"]}]
        nats = ec2.describe_nat_gateways()["NatGateways"]
        states = ["pending", "running", "shutting-down", "stopping", "stopped"]
        alive = [{"Name": "instance-state-name", "Values": states}]
        reservations = ec2.describe_instances(Filters=alive)["Reservations"]
        tables = ec2.describe_route_tables(Filters=wanted)["RouteTables"]
        asked = [{"Key": "Name", "Option": "BeginsWith", "Values": ["/prefect-coiled"]}]
        parameters = sandbox.client("ssm").describe_parameters(ParameterFilters=asked)["Parameters"]
        groups = [g for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"]
        log_groups = sandbox.client("logs").describe_log_groups()["logGroups"]
        endpoints = ec2.describe_vpc_endpoints()["VpcEndpoints"]
        templates = ec2.describe_launch_templates()["LaunchTemplates"]
        buckets = sandbox.client("s3").list_buckets()["Buckets"]
        return {
            "VPC": vpcs,
            "subnet": {s["SubnetId"] for s in ec2.describe_subnets(Filters=wanted)["Subnets"]},
            "route table": {
                t["RouteTableId"] for t in tables if not any(a.get("Main") for a in t["Associations"])
            },
            "internet gateway": {
                g["InternetGatewayId"] for g in ec2.describe_internet_gateways()["InternetGateways"]
            },
            "NAT gateway": {n["NatGatewayId"] for n in nats if n["State"] != "deleted"},
            "elastic address": {a["AllocationId"] for a in ec2.describe_addresses()["Addresses"]},
            "VPC endpoint": {e["VpcEndpointId"] for e in endpoints if e["State"] != "deleted"},
            "security group": {g["GroupId"] for g in groups},
            "launch template": {t["LaunchTemplateId"] for t in templates},
            "instance": {i["InstanceId"] for r in reservations for i in r["Instances"]},
            "volume": {v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]},
            "log group": {g["logGroupName"] for g in log_groups},
            # AWS's own, such as that of spot machines, belong to the whole AWS account.
            "IAM role": {
                r["RoleName"]
                for r in iam.list_roles()["Roles"]
                if not r["Path"].startswith("/aws-service-role/")
            },
            "instance profile": {
                p["InstanceProfileName"] for p in iam.list_instance_profiles()["InstanceProfiles"]
            },
            "bucket": {b["Name"] for b in buckets},
            "repository": {
                r["repositoryName"] for r in sandbox.client("ecr").describe_repositories()["repositories"]
            },
            "parameter": {p["Name"] for p in parameters},
        }

    return look


def filled(found: dict[str, set[str]]) -> dict[str, set[str]]:
    return {kind: ids for kind, ids in found.items() if ids}


def neighbour(account: Account, sandbox: Sandbox, region: str = "us-east-1", slug: str = "team-2") -> Aws:
    keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
    of = Account(slug, credentials=keys, endpoint_url=sandbox.endpoint, sandbox=sandbox.info)
    return of.door(region)


def test_the_inventory_is_what_is_there(
    session: Session, aws: Aws, spec: Callable[..., ClusterSpec], raw: Callable[[], Any]
) -> None:
    set_up_account("team", "us-east-1")
    create_cluster(spec(name="one"))
    there = take_inventory(aws)
    assert {kind: set(ids) for kind, ids in by_kind(there).items()} == filled(raw())
    assert {r.kind for r in there if r.cluster == "one"} == {
        "instance",
        "volume",
        "launch template",
        "security group",
        "parameter",
    }


def test_nothing_is_left(
    session: Session, aws: Aws, spec: Callable[..., ClusterSpec], raw: Callable[[], Any]
) -> None:
    before = filled(raw())
    set_up_account("team", "us-east-1")
    create_cluster(spec(name="one"))
    delete_cluster("team", "us-east-1", "one")
    removal = destroy_account("team", "us-east-1")
    assert filled(raw()) == before == {}
    assert take_inventory(aws) == ()
    assert removal.left == {}
    assert set(removal.removed) >= {
        "VPC",
        "subnet",
        "NAT gateway",
        "IAM role",
        "log group",
        "bucket",
        "repository",
    }


def test_a_second_time_there_is_nothing_to_do(session: Session) -> None:
    set_up_account("team", "us-east-1")
    destroy_account("team", "us-east-1")
    assert destroy_account("team", "us-east-1").removed == {}


def test_the_bucket_goes_with_its_files(session: Session, sandbox: Sandbox, raw: Callable[[], Any]) -> None:
    set_up_account("team", "us-east-1")
    (name,) = raw()["bucket"]
    for n in range(3):
        sandbox.client("s3").put_object(Bucket=name, Key=f"wheels/{n}", Body=b"x")
    destroy_account("team", "us-east-1")
    assert raw()["bucket"] == set()


def test_a_running_cluster_is_named_and_nothing_is_touched(
    session: Session, spec: Callable[..., ClusterSpec], raw: Callable[[], Any]
) -> None:
    create_cluster(spec(name="busy"))
    before = raw()
    with pytest.raises(ProvisionError, match="busy"):
        destroy_account("team", "us-east-1")
    assert raw() == before


def test_a_neighbour_with_a_similar_name_stays(
    session: Session, account: Account, sandbox: Sandbox, raw: Callable[[], Any]
) -> None:
    with use_session(Session(neighbour(account, sandbox))):
        set_up_account("team-2", "us-east-1")
    alone = raw()
    set_up_account("team", "us-east-1")
    destroy_account("team", "us-east-1")
    assert raw() == alone


def test_the_role_stays_as_long_as_another_region_needs_it(
    session: Session, account: Account, sandbox: Sandbox, raw: Callable[[], Any]
) -> None:
    elsewhere = neighbour(account, sandbox, "eu-west-1", "team")
    with use_session(Session(elsewhere)):
        set_up_account("team", "eu-west-1")
    set_up_account("team", "us-east-1")
    removal = destroy_account("team", "us-east-1")
    assert removal.left == {"role/team": "used in eu-west-1"}
    assert raw()["IAM role"] == {"team"}
    with use_session(Session(elsewhere)):
        destroy_account("team", "eu-west-1")
    assert raw()["IAM role"] == set()


def test_the_role_stays_for_a_region_that_is_set_up_while_this_one_goes(
    session: Session, raw: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_account("team", "us-east-1")
    monkeypatch.setattr(
        "prefect_coiled.provision.planning.other_regions",
        lambda aws: Elsewhere((), {}) if raw().get("VPC") else Elsewhere(("eu-west-1",), {}),
    )
    removal = destroy_account("team", "us-east-1")
    assert removal.left == {"role/team": "used in eu-west-1"}
    assert raw()["IAM role"] == {"team"}
    monkeypatch.undo()
    assert destroy_account("team", "us-east-1").is_done


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "OptInRequired", "InternalError"])
def test_the_role_stays_where_aws_does_not_say_whether_a_region_needs_it(
    session: Session, raw: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    set_up_account("team", "us-east-1")
    call = botocore.client.BaseClient._make_api_call

    def closed(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "DescribeVpcs" and self.meta.region_name == "eu-west-1":
            raise ClientError({"Error": {"Code": code, "Message": "No."}}, operation)
        return call(self, operation, parameters)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", closed)
    removal = destroy_account("team", "us-east-1")
    assert set(removal.left) == {"role/team"}
    assert "eu-west-1" in removal.left["role/team"]
    assert code in removal.left["role/team"]
    assert not removal.is_done
    assert raw()["IAM role"] == {"team"}
    monkeypatch.undo()
    assert destroy_account("team", "us-east-1").is_done
    assert raw()["IAM role"] == set()


NOT_KNOWN_YET = {
    "ec2:DeleteNatGateway": "NatGatewayNotFound",
    "ec2:DeleteVpcEndpoints": "InvalidVpcEndpointId.NotFound",
    "ec2:DeregisterImage": "InvalidAMIID.Unavailable",
    "ec2:ReleaseAddress": "InvalidAllocationID.NotFound",
    "ec2:DeleteSecurityGroup": "InvalidGroup.NotFound",
    "ec2:DeleteSubnet": "InvalidSubnetID.NotFound",
    "ec2:DeleteVpc": "InvalidVpcID.NotFound",
    "ecr:DeleteRepository": "RepositoryNotFoundException",
    "iam:DeleteRole": "NoSuchEntity",
    "logs:DeleteLogGroup": "ResourceNotFoundException",
    "s3:DeleteBucket": "NoSuchBucket",
}


def test_what_aws_did_not_know_yet_goes_all_the_same(
    session: Session,
    aws: Aws,
    spec: Callable[..., ClusterSpec],
    raw: Callable[[], Any],
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_up_account("team", "us-east-1")
    create_cluster(spec(name="one"))
    an_image(sandbox)
    unknown = dict(NOT_KNOWN_YET)

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        return (code, "It is not there.") if (code := unknown.pop(action, "")) else None

    lay_over(monkeypatch)(rule)
    delete_cluster("team", "us-east-1", "one")
    assert destroy_account("team", "us-east-1").is_done
    assert unknown == {}
    assert filled(raw()) == {}
    assert sandbox.client("ec2").describe_images(Owners=["self"])["Images"] == []


def an_image(sandbox: Sandbox) -> str:
    """An image of the account, as if it were baked."""
    ec2 = sandbox.client("ec2")
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    base = sandbox.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    machine = ec2.run_instances(ImageId=base, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"][0]
    labels = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "team"}]
    tagged = [{"ResourceType": kind, "Tags": labels} for kind in ("image", "snapshot")]
    made = ec2.create_image(InstanceId=machine["InstanceId"], Name="baked", TagSpecifications=tagged)
    ec2.terminate_instances(InstanceIds=[machine["InstanceId"]])
    return str(made["ImageId"])


def test_what_is_protected_is_left_and_the_plan_says_how_to_take_that_off(
    session: Session, aws: Aws, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_account("team", "us-east-1")
    image = an_image(sandbox)
    call = botocore.client.BaseClient._make_api_call

    def shown(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        reply = call(self, operation, parameters)
        if operation == "DescribeLogGroups":
            return {"logGroups": [{**g, "deletionProtectionEnabled": True} for g in reply["logGroups"]]}
        if operation == "DescribeImages" and "Images" in reply:  # ECR's call has that name too
            protection = {"DeregistrationProtection": "enabled-without-cooldown"}
            return {"Images": [{**i, **protection} for i in reply["Images"]]}
        return reply

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", shown)
    left = {change.resource_id: change.why for change in plan_destruction(aws).left}
    assert set(left) == {"team", image}
    assert all("it is protected from" in why and "take that off" in why for why in left.values())


@pytest.mark.parametrize(
    "action",
    ["DeleteSubnet", "DeleteNatGateway", "DeleteRole", "a bucket"],
)
def test_a_run_that_failed_is_run_again_and_goes_on(
    session: Session, sandbox: Sandbox, raw: Callable[[], Any], action: str
) -> None:
    set_up_account("team", "us-east-1")
    match = {"action": action} if action != "a bucket" else {"service": "s3", "action": "DELETE"}
    rule = {"effect": "error", "code": "UnauthorizedOperation", "status": 403, "times": 1, **match}
    sandbox.faults([rule])
    with pytest.raises(AwsError):
        destroy_account("team", "us-east-1")
    sandbox.faults([])
    destroy_account("team", "us-east-1")
    assert filled(raw()) == {}


def test_a_set_up_that_waited_while_the_account_was_destroyed_makes_all_of_a_new_one(
    sandbox: Sandbox, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)

    def set_up() -> None:  # as a launch does it
        with use_session(Session(aws)):
            set_up_account("team", "us-east-1", "us-east-1a", every_zone=False)

    def destroy() -> None:
        with use_session(Session(aws)):
            destroy_account("team", "us-east-1")

    set_up()
    anew = what_there_is(sandbox)
    destroy()
    bring_up(aws, "us-east-1a")
    gateways = sandbox.client("ec2").describe_nat_gateways()["NatGateways"]
    sandbox.client("ec2").delete_nat_gateway(NatGatewayId=gateways[-1]["NatGatewayId"])
    race = Race(0, after=False)  # the first has seen that a gateway lacks, and is about to take the lease
    race.run(set_up, destroy)
    assert race.ended == {"first": None, "second": None}
    assert what_there_is(sandbox) == anew
