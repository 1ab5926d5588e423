"""Service-linked roles of EC2's spot machines: moto names them otherwise.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/service-linked-roles-spot-instance-requests.html
"""

from __future__ import annotations

from moto.iam.models import SERVICE_NAME_CONVERSION

__all__ = ["install"]


def install() -> None:
    """Give the roles AWS's names."""
    SERVICE_NAME_CONVERSION.update({"spot": "EC2Spot", "spotfleet": "EC2SpotFleet"})
