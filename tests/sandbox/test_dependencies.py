import pytest


@pytest.fixture
def still(world):
    world.sandbox.set(boot="none")
    return world


@pytest.fixture
def gateway(still):
    made = still.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    still.ec2.attach_internet_gateway(InternetGatewayId=made, VpcId=still.vpc)
    return made


def launch(world, **interface):
    interface = {"DeviceIndex": 0, "SubnetId": world.subnet, "Groups": [world.group], **interface}
    (instance,) = world.run(NetworkInterfaces=[interface])
    world.reach(instance["InstanceId"], "running")
    return instance["InstanceId"]


def test_subnet_and_group_stay_while_an_instance_uses_them(still, refused):
    name = launch(still)
    assert refused(still.ec2.delete_subnet, SubnetId=still.subnet) == "DependencyViolation"
    assert refused(still.ec2.delete_security_group, GroupId=still.group) == "DependencyViolation"
    still.ec2.terminate_instances(InstanceIds=[name])
    still.reach(name, "terminated")
    still.ec2.delete_security_group(GroupId=still.group)
    still.ec2.delete_subnet(SubnetId=still.subnet)
    still.ec2.delete_vpc(VpcId=still.vpc)
    assert still.see(name)["State"]["Name"] == "terminated"


def test_a_group_stays_while_another_refers_to_it(still, refused):
    other = still.add_group("scheduler")
    rule = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "UserIdGroupPairs": [{"GroupId": still.group}]}]
    still.ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=rule)
    assert refused(still.ec2.delete_security_group, GroupId=still.group) == "DependencyViolation"
    still.ec2.revoke_security_group_ingress(GroupId=other, IpPermissions=rule)
    still.ec2.delete_security_group(GroupId=still.group)


def test_a_group_that_refers_to_itself_can_go(still):
    rule = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "UserIdGroupPairs": [{"GroupId": still.group}]}]
    still.ec2.authorize_security_group_ingress(GroupId=still.group, IpPermissions=rule)
    still.ec2.delete_security_group(GroupId=still.group)


@pytest.mark.parametrize("dependent", ["subnet", "group", "gateway", "endpoint"])
def test_a_vpc_stays_while_it_has_a(sandbox, ec2, refused, dependent):
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    if dependent == "subnet":
        ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")
    elif dependent == "group":
        ec2.create_security_group(GroupName="x", Description="x", VpcId=vpc)
    elif dependent == "gateway":
        made = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=made, VpcId=vpc)
    else:
        ec2.create_vpc_endpoint(VpcId=vpc, ServiceName="com.amazonaws.us-east-1.s3")
    assert refused(ec2.delete_vpc, VpcId=vpc) == "DependencyViolation"


def test_an_empty_vpc_goes(ec2):
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.delete_vpc(VpcId=vpc)
    assert vpc not in [entry["VpcId"] for entry in ec2.describe_vpcs()["Vpcs"]]


def test_an_internet_gateway_stays_while_attached(still, gateway, refused):
    assert refused(still.ec2.delete_internet_gateway, InternetGatewayId=gateway) == "DependencyViolation"


def test_an_internet_gateway_stays_attached_while_addresses_are_mapped(still, gateway, refused):
    name = launch(still, AssociatePublicIpAddress=True)
    detach = {"InternetGatewayId": gateway, "VpcId": still.vpc}
    assert refused(still.ec2.detach_internet_gateway, **detach) == "DependencyViolation"
    still.ec2.terminate_instances(InstanceIds=[name])
    still.reach(name, "terminated")
    still.ec2.detach_internet_gateway(**detach)


def test_a_vpc_has_one_internet_gateway(still, gateway, refused):
    second = still.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    attach = {"InternetGatewayId": second, "VpcId": still.vpc}
    assert refused(still.ec2.attach_internet_gateway, **attach) == "Resource.AlreadyAssociated"


def test_a_route_table_stays_while_associated(still, refused):
    table = still.ec2.create_route_table(VpcId=still.vpc)["RouteTable"]["RouteTableId"]
    still.ec2.associate_route_table(RouteTableId=table, SubnetId=still.subnet)
    assert refused(still.ec2.delete_route_table, RouteTableId=table) == "DependencyViolation"


def test_a_second_gateway_endpoint_for_the_same_route_table_is_refused(still, refused):
    table = still.ec2.create_route_table(VpcId=still.vpc)["RouteTable"]["RouteTableId"]
    request = {"VpcId": still.vpc, "ServiceName": "com.amazonaws.us-east-1.s3", "RouteTableIds": [table]}
    still.ec2.create_vpc_endpoint(**request)
    assert refused(still.ec2.create_vpc_endpoint, **request) == "RouteAlreadyExists"


def test_a_nat_gateway_takes_its_time_and_holds_its_address(still, gateway, refused, until):
    still.sandbox.set(nat_pending=0.5, nat_deleting=0.5)
    address = still.ec2.allocate_address(Domain="vpc")["AllocationId"]
    made = still.ec2.create_nat_gateway(SubnetId=still.subnet, AllocationId=address)["NatGateway"]
    name = made["NatGatewayId"]

    def state():
        return still.ec2.describe_nat_gateways(NatGatewayIds=[name])["NatGateways"][0]["State"]

    assert made["State"] == "pending"
    assert state() == "pending"
    until(lambda: state() == "available")
    still.ec2.delete_nat_gateway(NatGatewayId=name)
    assert state() == "deleting"
    assert refused(still.ec2.release_address, AllocationId=address) == "InvalidIPAddress.InUse"
    assert refused(still.ec2.delete_subnet, SubnetId=still.subnet) == "DependencyViolation"
    until(lambda: state() == "deleted")
    still.ec2.release_address(AllocationId=address)
    still.ec2.delete_subnet(SubnetId=still.subnet)


def test_an_unknown_nat_gateway_is_not_found(ec2, refused):
    assert refused(ec2.delete_nat_gateway, NatGatewayId="nat-0123456789abcdef0") == "NatGatewayNotFound"


def test_addresses_and_vpcs_have_limits(sandbox, ec2, refused):
    have = len(ec2.describe_addresses()["Addresses"])
    sandbox.set(address_limit=have + 1, vpc_limit=len(ec2.describe_vpcs()["Vpcs"]))
    ec2.allocate_address(Domain="vpc")
    assert refused(ec2.allocate_address, Domain="vpc") == "AddressLimitExceeded"
    assert refused(ec2.create_vpc, CidrBlock="10.0.0.0/16") == "VpcLimitExceeded"


def test_an_image_is_pending_first_and_its_name_is_used_once(still, refused, until):
    (instance,) = still.run()
    name = instance["InstanceId"]
    still.reach(name, "running")
    tags = [
        {"ResourceType": kind, "Tags": [{"Key": "owner", "Value": "coiled"}]}
        for kind in ("image", "snapshot")
    ]

    def bake(image, pending):
        still.sandbox.set(image_pending=pending)
        return still.ec2.create_image(InstanceId=name, Name=image, TagSpecifications=tags)["ImageId"]

    def image():
        return still.ec2.describe_images(ImageIds=[made])["Images"][0]

    made = bake(f"later-{name}", 3600)
    assert image()["State"] == "pending"
    made = bake(f"image-{name}", 0.2)
    until(lambda: image()["State"] == "available")
    snapshot = image()["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    seen = still.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert seen["Tags"] == [{"Key": "owner", "Value": "coiled"}]
    code = refused(still.ec2.create_image, InstanceId=name, Name=f"image-{name}")
    assert code == "InvalidAMIName.Duplicate"
