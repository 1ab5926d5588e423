"""Filters that moto does not know.

Some of DescribeInstances it answers with an HTML page and status 500; tags of NAT gateways it passes over in
silence, so that a neighbour's gateways are found too.
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models import EC2Backend
from moto.ec2.utils import filter_dict_attribute_mapping, is_tag_filter, tag_filter_matches

__all__ = ["install"]


def install() -> None:
    """Teach moto where the values are."""
    filter_dict_attribute_mapping.update(
        {
            "client-token": "client_token",
            "iam-instance-profile.arn": "iam_instance_profile.Arn",
            "instance-lifecycle": "lifecycle",
            "instance-state-code": "state_code",
            "reservation-id": "reservation_id",
            "spot-instance-request-id": "spot_instance_request_id",
        }
    )
    moto_describe = EC2Backend.describe_nat_gateways

    def describe_nat_gateways(self: Any, filters: Any, nat_gateway_ids: Any) -> list[Any]:
        found: list[Any] = moto_describe(self, filters, nat_gateway_ids)
        wanted = {name: values for name, values in (filters or {}).items() if is_tag_filter(name)}
        return [n for n in found if all(tag_filter_matches(n, k, v) for k, v in wanted.items())]

    EC2Backend.describe_nat_gateways = describe_nat_gateways
