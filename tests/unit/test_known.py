"""What is known of an account, as text, and for which clusters it does."""

from __future__ import annotations

import pytest

from prefect_coiled.plan.known import NOTHING, Known, image_key, wants_of
from prefect_coiled.records import AccountRecord, MachineImage, Network, Subnet
from tests.unit.test_cluster_options import plan as a_spec

ZONES = [f"us-east-1{letter}" for letter in "abcdef"]


def known(*, zones: list[str] = ZONES, nat: bool = True, blocked: str = "") -> Known:
    subnets = tuple(
        Subnet(subnet_id=f"subnet-{n}{tier}", zone=zone, tier=tier, cidr=f"10.77.{n}.0/20", blocked=blocked)
        for n, zone in enumerate(zones)
        for tier in ("public", "private")
    )
    network = Network(
        vpc_id="vpc-0a1b2c3d4e5f60718",
        cidr="10.77.0.0/16",
        subnets=subnets,
        internet_gateway_id="igw-0a1b2c3d4e5f60718",
        public_route_table_id="rtb-0a1b2c3d4e5f60718",
        private_route_tables=dict.fromkeys(zones, "rtb-0a1b2c3d4e5f60718"),
        s3_endpoint_id="vpce-0a1b2c3d4e5f60718",
        nat_gateways={zones[0]: "nat-0a1b2c3d4e5f60718"} if nat else {},
    )
    account = AccountRecord(
        account="team",
        region="us-east-1",
        aws_account_id="123456789012",
        creator="ann",
        network=network,
        role_arn="arn:aws:iam::123456789012:role/team",
        instance_profile_arn="arn:aws:iam::123456789012:instance-profile/team",
        log_group="team",
    )
    image = MachineImage(image_id="ami-0a1b2c3d4e5f60718", root_device="/dev/xvda", disk=8)
    return Known(version=3, wants="w", account=account, images={image_key("x86_64", gpu=False): image})


def test_it_goes_through_text_that_fits_a_parameter() -> None:
    text = known().encode()
    assert Known.decode(text) == known()
    assert len(text) < 2048


@pytest.mark.parametrize("text", [NOTHING, "", "x", "e30="])
def test_what_is_none_of_it_is_nothing(text: str) -> None:
    assert Known.decode(text) is None


def test_it_serves_a_cluster_whose_zone_and_way_out_are_there() -> None:
    spec = a_spec(zone="us-east-1a")
    assert known().serves(spec)
    assert not known(zones=["us-east-1b"]).serves(spec)
    assert not known(nat=False).serves(spec)
    assert known(nat=False).serves(a_spec(zone="us-east-1a", backend_options={"egress": "public-ip"}))


def test_a_network_that_was_closed_is_looked_at_again() -> None:
    assert not known(blocked="block-ingress").serves(a_spec(zone="us-east-1a"))


def test_another_version_or_boundary_wants_something_else() -> None:
    wanted = {
        wants_of("team", "123456789012", boundary, library)
        for boundary in ("", "none")
        for library in ("1.0", "1.1")
    }
    assert len(wanted) == 4
