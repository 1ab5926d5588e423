"""Security groups, images and launch templates."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import pytest

from .here import INVALID, MISSING, Case, Here, check, code_of, permission, story, tagged


def encoded(size: int) -> str:
    return base64.b64encode(b"x" * size).decode()


def _launched_by(template: dict[str, str]) -> Callable[[Here], dict[str, Any]]:
    return lambda h: {"MinCount": 1, "MaxCount": 1, "LaunchTemplate": {**template, "Version": "1"}}


CASES: list[Case] = [
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
        "ec2-group-vpc",
        "ec2",
        "create_security_group",
        lambda h: {"GroupName": "d", "Description": "x", "VpcId": "vpc-0123456789abcdef0"},
        "InvalidVpcID.NotFound",
        lambda h: {"GroupName": "d", "Description": "x", "VpcId": h.vpc},
    ),
    (
        "ec2-group-once",
        "ec2",
        "create_security_group",
        lambda h: {"GroupName": "Workers", "Description": "x", "VpcId": h.vpc},
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
        "ec2-rule-once",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {
            "GroupId": h.group,
            **permission(IpRanges=[{"CidrIp": "100.68.0.18/18"}, {"CidrIp": "100.68.0.0/18"}]),
        },
        INVALID,
        None,
    ),
    (
        "ec2-rule-parts",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group, **permission(IpRanges=[])},
        MISSING,
        None,
    ),
    (
        "ec2-rule-parts",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group, "IpPermissions": [{"IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]},
        MISSING,
        None,
    ),
    (
        "ec2-rule-parts",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group},
        MISSING,
        None,
    ),
    (
        "ec2-revoked-parts",
        "ec2",
        "revoke_security_group_ingress",
        lambda h: {"GroupId": h.group},
        MISSING,
        None,
    ),
    ("ec2-group-named", "ec2", "delete_security_group", lambda h: {}, MISSING, None),
    (
        "ec2-icmp",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group, **permission(IpProtocol="icmp", FromPort=None, ToPort=None)},
        INVALID,
        lambda h: {"GroupId": h.group, **permission(IpProtocol="icmp", FromPort=8, ToPort=-1)},
    ),
    (
        "ec2-icmp",
        "ec2",
        "authorize_security_group_ingress",
        lambda h: {"GroupId": h.group, **permission(IpProtocol="icmp", FromPort=-1, ToPort=0)},
        INVALID,
        None,
    ),
    (
        "ec2-template-user-data",
        "ec2",
        "create_launch_template",
        lambda h: {"LaunchTemplateName": "large", "LaunchTemplateData": {"UserData": encoded(16385)}},
        "InvalidUserData.Malformed",
        lambda h: {"LaunchTemplateName": "large", "LaunchTemplateData": {"UserData": encoded(16384)}},
    ),
    (
        "ec2-template-user-data",
        "ec2",
        "create_launch_template",
        lambda h: {"LaunchTemplateName": "plain", "LaunchTemplateData": {"UserData": "#!"}},
        "InvalidUserData.Malformed",
        None,
    ),
    (
        "ec2-template-kinds",
        "ec2",
        "create_launch_template",
        lambda h: {"LaunchTemplateName": "kinds", "LaunchTemplateData": tagged(("a", "b"), kind="vpc")},
        INVALID,
        lambda h: {"LaunchTemplateName": "kinds", "LaunchTemplateData": tagged(("a", "b"), kind="volume")},
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
    *(
        ("ec2-template-there", "ec2", "run_instances", _launched_by(template), code, None)
        for template, code in (
            ({"LaunchTemplateId": "lt-0123456789abcdef0"}, "InvalidLaunchTemplateId.NotFound"),
            ({"LaunchTemplateName": "nobody"}, "InvalidLaunchTemplateName.NotFoundException"),
        )
    ),
    (
        "ec2-default-group",
        "ec2",
        "delete_security_group",
        lambda h: {"GroupId": h.default_group()},
        "CannotDelete",
        None,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


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


@story("ec2-revoked-rules")
def test_a_call_that_names_a_rule_that_is_not_there_revokes_none(here: Here) -> None:
    ec2, group = here.of("ec2"), here.add_group("revoked")
    wanted = permission()["IpPermissions"]
    pair = {"IpProtocol": "tcp", "FromPort": 9, "ToPort": 9, "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[*wanted, pair])
    other = permission(ToPort=3)["IpPermissions"]
    code = code_of(ec2.revoke_security_group_ingress, GroupId=group, IpPermissions=[*wanted, *other])
    assert code == "InvalidPermission.NotFound"
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert len(found) == 2
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[*wanted, pair])
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"] == []
