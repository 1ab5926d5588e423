from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def still(world):
    world.sandbox.set(boot="none")
    return world


def test_the_same_token_gives_the_same_instances(still):
    token = f"t-{still.vpc}"
    first, second = still.run(count=2, ClientToken=token), still.run(count=2, ClientToken=token)
    assert [i["InstanceId"] for i in first] == [i["InstanceId"] for i in second]


def test_two_at_once_with_the_same_token_have_one_effect(still):
    token = f"t-{still.vpc}"
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: still.run(ClientToken=token)[0]["InstanceId"], range(8)))
    assert len(ids) == 1


def test_a_token_with_other_parameters_is_refused(still, refused):
    token = f"t-{still.vpc}"
    still.run(count=1, ClientToken=token)
    assert refused(still.run, count=2, ClientToken=token) == "IdempotentParameterMismatch"


def test_the_zone_is_no_part_of_the_comparison(still):
    token = f"t-{still.vpc}"
    request = {"ImageId": still.image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
    first = still.ec2.run_instances(
        **request, ClientToken=token, Placement={"AvailabilityZone": "us-east-1a"}
    )
    second = still.ec2.run_instances(
        **request, ClientToken=token, Placement={"AvailabilityZone": "us-east-1b"}
    )
    assert first["Instances"][0]["InstanceId"] == second["Instances"][0]["InstanceId"]


def test_a_token_outlives_its_instance(still, refused):
    token = f"t-{still.vpc}"
    (instance,) = still.run(ClientToken=token)
    still.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    assert refused(still.run, ClientToken=token) == "IdempotentInstanceTerminated"


def test_a_launch_that_failed_does_not_use_up_its_token(still, refused):
    token = f"t-{still.vpc}"
    still.sandbox.faults(
        [{"effect": "error", "action": "RunInstances", "code": "Unsupported", "status": 400}]
    )
    assert refused(still.run, ClientToken=token) == "Unsupported"
    still.sandbox.faults([])
    assert still.run(ClientToken=token)


def test_other_creating_calls_have_tokens_too(still):
    token = f"t-{still.vpc}"
    address = still.ec2.allocate_address(Domain="vpc")["AllocationId"]
    makes = [
        lambda: still.ec2.create_route_table(VpcId=still.vpc, ClientToken=token)["RouteTable"][
            "RouteTableId"
        ],
        lambda: still.ec2.create_nat_gateway(SubnetId=still.subnet, AllocationId=address, ClientToken=token)[
            "NatGateway"
        ]["NatGatewayId"],
        lambda: still.ec2.create_launch_template(
            LaunchTemplateName=token, LaunchTemplateData={"ImageId": still.image}, ClientToken=token
        )["LaunchTemplate"]["LaunchTemplateId"],
        lambda: still.ec2.create_vpc_endpoint(
            VpcId=still.vpc, ServiceName="com.amazonaws.us-east-1.s3", ClientToken=token
        )["VpcEndpoint"]["VpcEndpointId"],
    ]
    for make in makes:
        assert make() == make()


def test_a_call_without_a_token_in_aws_has_its_effect_twice(still):
    first, second = (still.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("operation", ["create_vpc", "run_instances", "terminate_instances"])
def test_a_dry_run_says_so_and_does_nothing(still, refused, operation):
    (instance,) = still.run()
    options = {
        "create_vpc": {"CidrBlock": "10.77.0.0/16"},
        "run_instances": {"ImageId": still.image, "MinCount": 1, "MaxCount": 1, "SubnetId": still.subnet},
        "terminate_instances": {"InstanceIds": [instance["InstanceId"]]},
    }[operation]
    assert refused(getattr(still.ec2, operation), DryRun=True, **options) == "DryRunOperation"
    here = [{"Name": "vpc-id", "Values": [still.vpc]}]
    seen = still.ec2.describe_instances(Filters=here)["Reservations"]
    assert [i["InstanceId"] for r in seen for i in r["Instances"]] == [instance["InstanceId"]]
    assert still.see(instance["InstanceId"])["State"]["Name"] != "terminated"
    blocks = [vpc["CidrBlock"] for vpc in still.ec2.describe_vpcs()["Vpcs"]]
    assert "10.77.0.0/16" not in blocks
