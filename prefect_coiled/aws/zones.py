"""Availability zones of the region. Read only."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws


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
