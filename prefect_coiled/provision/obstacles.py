"""What would keep the clusters of an account from coming up, beside permissions and quotas. Reads only."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.images import find_image
from prefect_coiled.aws.network_rules import closed_ways
from prefect_coiled.aws.public_access import find_block
from prefect_coiled.aws.subnets import record
from prefect_coiled.aws.tagged import find_tagged
from prefect_coiled.aws.vpc import find_vpcs
from prefect_coiled.errors import AwsError, CredentialsError, OptionsError, ProvisionError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.tasks.cluster import check_own_network


def find_obstacles(aws: Aws, spec: ClusterSpec) -> list[str]:
    """Why a cluster would not come up, or not reach anything, each with what to do.

    What AWS does not show is not known; the cluster's launch would say it.

    Args:
        spec: A cluster as it would be made.
    """
    network = (_of_own_network,) if spec.network is not None else (_of_block, _of_rules)
    found: list[str] = []
    for look in (*network, _of_image):
        try:
            found += look(aws, spec)
        except CredentialsError:
            raise
        except AwsError:
            continue  # what another look shows is said all the same
    return found


def _of_own_network(aws: Aws, spec: ClusterSpec) -> list[str]:
    try:
        check_own_network.fn(aws, spec)
    except OptionsError as error:
        return [str(error)]
    return []


def _of_block(aws: Aws, spec: ClusterSpec) -> list[str]:
    shut = find_block(aws)
    return [shut] if shut else []


def _of_rules(aws: Aws, spec: ClusterSpec) -> list[str]:
    subnets = [record(one) for one in find_tagged(aws, "ec2:DescribeSubnets", "Subnets")]
    ids = [one.subnet_id for one in sorted(subnets, key=lambda one: one.tier != "public")]
    return [
        f"{way[:1].upper()}{way[1:]}."
        for vpc in find_vpcs(aws)
        for way in closed_ways(aws, vpc, ids, spec.scheduler_node.one_port or 0)
    ]


def _of_image(aws: Aws, spec: ClusterSpec) -> list[str]:
    try:
        find_image(aws, spec.architecture)
    except ProvisionError as error:
        return [str(error)]
    return []
