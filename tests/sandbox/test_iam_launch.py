"""IAM's keys about launch templates, and about the machine that asks: they hold in the sandbox as on AWS."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from prefect_coiled.node.aws import own_client
from prefect_coiled.sandbox import Sandbox

NUMBER = "123456789012"
TEMPLATES = f"arn:aws:ec2:*:{NUMBER}:launch-template/*"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}
MAY, DENIED = "DryRunOperation", "UnauthorizedOperation"


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    allowed = [{"Effect": "Allow", **statement} for statement in statements]
    return {"Version": "2012-10-17", "Statement": allowed}


TAGGING = {"Action": "ec2:CreateTags", "Resource": "*"}


@pytest.fixture
def client(judged: Sandbox) -> Callable[..., Any]:
    """A client of EC2 of a new user with the given policies."""

    def make(*policies: Any) -> Any:
        key, secret = judged.add_user(f"user-{uuid.uuid4().hex}", *policies)
        session = boto3.Session(key, secret)
        return session.client("ec2", region_name="us-east-1", endpoint_url=judged.endpoint)

    return make


@pytest.fixture
def template(judged: Sandbox, image: str) -> Iterator[str]:
    """A launch template that says image, type, subnet, group, disk and tags."""
    ec2 = judged.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
    data = {
        "ImageId": image,
        "InstanceType": "m6i.large",
        "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group]}],
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "Encrypted": True}}],
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "colour", "Value": "blue"}]}],
    }
    made = ec2.create_launch_template(LaunchTemplateName="of-test", LaunchTemplateData=data)
    yield str(made["LaunchTemplate"]["LaunchTemplateId"])
    ec2.delete_launch_template(LaunchTemplateName="of-test")
    ec2.delete_security_group(GroupId=group)
    ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_vpc(VpcId=vpc)


def test_the_tags_of_a_template_are_none_of_what_it_launches(template: str, judged: Sandbox) -> None:
    ec2 = judged.client("ec2")
    labels = [{"ResourceType": "launch-template", "Tags": [{"Key": "mine", "Value": "1"}]}]
    named = {"LaunchTemplateName": "tagged", "LaunchTemplateData": {"InstanceType": "m6i.large"}}
    made = ec2.create_launch_template(**named, TagSpecifications=labels)["LaunchTemplate"]
    try:
        assert made["Tags"] == labels[0]["Tags"]
        described = ec2.describe_launch_template_versions(LaunchTemplateName="tagged", Versions=["1"])
        (version,) = described["LaunchTemplateVersions"]
        assert "TagSpecifications" not in version["LaunchTemplateData"]
    finally:
        ec2.delete_launch_template(LaunchTemplateName="tagged")


def answer(ec2: Any, template: str | None, **more: Any) -> str:
    named = {"LaunchTemplate": {"LaunchTemplateId": template}} if template else {}
    with pytest.raises(ClientError) as caught:
        ec2.run_instances(MinCount=1, MaxCount=1, DryRun=True, **named, **more)
    return str(caught.value.response["Error"]["Code"])


FROM_TEMPLATE = policy(
    {
        "Action": "ec2:RunInstances",
        "Resource": "*",
        "Condition": {
            "ArnLike": {"ec2:LaunchTemplate": TEMPLATES},
            "Bool": {"ec2:IsLaunchTemplateResource": "true"},
        },
    },
    TAGGING,
)


def test_what_a_template_says_may_be_launched_by_who_may_override_nothing(
    client: Callable[..., Any], template: str, image: str
) -> None:
    ec2 = client(FROM_TEMPLATE)
    assert answer(ec2, template) == MAY
    assert answer(ec2, None, ImageId=image, InstanceType="m6i.large") == DENIED


@pytest.mark.parametrize(
    "said",
    [
        {"InstanceType": "m6i.large"},
        {"UserData": base64.b64encode(b"#!/bin/sh").decode()},
        {"MetadataOptions": {"HttpTokens": "optional"}},
        {"Monitoring": {"Enabled": True}},
        {"BlockDeviceMappings": [{"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 9}}]},
        {"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "colour", "Value": "red"}]}]},
        {"TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "colour", "Value": "red"}]}]},
        {"KeyName": "mine"},
    ],
    ids=lambda said: next(iter(said)),
)
def test_what_the_call_says_overrides_the_template(
    client: Callable[..., Any], template: str, said: dict[str, Any]
) -> None:
    assert answer(client(FROM_TEMPLATE), template, **said) == DENIED


def test_a_subnet_and_a_group_of_the_call_are_not_those_of_the_template(
    client: Callable[..., Any], template: str, judged: Sandbox
) -> None:
    root = judged.client("ec2")
    (default,) = root.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"] or [None]
    wanted = [{"Name": "vpc-id", "Values": [default["VpcId"]]}]
    subnet = root.describe_subnets(Filters=wanted)["Subnets"][0]["SubnetId"]
    interface = {"DeviceIndex": 0, "SubnetId": subnet}
    assert answer(client(FROM_TEMPLATE), template, NetworkInterfaces=[interface]) == DENIED


def test_every_resource_of_a_launch_is_judged_also_those_that_the_template_names(
    client: Callable[..., Any], template: str
) -> None:
    everything = {"Action": "ec2:RunInstances", "Resource": "*"}
    for kind in ("subnet", "security-group", "image", "instance", "volume", "network-interface"):
        number = "" if kind == "image" else NUMBER
        deny = {"Effect": "Deny", "Action": "*", "Resource": f"arn:aws:ec2:*:{number}:{kind}/*"}
        assert answer(client(policy(everything, TAGGING), policy(deny)), template) == DENIED
    assert answer(client(policy(everything, TAGGING)), template) == MAY


def test_tags_of_a_template_take_the_permission_to_tag(client: Callable[..., Any], template: str) -> None:
    everything = {"Action": "ec2:RunInstances", "Resource": "*"}
    blue = {**TAGGING, "Condition": {"StringEquals": {"aws:RequestTag/colour": "blue"}}}
    red = {**TAGGING, "Condition": {"StringEquals": {"aws:RequestTag/colour": "red"}}}
    assert answer(client(policy(everything)), template) == DENIED
    assert answer(client(policy(everything, red)), template) == DENIED
    assert answer(client(policy(everything, blue)), template) == MAY


def test_credentials_of_a_machine_tell_which_machine_it_is_and_others_do_not(
    judged: Sandbox, image: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"StringEquals": {"aws:ResourceTag/launcher": "${ec2:SourceInstanceARN}"}}
    document = policy(
        {"Action": "ec2:RunInstances", "Resource": TEMPLATES, "Condition": own},
        {"Action": "ec2:RunInstances", "NotResource": TEMPLATES},
        TAGGING,
    )
    root, iam = judged.client("ec2"), judged.client("iam")
    iam.create_role(RoleName="machines", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName="machines", PolicyName="p", PolicyDocument=json.dumps(document))
    iam.create_instance_profile(InstanceProfileName="machines")
    iam.add_role_to_instance_profile(InstanceProfileName="machines", RoleName="machines")
    judged.set(boot="none")
    made = root.run_instances(
        ImageId=image,
        InstanceType="m6i.large",
        MinCount=2,
        MaxCount=2,
        IamInstanceProfile={"Name": "machines"},
    )["Instances"]
    one, two = (machine["InstanceId"] for machine in made)
    arn = f"arn:aws:ec2:us-east-1:{NUMBER}:instance/{one}"
    root.create_tags(Resources=[template], Tags=[{"Key": "launcher", "Value": arn}])

    def machine(name: str) -> Any:
        path = judged.instances()[name]["metadata"]
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{judged.endpoint}{path}")
        # The user's own, for his tasks: they neither close the way to the role nor lead it elsewhere.
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        return own_client("ec2", "us-east-1", judged.endpoint)

    try:
        assert answer(machine(one), template) == MAY
        assert answer(machine(two), template) == DENIED
        # A session of that name which comes from no machine.
        everybody = {**TRUST["Statement"][0], "Principal": {"AWS": "*"}}
        trust = {"Version": "2012-10-17", "Statement": [everybody]}
        iam.update_assume_role_policy(RoleName="machines", PolicyDocument=json.dumps(trust))
        given = judged.client("sts").assume_role(
            RoleArn=f"arn:aws:iam::{NUMBER}:role/machines", RoleSessionName=one
        )["Credentials"]
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        assert answer(judged.client("ec2", **dict(zip(names, keys, strict=True))), template) == DENIED
    finally:
        root.terminate_instances(InstanceIds=[one, two])
        iam.remove_role_from_instance_profile(InstanceProfileName="machines", RoleName="machines")
        iam.delete_instance_profile(InstanceProfileName="machines")
        iam.delete_role_policy(RoleName="machines", PolicyName="p")
        iam.delete_role(RoleName="machines")
