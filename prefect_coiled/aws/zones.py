"""Availability zones of the region. Read only."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import OptionsError


def check_zone_there(aws: Aws, zone: str) -> None:
    """Refuse a zone that the AWS account does not have: which letters there are differs by AWS account.

    Raises:
        OptionsError: There is no such zone. The message names those that there are.
    """
    there = find_zones(aws)
    if zone not in there:
        raise OptionsError(
            f"zone {zone!r}", f"is none of AWS's in {aws.region}.", f"There is: {', '.join(there)}."
        )


def find_zones(aws: Aws) -> tuple[str, ...]:
    """The names of the region's own availability zones that take new machines, sorted.

    Local and wavelength zones are left out: not every instance type or NAT gateway is there.
    """
    reply = aws.call(
        "ec2:DescribeAvailabilityZones",
        f"listing zones ({aws.region})",
        Filters=[
            {"Name": "opt-in-status", "Values": ["opt-in-not-required"]},
            {"Name": "state", "Values": ["available"]},
        ],
    )
    return tuple(sorted(zone["ZoneName"] for zone in reply["AvailabilityZones"]))
