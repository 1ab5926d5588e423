"""What AWS's rules are tried on, and how: a call that is refused, and one just within the rule.

What a client would refuse by itself is sent as it is (`parameter_validation=False`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from prefect_coiled.sandbox import Sandbox

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


# The row, the service, the operation, what is refused, the code, and what is just within.
Params = Callable[[Here], dict[str, Any]]
Case = tuple[str, str, str, Params, str, Params | None]
INVALID, COMBINATION, MISSING = "InvalidParameterValue", "InvalidParameterCombination", "MissingParameter"


def code_of(call: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


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


def check(here: Here, case: Case) -> None:
    """See that the call is refused with AWS's code, and what is just within the rule is not."""
    _, service, operation, refused, code, within = case
    if service == "s3" and operation == "delete_bucket":
        here.of("s3").put_object(Bucket="rules", Key="k", Body=b"")
    call = getattr(here.of(service), operation)
    assert code_of(call, **refused(here)) == code
    if within is not None:
        call(**within(here))


# The rows that have a test of several calls.
STORIES: set[str] = set()


def story(*names: str) -> Callable[[Callable[[Here], None]], Callable[[Here], None]]:
    """A test of these rows."""

    def tell(test: Callable[[Here], None]) -> Callable[[Here], None]:
        STORIES.update(names)
        return test

    return tell
