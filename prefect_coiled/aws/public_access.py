"""Whether VPC Block Public Access would keep an account's machines from reaching anything. Read only.

AWS refuses no launch for it: machines run, and neither they nor clients reach each other.
"""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.subnets import blocked, record
from prefect_coiled.aws.tagged import find_tagged
from prefect_coiled.errors import AwsError
from prefect_coiled.plan.network import blocked_words


def find_block(aws: Aws) -> str:
    """Why machines of the account's network would reach nothing, and what to do; empty if nothing is known.

    AWS says it with each VPC and subnet, so that no further permission is needed. Where the account has no
    network yet, that of a VPC which is not excluded tells what a new one would get.
    """
    try:
        subnets = find_tagged(aws, "ec2:DescribeSubnets", "Subnets")
        found = [one for one in subnets if record(one).tier == "public"] or list(
            aws.pages("ec2:DescribeVpcs", "looking at the VPCs of the AWS account", "Vpcs")
        )
    except AwsError:
        return ""
    for item in found:
        if mode := blocked(item):
            own = str(item["VpcId"]) if "SubnetId" in item else ""
            return f"{own or 'A new VPC'}: {'. '.join(blocked_words(mode, own, aws.region))}"
    return ""
