"""Filters of DescribeInstances that moto answers with an HTML page and status 500."""

from __future__ import annotations

from moto.ec2.utils import filter_dict_attribute_mapping

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
