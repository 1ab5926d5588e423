"""Launches, and what may not go together in them."""

from __future__ import annotations

import base64

import pytest

from .here import (
    COMBINATION,
    INVALID,
    MISSING,
    Case,
    Here,
    check,
    code_of,
    interface,
    story,
    tagged,
    volume,
)

CASES: list[Case] = [
    (
        "ec2-spot-tags",
        "ec2",
        "run_instances",
        lambda h: h.launch(**tagged(("a", "b"), kind="spot-instances-request")),
        COMBINATION,
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
        "ec2-shown-tags",
        "ec2",
        "run_instances",
        lambda h: h.launch(
            MetadataOptions={"InstanceMetadataTags": "enabled"},
            **tagged(("cost center", "1"), kind="instance"),
        ),
        INVALID,
        lambda h: h.launch(
            MetadataOptions={"InstanceMetadataTags": "enabled"},
            **tagged(("cost+center=a.b,c_d:e@f", "1 / 2"), kind="instance"),
        ),
    ),
    (
        "ec2-shown-tags",
        "ec2",
        "run_instances",
        lambda h: h.launch(
            MetadataOptions={"InstanceMetadataTags": "enabled"}, **tagged(("_index", "1"), kind="instance")
        ),
        INVALID,
        lambda h: h.launch(**tagged(("cost / center", "1"), kind="instance")),
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
        "ec2-volume-ratio",
        "ec2",
        "run_instances",
        lambda h: h.launch(**volume(VolumeType="gp3", Throughput=2000, Iops=8000, VolumeSize=15)),
        INVALID,
        lambda h: h.launch(**volume(VolumeType="gp3", Throughput=2000, Iops=8000, VolumeSize=16)),
    ),
    (
        "ec2-volume-ratio",
        "ec2",
        "run_instances",
        lambda h: h.launch(**volume(VolumeType="gp3", Throughput=751, VolumeSize=30)),
        INVALID,
        lambda h: h.launch(**volume(VolumeType="gp3", Throughput=750, VolumeSize=30)),
    ),
    (
        "ec2-volume-ratio",
        "ec2",
        "run_instances",
        lambda h: h.launch(**volume(VolumeType="io1", Iops=401, VolumeSize=8)),
        INVALID,
        None,
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
    (
        "ec2-volume-of-image",
        "ec2",
        "run_instances",
        lambda h: h.launch(**volume(VolumeSize=7)),
        "InvalidBlockDeviceMapping",
        lambda h: h.launch(**volume(VolumeSize=8)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


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


@story("ec2-template-name-once")
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


def test_user_data_is_measured_before_base64(here: Here) -> None:
    longest = base64.b64encode(b"#" * 16384).decode()
    here.of("ec2").create_launch_template(
        LaunchTemplateName="longest", LaunchTemplateData={"UserData": longest, "ImageId": here.image}
    )
    assert here.run(LaunchTemplate={"LaunchTemplateName": "longest"})
