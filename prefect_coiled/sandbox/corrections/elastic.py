"""Elastic addresses come from the data plane, where it has public addresses that answer.

moto draws them from 127.0.0.0/8.
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models import EC2Backend, ec2_backends, elastic_ip_addresses

from prefect_coiled.sandbox.plane import Address, DataPlane

__all__ = ["forget", "install"]


def install(plane: DataPlane) -> None:
    """Let addresses be taken from the plane, and given back.

    Args:
        plane: The data plane.
    """
    drawn = elastic_ip_addresses.random_ip
    moto_release = EC2Backend.release_address

    def release_address(self: Any, address: str | None = None, allocation_id: str | None = None) -> None:
        before = {known.public_ip for known in self.addresses}
        moto_release(self, address=address, allocation_id=allocation_id)
        for gone in before - {known.public_ip for known in self.addresses}:
            plane.give_back(Address("", gone))

    elastic_ip_addresses.random_ip = lambda: plane.take_public() or drawn()
    EC2Backend.release_address = release_address


def forget(plane: DataPlane) -> None:
    """All of moto's addresses are about to be forgotten.

    Args:
        plane: Where they came from.
    """
    for account in list(ec2_backends.values()):
        for backend in list(account.values()):
            for known in backend.addresses:
                plane.give_back(Address("", known.public_ip))
