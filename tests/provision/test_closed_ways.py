"""Ways that an AWS account or a zone has closed: said before anything runs, or gone around."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import botocore.client
import pytest

from prefect_coiled.aws import baked_images
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find
from prefect_coiled.aws.own_network import check_own_network
from prefect_coiled.aws.public_access import find_block
from prefect_coiled.environment import Lock, Locked
from prefect_coiled.environment.records import Wheel
from prefect_coiled.errors import NoCapacityError, OptionsError, PrefectCoiledError, ProvisionError
from prefect_coiled.options import NetworkIds
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import (
    bake_image,
    create_cluster,
    delete_cluster,
    set_up_account,
    take_inventory,
)
from prefect_coiled.provision.obstacles import find_obstacles
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session
from tests.provision.laid import Lay, live, refusing

Spec = Callable[..., ClusterSpec]
Show = Callable[[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]], None]
_call: Any = botocore.client.BaseClient.__dict__["_make_api_call"]


pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Change what an EC2 call answers, given what was asked and answered."""

    def over(operation: str, change: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]) -> None:
        def call(self: Any, name: str, asked: dict[str, Any]) -> Any:
            reply = _call(self, name, asked)
            ec2 = self.meta.service_model.service_name == "ec2"
            return change(asked, reply) if name == operation and ec2 else reply

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)

    return over


def blocking(key: str, mode: str) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    """https://docs.aws.amazon.com/vpc/latest/userguide/security-vpc-bpa.html"""
    states = {"BlockPublicAccessStates": {"InternetGatewayBlockMode": mode}}
    return lambda asked, reply: {**reply, key: [{**one, **states} for one in reply[key]]}


@pytest.mark.parametrize("mode", ["block-bidirectional", "block-ingress"])
def test_block_public_access_is_said_before_machines_run_that_reach_nothing(
    session: Session, aws: Aws, spec: Spec, sandbox: Sandbox, show: Show, mode: str
) -> None:
    set_up_account("team", "us-east-1", every_zone=False)
    show("DescribeSubnets", blocking("Subnets", mode))
    with pytest.raises(ProvisionError, match=rf"Block Public Access \({mode}\).*Exclude vpc-"):
        create_cluster(spec())
    assert live(sandbox) == []
    assert mode in find_block(aws)
    show("DescribeSubnets", blocking("Subnets", "off"))
    assert find_block(aws) == ""


def test_block_public_access_is_known_before_the_account_has_a_network(
    aws: Aws, sandbox: Sandbox, show: Show
) -> None:
    sandbox.reset()
    sandbox.set(boot="none")
    show("DescribeVpcs", blocking("Vpcs", "block-bidirectional"))
    assert find_block(aws).startswith("A new VPC: VPC Block Public Access (block-bidirectional)")


@pytest.mark.parametrize(("mode", "refused"), [("block-ingress", True), ("off", False)])
def test_a_network_of_ones_own_is_looked_at_for_block_public_access(
    aws: Aws, sandbox: Sandbox, show: Show, mode: str, refused: bool
) -> None:
    ec2 = sandbox.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    wanted = [{"Name": "vpc-id", "Values": [vpc]}]
    subnet = ec2.describe_subnets(Filters=wanted)["Subnets"][0]["SubnetId"]
    gateways = ec2.describe_internet_gateways(Filters=[{"Name": "attachment.vpc-id", "Values": [vpc]}])
    table = ec2.describe_route_tables(Filters=wanted)["RouteTables"][0]["RouteTableId"]
    if not gateways["InternetGateways"]:
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    show("DescribeSubnets", blocking("Subnets", mode))
    ids = NetworkIds(network_id=vpc, scheduler_subnet_id=subnet, give_workers_public_ip=True)
    said = f"scheduler_subnet_id {subnet} is closed by VPC Block Public Access"
    with pytest.raises(OptionsError, match=said) if refused else nullcontext():
        check_own_network(aws, ids, public_scheduler=True, egress="nat")


@pytest.fixture
def open_network(sandbox: Sandbox) -> NetworkIds:
    """A network of one's own, with a way out."""
    sandbox.reset()
    sandbox.set(boot="none")
    ec2 = sandbox.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.20.0.0/24")["Subnet"]["SubnetId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_route(
        RouteTableId=tables[0]["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway
    )
    return NetworkIds(network_id=vpc, scheduler_subnet_id=subnet, give_workers_public_ip=True)


def rule_of(
    acl: dict[str, Any], number: int, action: str, out: bool, ports: tuple[int, int]
) -> dict[str, Any]:
    return {
        "NetworkAclId": acl["NetworkAclId"],
        "RuleNumber": number,
        "Protocol": "6",
        "RuleAction": action,
        "Egress": out,
        "CidrBlock": "0.0.0.0/0",
        "PortRange": {"From": ports[0], "To": ports[1]},
    }


@pytest.mark.parametrize(
    ("out", "ports", "said"),
    [
        (True, (0, 65535), "lets nothing out to port 443 and lets no answers out"),
        (True, (443, 443), "lets nothing out to port 443"),
        (False, (1024, 65535), "lets no answers in and lets nobody in at port 8786"),
        (False, (8786, 8786), "lets nobody in at port 8786"),
        (False, (22, 22), ""),
    ],
)
def test_a_network_acl_that_denies_is_said_before_machines_run_that_reach_nothing(
    aws: Aws, sandbox: Sandbox, open_network: NetworkIds, out: bool, ports: tuple[int, int], said: str
) -> None:
    ec2, ids = sandbox.client("ec2"), open_network
    check_own_network(aws, ids, public_scheduler=True, egress="nat")
    wanted = [{"Name": "vpc-id", "Values": [ids.network_id]}]
    (acl,) = ec2.describe_network_acls(Filters=wanted)["NetworkAcls"]
    ec2.create_network_acl_entry(**rule_of(acl, 50, "deny", out, ports))
    with pytest.raises(OptionsError, match=said) if said else nullcontext() as caught:
        check_own_network(aws, ids, public_scheduler=True, egress="nat")
    assert caught is None or acl["NetworkAclId"] in str(caught.value)
    ec2.create_network_acl_entry(**rule_of(acl, 40, "allow", out, ports))
    check_own_network(aws, ids, public_scheduler=True, egress="nat")


def test_a_vpc_without_name_servers_is_said(aws: Aws, sandbox: Sandbox, open_network: NetworkIds) -> None:
    ec2 = sandbox.client("ec2")

    def give(key: str, value: str) -> None:
        made = ec2.create_dhcp_options(DhcpConfigurations=[{"Key": key, "Values": [value]}])["DhcpOptions"]
        ec2.associate_dhcp_options(DhcpOptionsId=made["DhcpOptionsId"], VpcId=open_network.network_id)

    give("domain-name", "corp.example")
    with pytest.raises(OptionsError, match=r"name no DNS server.*AmazonProvidedDNS"):
        check_own_network(aws, open_network, public_scheduler=True, egress="nat")
    give("domain-name-servers", "AmazonProvidedDNS")
    check_own_network(aws, open_network, public_scheduler=True, egress="nat")


def test_dedicated_tenancy_is_said_with_its_price(
    aws: Aws, open_network: NetworkIds, show: Show, caplog: pytest.LogCaptureFixture
) -> None:
    def dedicated(asked: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
        return {**reply, "Vpcs": [{**vpc, "InstanceTenancy": "dedicated"} for vpc in reply["Vpcs"]]}

    show("DescribeVpcs", dedicated)
    check_own_network(aws, open_network, public_scheduler=True, egress="nat")
    assert "dedicated tenancy" in caplog.text
    assert "2 US dollars an hour" in caplog.text


def test_a_launch_that_dedicated_tenancy_keeps_from_coming_says_so(
    session: Session, sandbox: Sandbox, spec: Spec, open_network: NetworkIds, show: Show
) -> None:
    def dedicated(asked: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
        return {**reply, "Vpcs": [{**vpc, "InstanceTenancy": "dedicated"} for vpc in reply["Vpcs"]]}

    refused = {"service": "ec2", "action": "RunInstances", "effect": "error", "code": "Unsupported"}
    own = {"backend_options": {"network": open_network, "egress": "public-ip"}}
    sandbox.faults([{**refused, "status": 400, "message": "The requested configuration is not supported."}])
    with pytest.raises(NoCapacityError, match="Allow more vm_types"):
        create_cluster(spec(**own))
    show("DescribeVpcs", dedicated)
    with pytest.raises(NoCapacityError, match=r"has dedicated tenancy.*Choose vm_types that can"):
        create_cluster(spec(**own))
    assert live(sandbox) == []


def test_what_keeps_the_accounts_clusters_from_coming_up_is_found_beforehand(
    session: Session, aws: Aws, sandbox: Sandbox, spec: Spec, lay: Lay
) -> None:
    sandbox.reset()
    sandbox.set(boot="none")
    set_up_account("team", "us-east-1")
    assert find_obstacles(aws, spec()) == []
    (vpc,) = find(aws, KINDS["vpc"])
    ec2 = sandbox.client("ec2")
    acls = ec2.describe_network_acls(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["NetworkAcls"]
    ec2.create_network_acl_entry(**rule_of(acls[0], 50, "deny", True, (0, 65535)))
    lay(refusing("ec2:DescribeImages", "InvalidAMIID.NotFound"))
    *ways, image = find_obstacles(aws, spec())
    assert ways
    assert all("lets nothing out to port 443" in way for way in ways)
    assert "Allowed AMIs" in image
    lay(refusing("ec2:DescribeNetworkAcls", "UnauthorizedOperation"))  # a policy from before that
    assert find_obstacles(aws, spec()) == []


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "InternalError", "RequestLimitExceeded"])
@pytest.mark.parametrize(
    "call", ["DescribeSubnets", "DescribeVpcs", "DescribeNetworkAcls", "DescribeDhcpOptions"]
)
def test_what_is_seen_is_said_where_another_look_is_refused(
    aws: Aws, spec: Spec, lay: Lay, call: str, code: str
) -> None:
    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        codes = {f"ec2:{call}": code, "ec2:DescribeImages": "InvalidAMIID.NotFound"}
        return (codes[action], "No.") if action in codes else None

    lay(rule)
    assert "Allowed AMIs" in find_obstacles(aws, spec())[-1]


def closing(*zones: str) -> Callable[[str, dict[str, Any]], tuple[str, str] | None]:
    """Zones that take no new subnets: https://github.com/hashicorp/terraform/issues/3434"""

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        if action != "ec2:CreateSubnet" or (zone := asked["AvailabilityZone"]) not in zones:
            return None
        return (
            "InvalidParameterValue",
            f"Value ({zone}) for parameter availabilityZone is invalid. Subnets ...",
        )

    return rule


def test_a_zone_that_takes_no_new_subnets_is_gone_around(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay
) -> None:
    sandbox.reset()
    sandbox.set(boot="none")
    lay(closing("us-east-1a", "us-east-1c"))
    record = create_cluster(spec())
    assert {m.zone for m in (record.scheduler, *record.workers)} == {"us-east-1b"}
    delete_cluster("team", "us-east-1", record.name, record.uid)
    with pytest.raises(ProvisionError, match=r"us-east-1a.*makes no new subnets in it.*us-east-1b"):
        create_cluster(spec(backend_options={"zone": "us-east-1a"}))
    assert live(sandbox) == []


def test_where_no_zone_takes_new_subnets_it_is_said_why(session: Session, sandbox: Sandbox, lay: Lay) -> None:
    sandbox.reset()
    sandbox.set(boot="none")
    lay(closing(*(f"us-east-1{letter}" for letter in "abcdef")))
    with pytest.raises(NoCapacityError, match="AWS makes no new subnets of this AWS account in us-east-1"):
        set_up_account("team", "us-east-1")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("InvalidParameterValue", "Invalid value 'gp3' for VolumeType."),
        ("UnknownVolumeType", "Unknown volume type 'gp3'"),
        ("VolumeTypeNotAvailableInZone", "The volume type 'gp3' is not available in this zone."),
    ],
)
def test_where_a_zone_has_no_disks_of_that_kind_the_next_one_is_taken(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay, code: str, message: str
) -> None:
    set_up_account("team", "us-east-1")
    wanted = [{"Name": "availability-zone", "Values": ["us-east-1a"]}]
    first = {s["SubnetId"] for s in sandbox.client("ec2").describe_subnets(Filters=wanted)["Subnets"]}

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        here = action == "ec2:RunInstances" and asked["NetworkInterfaces"][0]["SubnetId"] in first
        return (code, message) if here else None

    lay(rule)
    record = create_cluster(spec())
    assert {m.zone for m in (record.scheduler, *record.workers)} == {"us-east-1b"}
    delete_cluster("team", "us-east-1", record.name, record.uid)
    lay(refusing("ec2:RunInstances", code, message=message))
    with pytest.raises(NoCapacityError, match="Local or Wavelength Zone"):
        create_cluster(spec())


def test_a_profile_whose_role_ec2_does_not_see_yet_is_waited_for(
    session: Session, spec: Spec, lay: Lay
) -> None:
    said = (
        'IAM Instance Profile "arn:aws:iam::123456789012:instance-profile/team" has no associated IAM Roles'
    )
    lay(refusing("ec2:RunInstances", "InvalidParameterValue", times=2, message=said))
    record = create_cluster(spec())
    assert len(record.workers) == 2
    delete_cluster("team", "us-east-1", record.name, record.uid)


def test_an_image_that_somebody_disabled_is_seen_and_removed(
    aws: Aws, sandbox: Sandbox, show: Show, spec: Spec
) -> None:
    ec2 = sandbox.client("ec2")
    base = ec2.describe_images(Owners=["amazon"], MaxResults=5)["Images"][0]["ImageId"]
    machine = ec2.run_instances(ImageId=base, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"][0]
    ec2.get_waiter("instance_running").wait(InstanceIds=[machine["InstanceId"]])
    wheel = Wheel(name="uv", version="1", file="uv.whl", sha256="0" * 64)
    lock = Lock(python="3.11.9", architecture="x86_64", wheels=(), uv=wheel)
    baked_images.create_baked_image(
        aws, machine["InstanceId"], "coiled-team-x", lock.environment_hash, "3.11"
    )
    ec2.terminate_instances(InstanceIds=[machine["InstanceId"]])

    def disabled(asked: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
        images = [{**one, "State": "disabled"} for one in reply["Images"]]
        return {**reply, "Images": images if asked.get("IncludeDisabled") else []}

    show("DescribeImages", disabled)
    assert [image.state for image in baked_images.find_baked_images(aws)] == ["disabled"]
    # No machine starts from it, and its name is taken: its packages are not baked again.
    session = Session(aws)
    session.locked = Locked(lock, {})
    with use_session(session), pytest.raises(ProvisionError, match=r"is disabled\. Enable it, or deregister"):
        bake_image(spec())
    assert live(sandbox) == []
    row = KINDS["image"]
    assert row.delete is not None
    row.delete(aws, find(aws, row))
    assert find(aws, row) == []


@pytest.mark.parametrize(("state", "stays"), [("failed", False), ("pending", True)])
def test_an_image_that_does_not_come_gives_its_name_back_or_is_told(
    aws: Aws, sandbox: Sandbox, show: Show, state: str, stays: bool
) -> None:
    ec2 = sandbox.client("ec2")
    base = ec2.describe_images(Owners=["amazon"], MaxResults=5)["Images"][0]["ImageId"]
    machine = ec2.run_instances(ImageId=base, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"][0]
    ec2.get_waiter("instance_running").wait(InstanceIds=[machine["InstanceId"]])
    made = baked_images.create_baked_image(aws, machine["InstanceId"], f"coiled-{state}", "abc", "3.11")
    ec2.terminate_instances(InstanceIds=[machine["InstanceId"]])
    show("DescribeImages", lambda asked, reply: {"Images": [{**i, "State": state} for i in reply["Images"]]})
    with pytest.raises(ProvisionError, match=made) as caught:
        baked_images.wait_baked_image(aws, made, timeout=0.5)
    assert list(caught.value.left) == ([made] if stays else [])
    there = {image["ImageId"] for image in ec2.describe_images(Owners=["self"])["Images"]}
    assert (made in there) is stays


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("ec2:CreateVpc", "UnauthorizedOperation"),
        ("ec2:ModifyVpcAttribute", "InvalidParameterValue"),
        ("ec2:CreateRoute", "RouteLimitExceeded"),
        ("iam:CreateRole", "LimitExceeded"),
        ("ecr:CreateRepository", "LimitExceededException"),
        ("ec2:CreateSubnet", "UnauthorizedOperation"),
    ],
)
def test_a_set_up_that_fails_says_what_it_made_that_costs_something(
    session: Session, aws: Aws, sandbox: Sandbox, lay: Lay, call: str, code: str
) -> None:
    sandbox.reset()
    sandbox.set(boot="none")
    lay(refusing(call, code))
    with pytest.raises(PrefectCoiledError) as caught:
        set_up_account("team", "us-east-1")
    lay(lambda action, asked: None)
    costly = {one.resource_id for one in take_inventory(aws, costly=True) if one.usd_per_hour}
    assert costly <= set(caught.value.left)
    assert all("an hour" in why for why in caught.value.left.values())
    set_up_account("team", "us-east-1")  # goes on with it
    assert costly <= {one.resource_id for one in take_inventory(aws, costly=True)}
