"""What RunInstances refuses and moto accepts: user data, networks, subnets without addresses."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from prefect_coiled.sandbox.corrections.errors import ec2_error

__all__ = ["check_network", "check_user_data"]

_USER_DATA_LIMIT = 16384  # bytes before base64


def check_user_data(params: Mapping[str, Any]) -> None:
    """User data is base64 and at most 16 KB before it."""
    text = params.get("UserData")
    if not text:
        return
    try:
        size = len(base64.b64decode(str(text), validate=True))
    except (ValueError, binascii.Error) as error:
        raise ec2_error("InvalidParameterValue", "Invalid BASE64 encoding of user data.") from error
    if size > _USER_DATA_LIMIT:
        raise ec2_error("InvalidParameterValue", f"User data is limited to {_USER_DATA_LIMIT} bytes")


def check_network(backend: Any, params: Mapping[str, Any], least: int) -> str:
    """Subnet and groups belong together, and the subnet has addresses left.

    Args:
        backend: moto's EC2 backend.
        params: The merged parameters.
        least: How many instances there must be.

    Returns:
        The zone of the launch.
    """
    zone = params.get("Placement", {}).get("AvailabilityZone")
    if zone and backend.get_zone_by_name(zone) is None:
        raise ec2_error("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    default = f"{backend.region_name}a"
    for interface in params.get("NetworkInterfaces", []):
        if "SubnetId" not in interface:
            continue
        subnet = backend.get_subnet(interface["SubnetId"])
        if zone and zone != subnet.availability_zone:
            message = f"The availability zone '{zone}' is not that of subnet '{subnet.id}'"
            raise ec2_error("InvalidParameterCombination", message)
        default = subnet.availability_zone
        for name in interface.get("Groups", []):
            group = backend.get_security_group_from_id(name)
            if group is None:
                raise ec2_error("InvalidGroup.NotFound", f"The security group '{name}' does not exist")
            if group.vpc_id != subnet.vpc_id:
                message = f"Security group {name} and subnet {subnet.id} belong to different networks."
                raise ec2_error("InvalidParameter", message)
        used = sum(1 for nic in backend.enis.values() if nic.subnet.id == subnet.id)
        if subnet._available_ip_addresses - used < least:
            message = f"There are not enough free addresses in subnet '{subnet.id}'."
            raise ec2_error("InsufficientFreeAddressesInSubnet", message)
    return str(zone or default)
