"""Each region of the options: set up, launched in, with what is special there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.config import Config

from prefect_coiled.aws.credentials import Account
from prefect_coiled.aws.images import find_image
from prefect_coiled.options import REGIONS
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import create_cluster, remove_cluster
from prefect_coiled.provision.sessions import open_door
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(shared_sandbox: Sandbox) -> Iterator[None]:
    yield
    shared_sandbox.reset()


@pytest.mark.parametrize("region", REGIONS)
def test_an_account_is_set_up_and_a_cluster_launched_in_each_region(
    account: Account, spec: Callable[..., ClusterSpec], sandbox: Sandbox, region: str
) -> None:
    aws = open_door(account, region)
    with use_session(Session(aws)):
        record = create_cluster(spec(backend_options={"region": region}))
        shown = sandbox.client("ec2", region)
        zones = shown.describe_availability_zones()["AvailabilityZones"]
        names = {zone["ZoneName"] for zone in zones if zone["ZoneType"] == "availability-zone"}
        mine = [{"Name": "tag:coiled-account", "Values": ["team"]}]
        subnets = shown.describe_subnets(Filters=mine)["Subnets"]
        # One for what is public and one for what is not, in each zone that takes machines.
        assert sorted(subnet["AvailabilityZone"] for subnet in subnets) == sorted([*names, *names])
        assert record.zone in names
        assert {worker.zone for worker in record.workers} <= names
        (bucket,) = (b for b in _buckets(sandbox) if f"-{region}-" in b)
        where = sandbox.client("s3", region).get_bucket_location(Bucket=bucket)["LocationConstraint"]
        assert where == (None if region == "us-east-1" else region)
        assert find_image(aws, "x86_64", gpu=True).disk > find_image(aws, "arm64").disk
        # AWS shows those that were deleted for a while.
        there = [*mine, {"Name": "vpc-endpoint-state", "Values": ["available"]}]
        (endpoint,) = shown.describe_vpc_endpoints(Filters=there)["VpcEndpoints"]
        assert endpoint["ServiceName"] == f"com.amazonaws.{region}.s3"
        assert remove_cluster(aws, record.name, record.uid).is_done


def _buckets(sandbox: Sandbox) -> list[str]:
    listed: Any = sandbox.client("s3", "us-east-1", config=Config())
    return [bucket["Name"] for bucket in listed.list_buckets()["Buckets"]]
