"""AWS's rules strike: each row of the table has a call that is refused with AWS's code, by plain boto3.

What a client would refuse by itself is sent as it is (`parameter_validation=False`). Beside the call that is
refused stands one just within the rule, where there is one.
"""

from __future__ import annotations

import base64
import json
import runpy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from prefect_coiled.sandbox import Sandbox
from prefect_coiled.sandbox.rules.table import rows

ROOT = Path(__file__).parents[2]
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
ALLOW = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
PLAIN = Config(parameter_validation=False, retries={"total_max_attempts": 1})


class Here:
    """A sandbox with a network, a role, a bucket, a log group: what rules are tried on."""

    def __init__(self, sandbox: Sandbox, trust: str) -> None:
        self.sandbox, self.trust = sandbox, trust
        self.image = self.of("ssm").get_parameter(Name=IMAGE)["Parameter"]["Value"]
        ec2 = self.of("ec2")
        self.vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.add_subnet("10.0.0.0/20")
        self.group = self.add_group("workers")
        self.gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.vpc)
        self.table = ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        self.of("iam").create_role(RoleName="node", AssumeRolePolicyDocument=trust)
        self.of("iam").create_instance_profile(InstanceProfileName="node")
        self.of("iam").add_role_to_instance_profile(InstanceProfileName="node", RoleName="node")
        self.of("s3").create_bucket(Bucket="rules")
        self.of("logs").create_log_group(logGroupName="group")
        self.of("logs").create_log_stream(logGroupName="group", logStreamName="stream")
        self.of("ecr").create_repository(repositoryName="images")

    def of(self, service: str, region: str = "us-east-1") -> Any:
        return self.sandbox.client(service, region, config=PLAIN)

    def add_subnet(self, block: str) -> str:
        made = self.of("ec2").create_subnet(VpcId=self.vpc, CidrBlock=block, AvailabilityZone="us-east-1a")
        return str(made["Subnet"]["SubnetId"])

    def add_group(self, name: str) -> str:
        return str(
            self.of("ec2").create_security_group(GroupName=name, Description=name, VpcId=self.vpc)["GroupId"]
        )

    def default_group(self) -> str:
        of_vpc = [{"Name": "vpc-id", "Values": [self.vpc]}, {"Name": "group-name", "Values": ["default"]}]
        return str(self.of("ec2").describe_security_groups(Filters=of_vpc)["SecurityGroups"][0]["GroupId"])

    def launch(self, **options: Any) -> dict[str, Any]:
        """The parameters of a launch that is well, and what is asked for besides."""
        interfaces = {} if "NetworkInterfaces" in options else {"SubnetId": self.subnet}
        base = {"ImageId": self.image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        return {**base, **interfaces, **options}

    def run(self, **options: Any) -> list[str]:
        made = self.of("ec2").run_instances(**self.launch(**options))["Instances"]
        return [instance["InstanceId"] for instance in made]


@pytest.fixture(scope="module")
def here(trust: str) -> Iterator[Here]:
    with Sandbox({"boot": "none"}) as sandbox:
        yield Here(sandbox, trust)


def code_of(call: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


# -- calls that are refused by themselves --------------------------------------------------------------------

Params = Callable[[Here], dict[str, Any]]
# The row, the service, the operation, what is refused, the code, and what is just within.
Case = tuple[str, str, str, Params, str, Params | None]


def filters(name: str, *values: str) -> dict[str, Any]:
    return {"Filters": [{"Name": name, "Values": list(values)}]}


def tagged(*tags: tuple[str, str], kind: str = "internet-gateway") -> dict[str, Any]:
    listed = [{"Key": key, "Value": value} for key, value in tags]
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": listed}]}


def many(n: int) -> list[tuple[str, str]]:
    return [(f"key-{number}", "") for number in range(n)]


def pairs(*tags: tuple[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags]


def interface(here: Here, **more: Any) -> dict[str, Any]:
    return {"DeviceIndex": 0, "SubnetId": here.subnet, **more}


def permission(**more: Any) -> dict[str, Any]:
    source = [{"CidrIp": "10.0.0.0/8"}]
    return {"IpPermissions": [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "IpRanges": source, **more}]}


def volume(**ebs: Any) -> dict[str, Any]:
    return {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": ebs}]}


def events(*at: tuple[int, int]) -> dict[str, Any]:
    """Events so many milliseconds from now, each of so many bytes."""
    now = int(time.time() * 1000)
    listed = [{"timestamp": now + offset, "message": "m" * size} for offset, size in at]
    return {"logGroupName": "group", "logStreamName": "stream", "logEvents": listed}


def policy(**fields: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{**ALLOW, **fields}]})


def parameter(**fields: Any) -> dict[str, Any]:
    return {"Name": "/rules/a", "Value": "v", "Type": "String", "Overwrite": True, **fields}


INVALID, COMBINATION, MISSING = "InvalidParameterValue", "InvalidParameterCombination", "MissingParameter"
EC2: list[Case] = [
    ("ec2-model", "ec2", "delete_vpc", lambda h: {}, MISSING, None),
    (
        "ec2-model",
        "ec2",
        "describe_subnets",
        lambda h: {"MaxResults": 4},
        INVALID,
        lambda h: {"MaxResults": 5},
    ),
    (
        "ec2-model",
        "ec2",
        "describe_subnets",
        lambda h: {"MaxResults": 1001},
        INVALID,
        lambda h: {"MaxResults": 1000},
    ),
    (
        "ec2-model",
        "ec2",
        "create_vpc",
        lambda h: {"CidrBlock": "10.9.0.0/16", "InstanceTenancy": "odd"},
        INVALID,
        None,
    ),
    (
        "ec2-model",
        "ec2",
        "describe_launch_templates",
        lambda h: {"LaunchTemplateNames": ["a b c"]},
        "InvalidLaunchTemplateName.MalformedException",
        None,
    ),
    (
        "ec2-filter-values",
        "ec2",
        "describe_instances",
        lambda h: filters("instance-id", *(f"i-{n:08x}" for n in range(201))),
        "FilterLimitExceeded",
        lambda h: filters("instance-id", *(f"i-{n:08x}" for n in range(200))),
    ),
    (
        "ec2-filter-count",
        "ec2",
        "describe_vpcs",
        lambda h: {"Filters": filters("vpc-id", "vpc-1")["Filters"] * 51},
        "FilterLimitExceeded",
        lambda h: {"Filters": filters("vpc-id", "vpc-1")["Filters"] * 50},
    ),
    (
        "ec2-filter-length",
        "ec2",
        "describe_instances",
        lambda h: filters("tag:a", "x" * 256),
        "FilterLimitExceeded",
        lambda h: filters("tag:a", "x" * 255),
    ),
    ("ec2-filter-whole", "ec2", "describe_vpcs", lambda h: {"Filters": [{"Name": "vpc-id"}]}, INVALID, None),
    (
        "ec2-filter-names",
        "ec2",
        "describe_instances",
        lambda h: filters("colour", "red"),
        INVALID,
        lambda h: filters("tag:colour", "red"),
    ),
    (
        "ec2-filter-names",
        "ec2",
        "describe_nat_gateways",
        lambda h: {"Filter": filters("subnet", "x")["Filters"]},
        INVALID,
        lambda h: {"Filter": filters("subnet-id", "x")["Filters"]},
    ),
    (
        "ec2-page-size",
        "ec2",
        "describe_instances",
        lambda h: {"MaxResults": 4},
        INVALID,
        lambda h: {"MaxResults": 5},
    ),
    ("ec2-page-size", "ec2", "describe_volumes", lambda h: {"MaxResults": 1001}, INVALID, None),
    (
        "ec2-page-of-ids",
        "ec2",
        "describe_instances",
        lambda h: {"MaxResults": 5, "InstanceIds": ["i-12345678"]},
        COMBINATION,
        None,
    ),
    (
        "ec2-id-form",
        "ec2",
        "describe_instances",
        lambda h: {"InstanceIds": ["vpc-12345678"]},
        "InvalidInstanceID.Malformed",
        None,
    ),
    ("ec2-id-form", "ec2", "delete_vpc", lambda h: {"VpcId": "vpc-xyz"}, "InvalidVpcID.Malformed", None),
    (
        "ec2-id-count",
        "ec2",
        "terminate_instances",
        lambda h: {"InstanceIds": [f"i-{n:08x}" for n in range(1001)]},
        INVALID,
        None,
    ),
    (
        "ec2-token",
        "ec2",
        "run_instances",
        lambda h: h.launch(ClientToken="x" * 65),
        INVALID,
        lambda h: h.launch(ClientToken="x" * 64),
    ),
    (
        "ec2-tag-count",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(*many(51)),
        "TagLimitExceeded",
        lambda h: tagged(*many(50)),
    ),
    (
        "ec2-tag-length",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(("k", "v" * 257)),
        INVALID,
        lambda h: tagged(("k" * 128, "v" * 256)),
    ),
    ("ec2-tag-length", "ec2", "create_internet_gateway", lambda h: tagged(("k" * 129, "")), INVALID, None),
    (
        "ec2-tag-reserved",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(("aws:x", "")),
        INVALID,
        lambda h: tagged(("R&D, (all)", "é")),
    ),
    (
        "ec2-tag-once",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(("a", "1"), ("a", "2")),
        INVALID,
        None,
    ),
    (
        "ec2-tag-kinds",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(("a", "1"), kind="vpc"),
        INVALID,
        None,
    ),
    (
        "ec2-tag-kinds",
        "ec2",
        "run_instances",
        lambda h: h.launch(TagSpecifications=tagged(("a", "1"), kind="instance")["TagSpecifications"] * 2),
        INVALID,
        None,
    ),
    ("ec2-launch-count", "ec2", "run_instances", lambda h: h.launch(MinCount=2), INVALID, None),
    ("ec2-launch-user-data", "ec2", "run_instances", lambda h: h.launch(UserData="#" * 16385), INVALID, None),
    (
        "ec2-launch-double",
        "ec2",
        "run_instances",
        lambda h: h.launch(NetworkInterfaces=[interface(h)], SecurityGroupIds=[h.group]),
        COMBINATION,
        None,
    ),
    ("ec2-launch-type", "ec2", "run_instances", lambda h: h.launch(InstanceType="z9.mega"), INVALID, None),
    (
        "ec2-launch-image",
        "ec2",
        "run_instances",
        lambda h: h.launch(ImageId="ami-00000000000000000"),
        "InvalidAMIID.NotFound",
        None,
    ),
    (
        "ec2-launch-profile",
        "ec2",
        "run_instances",
        lambda h: h.launch(IamInstanceProfile={"Name": "nobody"}),
        INVALID,
        lambda h: h.launch(IamInstanceProfile={"Name": "node"}),
    ),
    (
        "ec2-profile-once",
        "ec2",
        "run_instances",
        lambda h: h.launch(
            IamInstanceProfile={"Name": "node", "Arn": "arn:aws:iam::1:instance-profile/node"}
        ),
        COMBINATION,
        None,
    ),
    (
        "ec2-groups-of-interface",
        "ec2",
        "run_instances",
        lambda h: h.launch(NetworkInterfaces=[interface(h, Groups=[h.group] * 6)]),
        "SecurityGroupsPerInterfaceLimitExceeded",
        None,
    ),
    (
        "ec2-public-address",
        "ec2",
        "run_instances",
        lambda h: h.launch(
            NetworkInterfaces=[interface(h, AssociatePublicIpAddress=True), interface(h, DeviceIndex=1)]
        ),
        COMBINATION,
        lambda h: h.launch(NetworkInterfaces=[interface(h, AssociatePublicIpAddress=True)]),
    ),
    (
        "ec2-device-index",
        "ec2",
        "run_instances",
        lambda h: h.launch(NetworkInterfaces=[{"SubnetId": h.subnet}]),
        MISSING,
        None,
    ),
    (
        "ec2-private-address",
        "ec2",
        "run_instances",
        lambda h: h.launch(PrivateIpAddress="10.0.0.77", MaxCount=2),
        COMBINATION,
        None,
    ),
    (
        "ec2-hop-limit",
        "ec2",
        "run_instances",
        lambda h: h.launch(MetadataOptions={"HttpPutResponseHopLimit": 65}),
        INVALID,
        lambda h: h.launch(MetadataOptions={"HttpPutResponseHopLimit": 64}),
    ),
    (
        "ec2-spot-options",
        "ec2",
        "run_instances",
        lambda h: h.launch(
            InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "persistent"}}
        ),
        COMBINATION,
        lambda h: h.launch(
            InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
        ),
    ),
    (
        "ec2-volume-size",
        "ec2",
        "run_instances",
        lambda h: h.launch(**volume(VolumeType="gp2", VolumeSize=16385)),
        INVALID,
        lambda h: h.launch(**volume(VolumeType="gp3", VolumeSize=16385)),
    ),
    (
        "ec2-volume-speed",
        "ec2",
        "run_instances",
        lambda h: h.launch(**volume(VolumeType="gp2", Throughput=200)),
        COMBINATION,
        lambda h: h.launch(**volume(VolumeType="gp3", Throughput=200, VolumeSize=8)),
    ),
    (
        "ec2-template-once",
        "ec2",
        "delete_launch_template",
        lambda h: {"LaunchTemplateId": "lt-12345678", "LaunchTemplateName": "abc"},
        COMBINATION,
        None,
    ),
    (
        "ec2-key-pair",
        "ec2",
        "run_instances",
        lambda h: h.launch(KeyName="nobody"),
        "InvalidKeyPair.NotFound",
        None,
    ),
    ("ec2-block", "ec2", "create_vpc", lambda h: {"CidrBlock": "10.0.0.0"}, INVALID, None),
    ("ec2-vpc-block", "ec2", "create_vpc", lambda h: {"CidrBlock": "10.0.0.0/8"}, "InvalidVpc.Range", None),
    (
        "ec2-subnet-block",
        "ec2",
        "create_subnet",
        lambda h: {"VpcId": h.vpc, "CidrBlock": "10.1.0.0/24"},
        "InvalidSubnet.Range",
        None,
    ),
    (
        "ec2-subnet-block",
        "ec2",
        "create_subnet",
        lambda h: {"VpcId": h.vpc, "CidrBlock": "10.0.0.0/24"},
        "InvalidSubnet.Conflict",
        None,
    ),
    (
        "ec2-vpc-attribute",
        "ec2",
        "modify_vpc_attribute",
        lambda h: {
            "VpcId": h.vpc,
            "EnableDnsSupport": {"Value": True},
            "EnableDnsHostnames": {"Value": True},
        },
        COMBINATION,
        lambda h: {"VpcId": h.vpc, "EnableDnsSupport": {"Value": True}},
    ),
    (
        "ec2-route-target",
        "ec2",
        "create_route",
        lambda h: {"RouteTableId": h.table, "DestinationCidrBlock": "0.0.0.0/0"},
        MISSING,
        None,
    ),
    (
        "ec2-endpoint-parts",
        "ec2",
        "create_vpc_endpoint",
        lambda h: {"VpcId": h.vpc, "ServiceName": "com.amazonaws.us-east-1.s3", "SubnetIds": [h.subnet]},
        "InvalidParameter",
        None,
    ),
    (
        "ec2-endpoint-service",
        "ec2",
        "create_vpc_endpoint",
        lambda h: {"VpcId": h.vpc, "ServiceName": "com.amazonaws.eu-west-1.s3"},
        "InvalidServiceName",
        None,
    ),
    ("ec2-nat-address", "ec2", "create_nat_gateway", lambda h: {"SubnetId": h.subnet}, MISSING, None),
    ("ec2-released-address", "ec2", "release_address", lambda h: {}, MISSING, None),
    (
        "ec2-gateway-once",
        "ec2",
        "attach_internet_gateway",
        lambda h: {"InternetGatewayId": h.gateway, "VpcId": h.vpc},
        "Resource.AlreadyAssociated",
        None,
    ),
    (
        "ec2-group-name",
        "ec2",
        "create_security_group",
        lambda h: {"GroupName": "sg-a", "Description": "x"},
        INVALID,
        None,
    ),
    (
        "ec2-group-name",
        "ec2",
        "create_security_group",
        lambda h: {"GroupName": "a" * 256, "Description": "x"},
        INVALID,
        lambda h: {"GroupName": "a" * 255, "Description": "x"},
    ),
    (
        "ec2-group-description",
        "ec2",
        "create_security_group",
        lambda h: {"GroupName": "b", "Description": "it's"},
        INVALID,
        lambda h: {"GroupName": "b", "Description": "its (own) #1 {all}!"},
    ),
    (
        "ec2-group-description",
        "ec2",
        "create_security_group",
        lambda h: {"GroupName": "c", "Description": "Größe"},
        INVALID,
        None,
    ),
    (
        "ec2-group-once",
        "ec2",
        "create_security_group",
        lambda h: {"GroupName": "workers", "Description": "x", "VpcId": h.vpc},
        "InvalidGroup.Duplicate",
        None,
    ),
    (
        "ec2-rule-description",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {
            "GroupId": h.group,
            **permission(IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "a -> b"}]),
        },
        INVALID,
        None,
    ),
    (
        "ec2-ports",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group, **permission(ToPort=65536)},
        INVALID,
        None,
    ),
    (
        "ec2-ports",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group, **permission(FromPort=3)},
        INVALID,
        None,
    ),
    (
        "ec2-rule-block",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group, **permission(IpRanges=[{"CidrIp": "10.0.0.0/33"}])},
        INVALID,
        None,
    ),
    (
        "ec2-rule-once",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group, **permission(IpRanges=[{"CidrIp": "10.0.0.0/8"}] * 2)},
        INVALID,
        None,
    ),
    (
        "ec2-group-rules",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {
            "GroupId": h.group,
            **permission(IpRanges=[{"CidrIp": f"10.1.{n}.0/24"} for n in range(61)]),
        },
        "RulesPerSecurityGroupLimitExceeded",
        None,
    ),
    (
        "ec2-image-name",
        "ec2",
        "create_image",
        lambda h: {"InstanceId": "i-12345678", "Name": "a:b:c"},
        "InvalidAMIName.Malformed",
        None,
    ),
    (
        "ec2-template-name",
        "ec2",
        "create_launch_template",
        lambda h: {"LaunchTemplateName": "a b c", "LaunchTemplateData": {"InstanceType": "t3.micro"}},
        "InvalidLaunchTemplateName.MalformedException",
        lambda h: {"LaunchTemplateName": "a(b)/c", "LaunchTemplateData": {"InstanceType": "t3.micro"}},
    ),
]
OTHERS: list[Case] = [
    ("iam-model", "iam", "get_role", lambda h: {"RoleName": "rôle"}, "ValidationError", None),
    (
        "iam-model",
        "iam",
        "create_role",
        lambda h: {"RoleName": "r" * 65, "AssumeRolePolicyDocument": h.trust},
        "ValidationError",
        lambda h: {"RoleName": "r" * 64, "AssumeRolePolicyDocument": h.trust},
    ),
    (
        "iam-model",
        "iam",
        "create_role",
        lambda h: {"RoleName": "t", "AssumeRolePolicyDocument": h.trust, "Tags": pairs(("team", "R&D"))},
        "ValidationError",
        lambda h: {
            "RoleName": "t",
            "AssumeRolePolicyDocument": h.trust,
            "Tags": pairs(("team", "Größe 1+2 = @_.:/-")),
        },
    ),
    ("iam-no-such", "iam", "get_role", lambda h: {"RoleName": "nobody"}, "NoSuchEntity", None),
    (
        "iam-trust-document",
        "iam",
        "create_role",
        lambda h: {"RoleName": "x", "AssumeRolePolicyDocument": "{}"},
        "MalformedPolicyDocument",
        None,
    ),
    (
        "iam-trust-size",
        "iam",
        "create_role",
        lambda h: {
            "RoleName": "x",
            "AssumeRolePolicyDocument": json.dumps({**json.loads(h.trust), "Id": "i" * 2048}),
        },
        "LimitExceeded",
        None,
    ),
    (
        "iam-document",
        "iam",
        "put_role_policy",
        lambda h: {"RoleName": "node", "PolicyName": "p", "PolicyDocument": policy(Effect="Maybe")},
        "MalformedPolicyDocument",
        lambda h: {"RoleName": "node", "PolicyName": "p", "PolicyDocument": policy()},
    ),
    (
        "iam-policy-size",
        "iam",
        "create_policy",
        lambda h: {"PolicyName": "big", "PolicyDocument": policy(Resource=["arn:aws:s3:::" + "b" * 6144])},
        "LimitExceeded",
        None,
    ),
    (
        "iam-inline-size",
        "iam",
        "put_role_policy",
        lambda h: {
            "RoleName": "node",
            "PolicyName": "big",
            "PolicyDocument": policy(Resource=["arn:aws:s3:::" + "b" * 10240]),
        },
        "LimitExceeded",
        None,
    ),
    (
        "iam-profile-role",
        "iam",
        "add_role_to_instance_profile",
        lambda h: {"InstanceProfileName": "node", "RoleName": "node"},
        "LimitExceeded",
        None,
    ),
    (
        "iam-name-once",
        "iam",
        "create_role",
        lambda h: {"RoleName": "NODE", "AssumeRolePolicyDocument": h.trust},
        "EntityAlreadyExists",
        None,
    ),
    (
        "iam-tags",
        "iam",
        "create_role",
        lambda h: {
            "RoleName": "x",
            "AssumeRolePolicyDocument": h.trust,
            "Tags": pairs(("a", "1"), ("A", "2")),
        },
        "InvalidInput",
        None,
    ),
    ("iam-delete-conflict", "iam", "delete_role", lambda h: {"RoleName": "node"}, "DeleteConflict", None),
    (
        "ssm-model",
        "ssm",
        "put_parameter",
        lambda h: parameter(Overwrite=False, Tags=pairs(("team", "R&D"))),
        "ValidationException",
        None,
    ),
    (
        "ssm-model",
        "ssm",
        "delete_parameters",
        lambda h: {"Names": [f"/x{n}" for n in range(11)]},
        "ValidationException",
        lambda h: {"Names": [f"/x{n}" for n in range(10)]},
    ),
    (
        "ssm-value-size",
        "ssm",
        "put_parameter",
        lambda h: parameter(Value="v" * 4097),
        "ValidationException",
        lambda h: parameter(Value="v" * 4096),
    ),
    (
        "ssm-value",
        "ssm",
        "put_parameter",
        lambda h: parameter(Value="{{ other }}"),
        "ValidationException",
        None,
    ),
    (
        "ssm-tags-or-overwrite",
        "ssm",
        "put_parameter",
        lambda h: parameter(Tags=pairs(("a", "1"))),
        "ValidationException",
        None,
    ),
    ("ssm-name", "ssm", "put_parameter", lambda h: parameter(Name="/rules/a b"), "ValidationException", None),
    (
        "ssm-name",
        "ssm",
        "put_parameter",
        lambda h: parameter(Name="/aws/service/x"),
        "AccessDeniedException",
        None,
    ),
    (
        "ssm-levels",
        "ssm",
        "put_parameter",
        lambda h: parameter(Name="/l" * 16),
        "HierarchyLevelLimitExceededException",
        lambda h: parameter(Name="/l" * 15),
    ),
    (
        "ssm-path",
        "ssm",
        "get_parameters_by_path",
        lambda h: {"Path": "rules"},
        "ValidationException",
        lambda h: {"Path": "/rules"},
    ),
    (
        "ssm-tag-count",
        "ssm",
        "put_parameter",
        lambda h: parameter(Name="/t", Overwrite=False, Tags=pairs(*many(51))),
        "TooManyTagsError",
        lambda h: parameter(Name="/t", Overwrite=False, Tags=pairs(*many(50))),
    ),
    (
        "ssm-tags",
        "ssm",
        "put_parameter",
        lambda h: parameter(Overwrite=False, Tags=pairs(("aws:a", "1"))),
        "ValidationException",
        None,
    ),
    ("ssm-no-such", "ssm", "get_parameter", lambda h: {"Name": "/nobody"}, "ParameterNotFound", None),
    (
        "logs-model",
        "logs",
        "create_log_stream",
        lambda h: {"logGroupName": "group", "logStreamName": "a:b"},
        "InvalidParameterException",
        None,
    ),
    (
        "logs-model",
        "logs",
        "create_log_group",
        lambda h: {"logGroupName": "g", "tags": {"team": "R&D"}},
        "InvalidParameterException",
        lambda h: {"logGroupName": "g", "tags": {"team": "R and D"}},
    ),
    (
        "logs-retention",
        "logs",
        "put_retention_policy",
        lambda h: {"logGroupName": "group", "retentionInDays": 31},
        "InvalidParameterException",
        lambda h: {"logGroupName": "group", "retentionInDays": 30},
    ),
    (
        "logs-group-name",
        "logs",
        "create_log_group",
        lambda h: {"logGroupName": "aws/x"},
        "InvalidParameterException",
        None,
    ),
    (
        "logs-tags",
        "logs",
        "create_log_group",
        lambda h: {"logGroupName": "h", "tags": {"aws:a": "1"}},
        "InvalidParameterException",
        None,
    ),
    (
        "logs-batch-size",
        "logs",
        "put_log_events",
        lambda h: events(*[(0, 524300)] * 2),
        "InvalidParameterException",
        lambda h: events(*[(0, 524000)] * 2),
    ),
    (
        "logs-event-size",
        "logs",
        "put_log_events",
        lambda h: events((0, 1048576)),
        "InvalidParameterException",
        None,
    ),
    (
        "logs-event-order",
        "logs",
        "put_log_events",
        lambda h: events((0, 1), (-1, 1)),
        "InvalidParameterException",
        lambda h: events((-1, 1), (0, 1)),
    ),
    (
        "logs-batch-span",
        "logs",
        "put_log_events",
        lambda h: events((-24 * 3600_000 - 1, 1), (0, 1)),
        "InvalidParameterException",
        None,
    ),
    (
        "logs-group-search",
        "logs",
        "describe_log_groups",
        lambda h: {"logGroupNamePrefix": "a", "logGroupNamePattern": "b"},
        "InvalidParameterException",
        None,
    ),
    (
        "logs-group-once",
        "logs",
        "get_log_events",
        lambda h: {"logStreamName": "stream"},
        "InvalidParameterException",
        lambda h: {"logGroupName": "group", "logStreamName": "stream"},
    ),
    (
        "logs-streams-once",
        "logs",
        "filter_log_events",
        lambda h: {"logGroupName": "group", "logStreamNames": ["stream"], "logStreamNamePrefix": "s"},
        "InvalidParameterException",
        lambda h: {"logGroupName": "group", "logStreamNames": ["stream"]},
    ),
    (
        "logs-streams-there",
        "logs",
        "filter_log_events",
        lambda h: {"logGroupName": "group", "logStreamNames": ["stream", "nobody"]},
        "ResourceNotFoundException",
        lambda h: {"logGroupName": "group", "logStreamNames": ["stream"]},
    ),
    (
        "logs-once",
        "logs",
        "create_log_stream",
        lambda h: {"logGroupName": "group", "logStreamName": "stream"},
        "ResourceAlreadyExistsException",
        None,
    ),
    (
        "logs-no-such",
        "logs",
        "create_log_stream",
        lambda h: {"logGroupName": "nobody", "logStreamName": "stream"},
        "ResourceNotFoundException",
        None,
    ),
    (
        "ecr-model",
        "ecr",
        "create_repository",
        lambda h: {"repositoryName": "Upper"},
        "InvalidParameterException",
        None,
    ),
    (
        "ecr-tag-count",
        "ecr",
        "create_repository",
        lambda h: {"repositoryName": "many", "tags": pairs(*many(51))},
        "TooManyTagsException",
        None,
    ),
    (
        "ecr-tags",
        "ecr",
        "create_repository",
        lambda h: {"repositoryName": "tagged", "tags": pairs(("team", "R&D"))},
        "InvalidTagParameterException",
        None,
    ),
    (
        "ecr-lifecycle",
        "ecr",
        "put_lifecycle_policy",
        lambda h: {
            "repositoryName": "images",
            "lifecyclePolicyText": json.dumps({"rules": [], "x": "x" * 100}),
        },
        "InvalidParameterException",
        None,
    ),
    (
        "ecr-once",
        "ecr",
        "create_repository",
        lambda h: {"repositoryName": "images"},
        "RepositoryAlreadyExistsException",
        None,
    ),
    (
        "ecr-no-such",
        "ecr",
        "describe_images",
        lambda h: {"repositoryName": "nobody"},
        "RepositoryNotFoundException",
        None,
    ),
    (
        "s3-model",
        "s3",
        "create_bucket",
        lambda h: {"Bucket": "on-mars", "CreateBucketConfiguration": {"LocationConstraint": "mars"}},
        "InvalidLocationConstraint",
        None,
    ),
    (
        "s3-model",
        "s3",
        "put_bucket_tagging",
        lambda h: {"Bucket": "rules", "Tagging": {}},
        "MalformedXML",
        None,
    ),
    (
        "s3-bucket-name",
        "s3",
        "create_bucket",
        lambda h: {"Bucket": "a..b"},
        "InvalidBucketName",
        lambda h: {"Bucket": "a.b-c"},
    ),
    ("s3-bucket-name", "s3", "create_bucket", lambda h: {"Bucket": "10.0.0.1"}, "InvalidBucketName", None),
    (
        "s3-tags",
        "s3",
        "put_bucket_tagging",
        lambda h: {"Bucket": "rules", "Tagging": {"TagSet": pairs(("team", "R&D"))}},
        "InvalidTag",
        lambda h: {"Bucket": "rules", "Tagging": {"TagSet": pairs(("team", "R and D"))}},
    ),
    (
        "s3-tag-count",
        "s3",
        "put_bucket_tagging",
        lambda h: {"Bucket": "rules", "Tagging": {"TagSet": pairs(*many(51))}},
        "BadRequest",
        lambda h: {"Bucket": "rules", "Tagging": {"TagSet": pairs(*many(50))}},
    ),
    (
        "s3-key-length",
        "s3",
        "put_object",
        lambda h: {"Bucket": "rules", "Key": "k" * 1025, "Body": b""},
        "KeyTooLongError",
        lambda h: {"Bucket": "rules", "Key": "k" * 1024, "Body": b""},
    ),
    (
        "s3-metadata",
        "s3",
        "put_object",
        lambda h: {"Bucket": "rules", "Key": "k", "Metadata": {"a": "m" * 2048}},
        "MetadataTooLarge",
        None,
    ),
    (
        "s3-deleted",
        "s3",
        "delete_objects",
        lambda h: {"Bucket": "rules", "Delete": {"Objects": [{"Key": str(n)} for n in range(1001)]}},
        "MalformedXML",
        lambda h: {"Bucket": "rules", "Delete": {"Objects": [{"Key": str(n)} for n in range(1000)]}},
    ),
    (
        "s3-policy",
        "s3",
        "put_bucket_policy",
        lambda h: {"Bucket": "rules", "Policy": policy()},
        "MalformedPolicy",
        None,
    ),
    (
        "s3-lifecycle",
        "s3",
        "put_bucket_lifecycle_configuration",
        lambda h: {
            "Bucket": "rules",
            "LifecycleConfiguration": {
                "Rules": [{"ID": "a", "Filter": {}, "Status": "Enabled", "Expiration": {"Days": 0}}]
            },
        },
        "InvalidArgument",
        None,
    ),
    ("s3-no-such", "s3", "get_object", lambda h: {"Bucket": "rules", "Key": "nobody"}, "NoSuchKey", None),
    ("s3-not-empty", "s3", "delete_bucket", lambda h: {"Bucket": "rules"}, "BucketNotEmpty", None),
]
CASES = [
    *EC2,
    *OTHERS,
    (
        "ec2-group-name",
        "ec2",
        "create_security_group",
        lambda h: {"GroupName": "", "Description": "x"},
        MISSING,
        None,
    ),
    (
        "ec2-template-there",
        "ec2",
        "describe_launch_templates",
        lambda h: {"LaunchTemplateIds": ["lt-12345678"]},
        "InvalidLaunchTemplateId.NotFound",
        None,
    ),
    (
        "ec2-template-there",
        "ec2",
        "delete_launch_template",
        lambda h: {"LaunchTemplateName": "nobody"},
        "InvalidLaunchTemplateName.NotFoundException",
        None,
    ),
    (
        "ec2-nat-there",
        "ec2",
        "describe_nat_gateways",
        lambda h: {"NatGatewayIds": ["nat-12345678"]},
        "NatGatewayNotFound",
        None,
    ),
    (
        "ec2-default-group",
        "ec2",
        "delete_security_group",
        lambda h: {"GroupId": h.default_group()},
        "CannotDelete",
        None,
    ),
    (
        "ec2-volume-of-image",
        "ec2",
        "run_instances",
        lambda h: h.launch(**volume(VolumeSize=7)),
        "InvalidBlockDeviceMapping",
        lambda h: h.launch(**volume(VolumeSize=8)),
    ),
    (
        "logs-tags-of-nothing",
        "logs",
        "list_tags_for_resource",
        lambda h: {"resourceArn": "arn:aws:logs:us-east-1:123456789012:log-group:nobody"},
        "ResourceNotFoundException",
        lambda h: {"resourceArn": "arn:aws:logs:us-east-1:123456789012:log-group:group"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    _, service, operation, refused, code, within = case
    if service == "s3" and operation == "delete_bucket":
        here.of("s3").put_object(Bucket="rules", Key="k", Body=b"")
    call = getattr(here.of(service), operation)
    assert code_of(call, **refused(here)) == code
    if within is not None:
        call(**within(here))


# -- what takes more than one call ---------------------------------------------------------------------------


def story(*names: str) -> Callable[[Callable[[Here], None]], Callable[[Here], None]]:
    """A test of these rows."""

    def tell(test: Callable[[Here], None]) -> Callable[[Here], None]:
        STORIES.update(names)
        return test

    return tell


STORIES: set[str] = set()


@story("ec2-launch-networks", "ec2-launch-addresses")
def test_a_launch_is_in_one_network_with_room_for_it(here: Here) -> None:
    ec2 = here.of("ec2")
    other = ec2.create_vpc(CidrBlock="10.2.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="x", Description="x", VpcId=other)["GroupId"]
    assert code_of(ec2.run_instances, **here.launch(SecurityGroupIds=[group])) == "InvalidParameter"
    small = here.add_subnet("10.0.64.0/28")
    crowd = here.launch(SubnetId=small, MinCount=12, MaxCount=12)
    assert code_of(ec2.run_instances, **crowd) == "InsufficientFreeAddressesInSubnet"


@story("ec2-launch-token", "ec2-instance-state")
def test_a_token_and_an_end_are_final(here: Here) -> None:
    ec2 = here.of("ec2")
    asked = here.launch(ClientToken="once")
    (name,) = (i["InstanceId"] for i in ec2.run_instances(**asked)["Instances"])
    assert code_of(ec2.run_instances, **{**asked, "MaxCount": 2}) == "IdempotentParameterMismatch"
    ec2.terminate_instances(InstanceIds=[name])
    assert code_of(ec2.run_instances, **asked) == "IdempotentInstanceTerminated"
    assert code_of(ec2.start_instances, InstanceIds=[name]) == "IncorrectInstanceState"


def test_a_rule_about_launches_is_kept_where_the_template_breaks_it(here: Here) -> None:
    ec2 = here.of("ec2")
    data = {
        "ImageId": here.image,
        "InstanceType": "t3.micro",
        "MetadataOptions": {"HttpPutResponseHopLimit": 99},
    }
    made = ec2.create_launch_template(LaunchTemplateName="hops", LaunchTemplateData=data)["LaunchTemplate"]
    asked = {"LaunchTemplate": {"LaunchTemplateId": made["LaunchTemplateId"]}, "MinCount": 1, "MaxCount": 1}
    assert code_of(ec2.run_instances, **asked) == INVALID
    again = "InvalidLaunchTemplateName.AlreadyExistsException"
    assert code_of(ec2.create_launch_template, LaunchTemplateName="hops", LaunchTemplateData=data) == again


STORIES.add("ec2-template-name-once")


@story("ec2-dependencies", "ec2-permission-once", "ec2-subnet-table", "ec2-route-gateway", "ec2-route-once")
def test_what_hangs_together_stays(here: Here) -> None:
    ec2 = here.of("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.3.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.3.0.0/24")["Subnet"]["SubnetId"]
    tables = [ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"] for _ in range(2)]
    ec2.associate_route_table(RouteTableId=tables[0], SubnetId=subnet)
    assert code_of(ec2.delete_vpc, VpcId=vpc) == "DependencyViolation"
    assert code_of(ec2.delete_route_table, RouteTableId=tables[0]) == "DependencyViolation"
    twice = {"RouteTableId": tables[1], "SubnetId": subnet}
    assert code_of(ec2.associate_route_table, **twice) == "Resource.AlreadyAssociated"
    route = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": here.gateway}
    assert code_of(ec2.create_route, RouteTableId=tables[0], **route) == INVALID
    ec2.create_route(RouteTableId=here.table, **route)
    assert code_of(ec2.create_route, RouteTableId=here.table, **route) == "RouteAlreadyExists"
    group = here.add_group("twice")
    ec2.authorize_security_group_ingress(GroupId=group, **permission())
    again = {"GroupId": group, **permission()}
    assert code_of(ec2.authorize_security_group_ingress, **again) == "InvalidPermission.Duplicate"


@story("ec2-nat-failed", "ec2-address-in-use")
def test_a_nat_gateway_that_cannot_work_fails_and_says_why(here: Here) -> None:
    ec2 = here.of("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.4.0.0/16")["Vpc"]["VpcId"]
    island = ec2.create_subnet(VpcId=vpc, CidrBlock="10.4.0.0/24")["Subnet"]["SubnetId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]

    def made(subnet: str) -> tuple[str, str | None]:
        name = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)["NatGateway"]["NatGatewayId"]
        seen = ec2.describe_nat_gateways(NatGatewayIds=[name])["NatGateways"][0]
        return seen["State"], seen.get("FailureCode")

    assert made(island) == ("failed", "Gateway.NotAttached")
    assert made(here.subnet) == ("available", None)
    assert made(here.subnet) == ("failed", "Resource.AlreadyAssociated")
    assert code_of(ec2.release_address, AllocationId=address) == "InvalidIPAddress.InUse"


@story("ec2-image-name-once", "ec2-snapshot-in-use")
def test_an_image_keeps_its_name_and_its_snapshot(here: Here) -> None:
    ec2 = here.of("ec2")
    (name,) = here.run()
    end = time.monotonic() + 10
    while here.sandbox.instances()[name]["state"] != "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    image = ec2.create_image(InstanceId=name, Name="baked")["ImageId"]
    assert code_of(ec2.create_image, InstanceId=name, Name="baked") == "InvalidAMIName.Duplicate"
    snapshot = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"][0]["Ebs"][
        "SnapshotId"
    ]
    assert code_of(ec2.delete_snapshot, SnapshotId=snapshot) == "InvalidSnapshot.InUse"
    ec2.deregister_image(ImageId=image)
    ec2.delete_snapshot(SnapshotId=snapshot)


@story("iam-attached", "iam-linked-role")
def test_a_role_takes_ten_managed_policies_and_a_linked_role_is_there_once(here: Here) -> None:
    iam = here.of("iam")
    iam.create_role(RoleName="ten", AssumeRolePolicyDocument=here.trust)
    arns = [
        iam.create_policy(PolicyName=f"ten-{n}", PolicyDocument=policy())["Policy"]["Arn"] for n in range(11)
    ]
    for arn in arns[:10]:
        iam.attach_role_policy(RoleName="ten", PolicyArn=arn)
    assert code_of(iam.attach_role_policy, RoleName="ten", PolicyArn=arns[10]) == "LimitExceeded"
    iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    assert code_of(iam.create_service_linked_role, AWSServiceName="spot.amazonaws.com") == "InvalidInput"


@story("ssm-once", "ssm-versions")
def test_a_parameter_is_overwritten_on_purpose_and_a_hundred_times(here: Here) -> None:
    ssm = here.of("ssm")
    asked = parameter(Name="/rules/versions")
    ssm.put_parameter(**asked)
    assert code_of(ssm.put_parameter, **{**asked, "Overwrite": False}) == "ParameterAlreadyExists"
    ssm.label_parameter_version(Name="/rules/versions", ParameterVersion=1, Labels=["first"])
    for _ in range(99):
        ssm.put_parameter(**asked)
    assert code_of(ssm.put_parameter, **asked) == "ParameterMaxVersionLimitExceeded"


@story("logs-too-old-or-new")
def test_events_that_are_too_old_or_too_new_are_left_out(here: Here) -> None:
    day = 24 * 3600_000
    answer = here.of("logs").put_log_events(**events((-15 * day, 1)))
    assert answer["rejectedLogEventsInfo"]["tooOldLogEventEndIndex"] == 0
    answer = here.of("logs").put_log_events(**events((3 * 3600_000, 1)))
    assert answer["rejectedLogEventsInfo"]["tooNewLogEventStartIndex"] == 0


@story("ecr-not-empty")
def test_a_repository_with_images_is_deleted_by_force(here: Here) -> None:
    ecr = here.of("ecr")
    ecr.create_repository(repositoryName="full")
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"digest": "sha256:" + "0" * 64, "size": 1},
        "layers": [],
    }
    ecr.put_image(repositoryName="full", imageTag="v1", imageManifest=json.dumps(manifest))
    assert code_of(ecr.delete_repository, repositoryName="full") == "RepositoryNotEmptyException"
    ecr.delete_repository(repositoryName="full", force=True)


@story("s3-location", "s3-name-taken")
def test_a_bucket_is_made_at_the_endpoint_of_its_region(here: Here) -> None:
    west = here.of("s3", "us-west-2")
    illegal = "IllegalLocationConstraintException"
    assert code_of(west.create_bucket, Bucket="in-the-west") == illegal
    elsewhere = {"LocationConstraint": "eu-west-1"}
    assert code_of(west.create_bucket, Bucket="in-the-west", CreateBucketConfiguration=elsewhere) == illegal
    asked = {"Bucket": "in-the-west", "CreateBucketConfiguration": {"LocationConstraint": "us-west-2"}}
    west.create_bucket(**asked)
    assert code_of(west.create_bucket, **asked) == "BucketAlreadyOwnedByYou"


@story("s3-object-size")
def test_an_object_of_more_than_5_gb_is_refused_before_it_is_sent(here: Here) -> None:
    """By hand: a client would send all of it."""
    import http.client
    from urllib.parse import urlsplit

    there = {"Bucket": "rules", "Key": "huge"}
    url = urlsplit(here.of("s3").generate_presigned_url("put_object", Params=there))
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.putrequest("PUT", f"{url.path}?{url.query}")
    connection.putheader("Content-Length", str(5 * 1024**3 + 1))
    connection.endheaders()
    assert b"<Code>EntityTooLarge</Code>" in connection.getresponse().read()
    connection.close()


def test_dry_runs_are_held_to_the_rules_too(here: Here) -> None:
    ec2 = here.of("ec2")
    assert code_of(ec2.create_vpc, CidrBlock="nope", DryRun=True) == INVALID
    assert code_of(ec2.create_vpc, CidrBlock="10.0.0.0/16", DryRun=True) == "DryRunOperation"


def test_a_request_that_cannot_be_read_is_refused_and_not_a_fault_of_the_server(here: Here) -> None:
    assert (
        code_of(here.of("ssm").get_parameters_by_path, Path="/", MaxResults="many")
        == "SerializationException"
    )
    assert code_of(here.of("ec2").describe_vpcs, MaxResults="many") == INVALID


def test_user_data_is_measured_before_base64(here: Here) -> None:
    longest = base64.b64encode(b"#" * 16384).decode()
    here.of("ec2").create_launch_template(
        LaunchTemplateName="longest", LaunchTemplateData={"UserData": longest, "ImageId": here.image}
    )
    assert here.run(LaunchTemplate={"LaunchTemplateName": "longest"})


def test_every_rule_has_a_source_and_a_case() -> None:
    told = {case[0] for case in CASES} | STORIES
    known = list(rows())
    assert {row.name for row in known if row.when == "always"} == told
    assert all(row.source.startswith("https://docs.aws.amazon.com/") for row in known)


def test_the_page_shows_the_table_as_it_is() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_rules_table.py"))
    page: str = script["page"]()
    assert page == (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8"), (
        "run scripts/write_rules_table.py and look at what has changed"
    )
