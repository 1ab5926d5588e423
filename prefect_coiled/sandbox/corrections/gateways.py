"""NAT gateways take time on AWS: pending, then available; deleting, then deleted.

moto's are available at once, and once deleted keep their interface and their address for ever. The times
are settings; while a gateway is deleting it still holds its address and its interface, as on AWS. One that
cannot work fails after its time: https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html
"""

from __future__ import annotations

import time
from typing import Any

from moto.ec2.models import EC2Backend
from moto.ec2.models.nat_gateways import NatGateway

from prefect_coiled.sandbox.corrections.errors import ec2_error
from prefect_coiled.sandbox.settings import Settings

__all__ = ["install", "settle"]


def install(settings: Settings) -> None:
    """Give NAT gateways their states.

    Args:
        settings: `nat_pending` and `nat_deleting`, in seconds.
    """

    def state(self: Any) -> str:
        told, since = self._told
        age = time.monotonic() - since
        if told in ("available", "failed") and age < settings.nat_pending:
            return "pending"
        if told == "deleted" and age < settings.nat_deleting:
            return "deleting"
        return str(told)

    def set_state(self: Any, told: str) -> None:
        self._told = (told, time.monotonic())

    def delete_nat_gateway(self: Any, nat_gateway_id: str) -> Any:
        gateway = self.nat_gateways.get(nat_gateway_id)
        if gateway is None:
            raise ec2_error("NatGatewayNotFound", f"NAT gateway {nat_gateway_id} was not found")
        if gateway.state not in ("deleting", "deleted"):
            gateway.state = "deleted"
        settle(self)
        return gateway

    moto_create = EC2Backend.create_nat_gateway

    def create_nat_gateway(
        self: Any, subnet_id: str, allocation_id: str, tags: Any = None, connectivity_type: str | None = None
    ) -> Any:
        public = connectivity_type != "private"
        failure = _failure(self, subnet_id, allocation_id) if public else None
        if failure is None:
            return moto_create(self, subnet_id, allocation_id, tags, connectivity_type)
        gateway = moto_create(self, subnet_id, "", tags, connectivity_type)
        self.enis.pop(gateway._eni.id)
        gateway.state = "failed"
        gateway.failure_code, gateway.failure_message = failure
        return gateway

    NatGateway.failure_code = NatGateway.failure_message = None
    NatGateway.state = property(state, set_state)
    EC2Backend.create_nat_gateway = create_nat_gateway
    EC2Backend.delete_nat_gateway = delete_nat_gateway


def _failure(backend: Any, subnet_id: str, allocation_id: str) -> tuple[str, str] | None:
    """Why a public gateway there could not work: code and message."""
    vpc = backend.get_subnet(subnet_id).vpc_id
    if not any(gateway.vpc and gateway.vpc.id == vpc for gateway in backend.internet_gateways.values()):
        return "Gateway.NotAttached", f"Network {vpc} has no Internet gateway attached"
    (address,) = backend.address_by_allocation([allocation_id])
    if address.association_id:
        message = f"Elastic IP address [{allocation_id}] is already associated"
        return "Resource.AlreadyAssociated", message
    return None


def settle(backend: Any) -> None:
    """Release the interface and the address of each gateway that is deleted by now."""
    for gateway in backend.nat_gateways.values():
        nic = gateway._eni
        if gateway.state == "deleted" and nic.id in backend.enis:
            for address in backend.addresses:
                if address.eni is nic:
                    address.eni = address.association_id = None
            backend.enis.pop(nic.id)
