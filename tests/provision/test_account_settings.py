"""Settings of an AWS account, of its zones and of somebody's network: come through, or said in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import botocore.client
import pytest

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.images import find_image
from prefect_coiled.aws.kinds import KINDS, find
from prefect_coiled.aws.own_network import check_own_network
from prefect_coiled.errors import AccessDeniedError, NoCapacityError, OptionsError, ProvisionError
from prefect_coiled.options import NetworkIds
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import create_cluster, delete_cluster, set_up_account
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session
from tests.provision.laid import Lay, refusing

Spec = Callable[..., ClusterSpec]


pytestmark = pytest.mark.usefixtures("nothing_is_left")


def test_tags_of_any_characters_go_with_an_aws_account_that_shows_tags_in_metadata(
    session: Session, spec: Spec, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = botocore.client.BaseClient._make_api_call

    def shown(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "CreateLaunchTemplate":  # the AWS account's own default
            data = parameters["LaunchTemplateData"]
            options = {"InstanceMetadataTags": "enabled", **data["MetadataOptions"]}
            parameters = {**parameters, "LaunchTemplateData": {**data, "MetadataOptions": options}}
        return call(self, operation, parameters)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", shown)
    record = create_cluster(spec(tags={"cost center": "4 / 7"}))
    assert len(record.workers) == 2
    delete_cluster("team", "us-east-1", record.name, record.uid)


@pytest.mark.parametrize("answer", ["not found", "not shown"])
def test_an_image_that_the_aws_account_does_not_allow_is_told_as_that(
    aws: Aws, lay: Lay, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    if answer == "not found":
        lay(refusing("ec2:DescribeImages", "InvalidAMIID.NotFound"))
    else:
        call = botocore.client.BaseClient._make_api_call

        def hidden(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
            return {"Images": []} if operation == "DescribeImages" else call(self, operation, parameters)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", hidden)
    with pytest.raises(ProvisionError, match="Allowed AMIs"):
        find_image(aws, "x86_64")


def test_a_subnet_of_ipv6_alone_is_refused_before_anything_is_made(
    aws: Aws, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2 = sandbox.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    wanted = [{"Name": "vpc-id", "Values": [vpc]}]
    subnet = ec2.describe_subnets(Filters=wanted)["Subnets"][0]["SubnetId"]
    call = botocore.client.BaseClient._make_api_call

    def six(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        reply = call(self, operation, parameters)
        if operation == "DescribeSubnets":
            reply["Subnets"] = [
                {**{k: v for k, v in s.items() if k != "CidrBlock"}, "Ipv6Native": True}
                for s in reply["Subnets"]
            ]
        return reply

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", six)
    ids = NetworkIds(network_id=vpc, scheduler_subnet_id=subnet, give_workers_public_ip=True)
    with pytest.raises(OptionsError, match=f"{subnet} has IPv6 addresses only"):
        check_own_network(aws, ids, public_scheduler=True, egress="nat")


def test_a_deny_for_want_of_mfa_says_so(aws: Aws, lay: Lay) -> None:
    by = "User: x is not authorized to perform: {} on resource: * with an explicit deny in an identity-based"
    text = f"{by.format('ec2:DescribeVpcs')} policy"
    lay(refusing("ec2:DescribeVpcs", "UnauthorizedOperation", message=text))
    with pytest.raises(AccessDeniedError, match=r"an identity-based policy stands in the way.*MFA"):
        aws.call("ec2:DescribeVpcs", "finding VPCs")


NO_NAT = ("NotAvailableInZone", "Nat Gateway is not available in this availability zone")


def test_where_a_zone_has_no_nat_gateways_that_of_the_next_one_is_for_all(
    session: Session, aws: Aws, sandbox: Sandbox, lay: Lay
) -> None:
    sandbox.reset()
    sandbox.set(boot="none")
    set_up_account("team", "us-east-1", egress="none")
    subnets = sandbox.client("ec2").describe_subnets()["Subnets"]
    first = {s["SubnetId"] for s in subnets if s["AvailabilityZone"] == "us-east-1a"}

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        return NO_NAT if action == "ec2:CreateNatGateway" and asked["SubnetId"] in first else None

    lay(rule)
    set_up_account("team", "us-east-1")
    (gateway,) = find(aws, KINDS["nat gateway"])
    assert gateway["SubnetId"] not in first
    assert len(find(aws, KINDS["elastic address"])) == 1
    routes = {
        r.get("NatGatewayId")
        for table in find(aws, KINDS["route table"])
        for r in table["Routes"]
        if r.get("DestinationCidrBlock") == "0.0.0.0/0"
    }
    assert gateway["NatGatewayId"] in routes
    # Run again, there is nothing to do.
    before = sandbox.client("ec2").describe_nat_gateways()["NatGateways"]
    set_up_account("team", "us-east-1")
    assert sandbox.client("ec2").describe_nat_gateways()["NatGateways"] == before


def test_where_no_zone_has_nat_gateways_the_error_says_what_does_without(
    session: Session, sandbox: Sandbox, lay: Lay
) -> None:
    sandbox.reset()
    sandbox.set(boot="none")
    lay(refusing("ec2:CreateNatGateway", NO_NAT[0], message=NO_NAT[1]))
    with pytest.raises(NoCapacityError, match='egress="public-ip"'):
        set_up_account("team", "us-east-1")
