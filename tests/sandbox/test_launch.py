import base64
import time

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

TEMPLATE_TAGS = [
    {"ResourceType": "instance", "Tags": [{"Key": "owner", "Value": "coiled"}, {"Key": "a", "Value": "t"}]},
    {"ResourceType": "volume", "Tags": [{"Key": "owner", "Value": "coiled"}]},
    {"ResourceType": "network-interface", "Tags": [{"Key": "owner", "Value": "coiled"}]},
]


@pytest.fixture
def still(world):
    """A world whose instances have no processes."""
    world.sandbox.set(boot="none")
    return world


@pytest.fixture
def profile(still, trust):
    iam = still.sandbox.client("iam")
    name = f"profile-{still.vpc}"
    made = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    yield made
    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
    iam.delete_instance_profile(InstanceProfileName=name)
    iam.delete_role(RoleName=name)


def template(world, **data):
    name = f"template-{world.vpc}"
    text = base64.b64encode(b"#!/bin/sh\necho from the template\nexec sleep 600\n").decode()
    made = world.ec2.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={
            "ImageId": world.image,
            "InstanceType": "t3.small",
            "UserData": text,
            "TagSpecifications": TEMPLATE_TAGS,
            **data,
        },
    )
    return made["LaunchTemplate"]


def test_a_batch_has_as_many_instances_as_the_maximum(still):
    assert len(still.run(MinCount=1, MaxCount=7)) == 7


def test_a_launch_of_twenty_is_quick(still):
    before = time.monotonic()
    assert len(still.run(count=20)) == 20
    assert time.monotonic() - before < 3


def test_a_template_gives_all_it_says(still, profile):
    made = template(
        still,
        NetworkInterfaces=[
            {
                "DeviceIndex": 0,
                "SubnetId": still.subnet,
                "Groups": [still.group],
                "AssociatePublicIpAddress": True,
            }
        ],
        IamInstanceProfile={"Name": profile["InstanceProfileName"]},
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": True, "VolumeSize": 30, "VolumeType": "gp3"}}
        ],
        InstanceInitiatedShutdownBehavior="terminate",
        InstanceMarketOptions={"MarketType": "spot"},
    )
    asked = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "call"}]}]
    instances = still.run(
        count=3,
        LaunchTemplate={"LaunchTemplateId": made["LaunchTemplateId"], "Version": "$Latest"},
        TagSpecifications=asked,
    )
    assert len(instances) == 3
    for instance in instances:
        at = still.reach(instance["InstanceId"], "running")
        assert at["InstanceType"] == "t3.small"
        assert [group["GroupId"] for group in at["SecurityGroups"]] == [still.group]
        assert at["IamInstanceProfile"]["Arn"] == profile["Arn"]
        assert at["MetadataOptions"]["HttpTokens"] == "required"
        assert at["InstanceLifecycle"] == "spot"
        assert at["PublicIpAddress"]
        tags = {tag["Key"]: tag["Value"] for tag in at["Tags"]}
        assert tags["owner"] == "coiled"
        assert tags["a"] == "call"
        assert tags["aws:ec2launchtemplate:id"] == made["LaunchTemplateId"]
        (mapping,) = at["BlockDeviceMappings"]
        volume = still.ec2.describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"][0]
        assert (volume["Encrypted"], volume["Size"]) == (True, 30)
        assert volume["Tags"] == [{"Key": "owner", "Value": "coiled"}]
        (nic,) = at["NetworkInterfaces"]
        nic_at = still.ec2.describe_network_interfaces(NetworkInterfaceIds=[nic["NetworkInterfaceId"]])
        assert nic_at["NetworkInterfaces"][0]["TagSet"] == [{"Key": "owner", "Value": "coiled"}]
        behavior = still.ec2.describe_instance_attribute(
            InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
        )
        assert behavior["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


def test_the_user_data_of_a_template_boots(world):
    made = template(world)
    (instance,) = world.run(
        LaunchTemplate={"LaunchTemplateName": made["LaunchTemplateName"], "Version": "1"},
        SubnetId=world.subnet,
        SecurityGroupIds=[world.group],
    )
    assert world.see(instance["InstanceId"])["SubnetId"] == world.subnet
    world.prints(instance["InstanceId"], "from the template")


def test_power_off_follows_the_shutdown_behavior_of_the_template(world):
    text = base64.b64encode(b"#!/bin/sh\nshutdown -h now\nsleep 600\n").decode()
    made = template(world, UserData=text, InstanceInitiatedShutdownBehavior="terminate")
    reference = {"LaunchTemplateId": made["LaunchTemplateId"]}
    (instance,) = world.run(LaunchTemplate=reference, SubnetId=world.subnet)
    world.reach(instance["InstanceId"], "terminated")


def test_an_interface_and_a_subnet_in_one_request_are_refused(still, refused):
    interface = {"DeviceIndex": 0, "SubnetId": still.subnet}
    made = template(still, NetworkInterfaces=[interface])
    reference = {"LaunchTemplateId": made["LaunchTemplateId"]}
    code = refused(still.run, LaunchTemplate=reference, SubnetId=still.subnet)
    assert code == "InvalidParameterCombination"


def test_the_volumes_and_interfaces_of_an_instance_go_with_it(still):
    mappings = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 9}}]
    interface = {"DeviceIndex": 0, "SubnetId": still.subnet, "Groups": [still.group]}
    (instance,) = still.run(BlockDeviceMappings=mappings, NetworkInterfaces=[interface])
    name = instance["InstanceId"]
    still.reach(name, "running")
    still.ec2.terminate_instances(InstanceIds=[name])
    still.reach(name, "terminated")
    here = [{"Name": "subnet-id", "Values": [still.subnet]}]
    assert still.ec2.describe_network_interfaces(Filters=here)["NetworkInterfaces"] == []
    here = [{"Name": "attachment.instance-id", "Values": [name]}]
    assert still.ec2.describe_volumes(Filters=here)["Volumes"] == []


def test_every_instance_of_a_batch_has_the_profile(still, profile):
    instances = still.run(count=3, IamInstanceProfile={"Arn": profile["Arn"]})
    seen = [still.see(instance["InstanceId"])["IamInstanceProfile"]["Arn"] for instance in instances]
    assert seen == [profile["Arn"]] * 3


def test_an_unknown_profile_is_an_invalid_parameter(still, refused):
    code = refused(still.run, IamInstanceProfile={"Name": "nobody"})
    assert code == "InvalidParameterValue"


def test_user_data_of_more_than_16_kilobytes_is_refused(still, refused):
    assert refused(still.run, user_data="#" * 16385) == "InvalidParameterValue"
    assert still.run(user_data="#" * 16384)


def test_a_group_of_another_vpc_is_refused(still, refused):
    other = still.ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    group = still.ec2.create_security_group(GroupName="x", Description="x", VpcId=other)["GroupId"]
    assert refused(still.run, SecurityGroupIds=[group]) == "InvalidParameter"


def test_an_image_of_another_architecture_is_refused(still, refused):
    assert refused(still.run, InstanceType="t4g.micro") == "InvalidParameterValue"


def test_an_unknown_type_or_image_is_refused(still, refused):
    assert refused(still.run, InstanceType="z9.mega") == "InvalidParameterValue"
    assert refused(still.run, ImageId="ami-00000000000000000") == "InvalidAMIID.NotFound"


def test_a_type_that_the_zone_does_not_have_is_unsupported(still, refused):
    offered = {
        entry["Location"]
        for entry in still.ec2.describe_instance_type_offerings(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["p4d.24xlarge"]}]
        )["InstanceTypeOfferings"]
    }
    zones = {f"us-east-1{letter}" for letter in "abcdef"}
    assert offered < zones
    subnet = still.add_subnet("10.0.32.0/24", min(zones - offered))
    assert refused(still.run, InstanceType="p4d.24xlarge", SubnetId=subnet) == "Unsupported"


def test_a_subnet_without_addresses_is_full(still, refused):
    small = still.add_subnet("10.0.64.0/28", "us-east-1a")
    assert refused(still.run, SubnetId=small, count=12) == "InsufficientFreeAddressesInSubnet"
    assert len(still.run(SubnetId=small, count=11)) == 11


def test_capacity_is_taken_and_runs_out(still, refused):
    still.sandbox.set(capacity=[{"instance_type": "t3.*", "zone": "us-east-1a", "free": 5}])
    assert len(still.run(MinCount=1, MaxCount=3)) == 3
    assert len(still.run(MinCount=1, MaxCount=9)) == 2
    still.sandbox.clear_calls()
    # AWS answers 500, so botocore tries again by itself.
    still.ec2 = still.sandbox.client("ec2", config=Config(retries={"total_max_attempts": 2}))
    assert refused(still.run, MinCount=1, MaxCount=1) == "InsufficientInstanceCapacity"
    assert still.sandbox.calls() == [("ec2", "RunInstances")] * 2


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_public_image_parameter_can_be_launched(still, architecture):
    parameter = f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"
    image = still.sandbox.client("ssm").get_parameter(Name=parameter)["Parameter"]["Value"]
    kind = "t3.micro" if architecture == "x86_64" else "t4g.micro"
    assert still.run(ImageId=image, InstanceType=kind)[0]["Architecture"] == architecture
    assert still.run(ImageId=f"resolve:ssm:{parameter}", InstanceType=kind)


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"Placement": {"AvailabilityZone": "us-west-1b"}}, "InvalidParameterValue", r"zone: \[us-west-1b\]"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sdf"}]}, "MissingParameter", "ebs"),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeType": "gp3"}}]},
            "MissingParameter",
            "size or snapshotId",
        ),
    ],
)
def test_what_a_launch_lacks_or_has_wrong_is_told_in_awss_words(still, asked, code, words):
    where = {} if "Placement" in asked else {"SubnetId": still.subnet}
    with pytest.raises(ClientError, match=words) as caught:
        still.ec2.run_instances(
            ImageId=still.image, InstanceType="t3.micro", MinCount=1, MaxCount=1, **where, **asked
        )
    assert caught.value.response["Error"]["Code"] == code


def test_the_groups_of_a_machine_are_replaced_on_its_interface_too(still):
    (made,) = still.run(InstanceType="t3.micro")
    other = still.ec2.create_security_group(
        GroupName=f"other-{still.vpc}", Description="another", VpcId=still.vpc
    )["GroupId"]
    still.ec2.modify_instance_attribute(InstanceId=made["InstanceId"], Groups=[other])
    at = still.see(made["InstanceId"])
    (nic,) = at["NetworkInterfaces"]
    assert [g["GroupId"] for g in at["SecurityGroups"]] == [g["GroupId"] for g in nic["Groups"]] == [other]


def fleet(world, *overrides, count=3, **options):
    spot = options.pop("spot", False)
    made = template(
        world, NetworkInterfaces=[{"DeviceIndex": 0, "Groups": [world.group], "SubnetId": world.subnet}]
    )
    specification = {"LaunchTemplateId": made["LaunchTemplateId"], "Version": "$Latest"}
    return world.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {"LaunchTemplateSpecification": specification, "Overrides": [dict(entry) for entry in overrides]}
        ],
        TargetCapacitySpecification={
            "TotalTargetCapacity": count,
            "DefaultTargetCapacityType": "spot" if spot else "on-demand",
        },
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "fleet"}]}],
        **options,
    )


def test_a_fleet_takes_the_first_override_that_has_capacity(still):
    other = still.add_subnet("10.0.16.0/20", "us-east-1b")
    still.sandbox.set(capacity=[{"instance_type": "t3.micro", "free": 1}])
    reply = fleet(
        still,
        {"InstanceType": "t3.micro", "SubnetId": still.subnet},
        {"InstanceType": "t3.large", "SubnetId": other},
    )
    launched = [(entry["InstanceType"], len(entry["InstanceIds"])) for entry in reply["Instances"]]
    assert launched == [("t3.micro", 1), ("t3.large", 2)]
    assert reply["Errors"] == []
    at = still.see(reply["Instances"][1]["InstanceIds"][0])
    assert at["SubnetId"] == other
    assert [group["GroupId"] for group in at["SecurityGroups"]] == [still.group]
    tags = {tag["Key"]: tag["Value"] for tag in at["Tags"]}
    assert (tags["a"], tags["owner"], tags["aws:ec2:fleet-id"]) == ("fleet", "coiled", reply["FleetId"])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"OnDemandTargetCapacity": 1}, {"on-demand": 1, "spot": 2}),
        ({"SpotTargetCapacity": 3}, {"spot": 3}),
        ({"OnDemandTargetCapacity": 2, "SpotTargetCapacity": 1}, {"on-demand": 2, "spot": 1}),
    ],
)
def test_a_fleet_may_be_of_both_markets_and_is_described_and_deleted(still, asked, expected):
    name = f"of-both-{still.vpc}"
    data = {"ImageId": still.image, "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": still.subnet}]}
    made = still.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)[
        "LaunchTemplate"
    ]
    reply = still.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"},
                "Overrides": [{"InstanceType": "t3.micro"}],
            }
        ],
        TargetCapacitySpecification={
            "TotalTargetCapacity": 3,
            "DefaultTargetCapacityType": "spot",
            **asked,
        },
    )
    assert {e["Lifecycle"]: len(e["InstanceIds"]) for e in reply["Instances"]} == expected
    named = reply["Instances"][0]["LaunchTemplateAndOverrides"]["LaunchTemplateSpecification"]
    assert (named["LaunchTemplateId"], named["Version"]) == (made["LaunchTemplateId"], "1")
    ids = {one for entry in reply["Instances"] for one in entry["InstanceIds"]}
    (found,) = still.ec2.describe_fleets(FleetIds=[reply["FleetId"]])["Fleets"]
    assert found["TargetCapacitySpecification"]["TotalTargetCapacity"] == 3
    active = still.ec2.describe_fleet_instances(FleetId=reply["FleetId"])["ActiveInstances"]
    assert {one["InstanceId"] for one in active} == ids
    (gone,) = still.ec2.delete_fleets(FleetIds=[reply["FleetId"]], TerminateInstances=True)[
        "SuccessfulFleetDeletions"
    ]
    assert gone["CurrentFleetState"] == "deleted_terminating"
    assert {still.see(one)["State"]["Name"] for one in ids} <= {"shutting-down", "terminated"}


def test_a_fleet_tells_what_failed(still):
    still.sandbox.set(capacity=[{"zone": "us-east-1a", "free": 0}])
    reply = fleet(still, {"InstanceType": "t3.micro", "SubnetId": still.subnet}, spot=True)
    assert reply["Instances"] == []
    (error,) = reply["Errors"]
    assert error["ErrorCode"] == "InsufficientInstanceCapacity"
    assert error["Lifecycle"] == "spot"
    assert error["LaunchTemplateAndOverrides"]["Overrides"]["SubnetId"] == still.subnet


def test_a_fleet_below_its_minimum_keeps_nothing(still):
    still.sandbox.set(capacity=[{"free": 2}])
    options = {"MinTargetCapacity": 3, "SingleAvailabilityZone": True}
    reply = fleet(still, {"InstanceType": "t3.micro"}, OnDemandOptions=options)
    assert reply["Instances"] == []
    here = [{"Name": "vpc-id", "Values": [still.vpc]}]
    seen = still.ec2.describe_instances(Filters=here)["Reservations"]
    assert {i["State"]["Name"] for r in seen for i in r["Instances"]} <= {"terminated"}


def test_a_fleet_with_the_same_token_is_one_fleet(still):
    override = {"InstanceType": "t3.micro", "SubnetId": still.subnet}
    made = template(still, NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": still.subnet}])
    request = {
        "Type": "instant",
        "ClientToken": f"token-{still.vpc}",
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {
                    "LaunchTemplateId": made["LaunchTemplateId"],
                    "Version": "1",
                },
                "Overrides": [override],
            }
        ],
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": 2,
            "DefaultTargetCapacityType": "on-demand",
        },
    }
    first, second = still.ec2.create_fleet(**request), still.ec2.create_fleet(**request)
    assert first["Instances"] == second["Instances"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client-token", "filter-token"),
        ("instance-lifecycle", "spot"),
        ("iam-instance-profile.arn", None),
        ("tag:colour", "blue"),
        ("instance-state-name", "running"),
    ],
)
def test_instances_are_found_by(still, profile, name, value):
    token = f"{value}-{still.vpc}" if name == "client-token" else f"other-{still.vpc}"
    (instance,) = still.run(
        ClientToken=token,
        IamInstanceProfile={"Arn": profile["Arn"]},
        InstanceMarketOptions={"MarketType": "spot"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "colour", "Value": "blue"}]}],
    )
    still.reach(instance["InstanceId"], "running")
    still.run()
    wanted = token if name == "client-token" else value or profile["Arn"]
    filters = [{"Name": name, "Values": [wanted]}, {"Name": "vpc-id", "Values": [still.vpc]}]
    seen = still.ec2.describe_instances(Filters=filters)["Reservations"]
    found = {i["InstanceId"] for r in seen for i in r["Instances"]}
    assert instance["InstanceId"] in found
    if name != "instance-state-name":
        assert found == {instance["InstanceId"]}
