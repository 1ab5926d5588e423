"""Deletes that AWS refuses while something depends on the resource; moto goes ahead.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html (DependencyViolation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.ec2.models import EC2Backend

from prefect_coiled.sandbox.corrections.errors import ec2_error, in_use
from prefect_coiled.sandbox.settings import Settings

__all__ = ["install"]


def _interfaces(backend: Any, belongs: Callable[[Any], bool]) -> list[Any]:
    return [nic for nic in backend.enis.values() if belongs(nic)]


def _refers(backend: Any, group_id: str) -> bool:
    rules = (
        rule
        for groups in backend.groups.values()
        for group in groups.values()
        if group.id != group_id
        for rule in (*group.ingress_rules, *group.egress_rules)
    )
    return any((rule.source_group or {}).get("GroupId") == group_id for rule in rules)


def _mapped(backend: Any, vpc_id: str) -> bool:
    return bool(
        _interfaces(
            backend,
            lambda nic: (
                nic.subnet.vpc_id == vpc_id
                and (nic.public_ip or any(address.eni is nic for address in backend.addresses))
            ),
        )
    )


def _check_subnet(backend: Any, subnet_id: str) -> None:
    backend.get_subnet(subnet_id)
    if _interfaces(backend, lambda nic: nic.subnet.id == subnet_id):
        raise in_use(f"The subnet '{subnet_id}' has dependencies and cannot be deleted.")


def _check_group(backend: Any, name: str | None = None, group_id: str | None = None) -> None:
    if group_id is None:
        return
    attached = _interfaces(backend, lambda nic: group_id in {group.id for group in nic.group_set})
    if attached or _refers(backend, group_id):
        raise in_use(f"resource {group_id} has a dependent object")


def _check_attach(backend: Any, internet_gateway_id: str, vpc_id: str) -> None:
    if any(gateway.vpc and gateway.vpc.id == vpc_id for gateway in backend.internet_gateways.values()):
        message = f"resource {vpc_id} is already associated with another internet gateway"
        raise ec2_error("Resource.AlreadyAssociated", message)


def _check_detach(backend: Any, internet_gateway_id: str, vpc_id: str) -> None:
    if _mapped(backend, vpc_id):
        message = (
            f"Network {vpc_id} has some mapped public address(es). Please unmap those public address(es) "
            "before detaching the gateway."
        )
        raise in_use(message)


def _check_address(backend: Any, address: str | None = None, allocation_id: str | None = None) -> None:
    for known in backend.addresses:
        asked = known.allocation_id == allocation_id if allocation_id else known.public_ip == address
        # That of a machine in the default VPC is taken from it by itself:
        # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ReleaseAddress.html
        if asked and known.instance is not None and _is_default(backend, known.instance):
            continue
        if asked and (known.eni is not None or known.instance is not None):
            raise ec2_error("InvalidIPAddress.InUse", f"Address {known.public_ip} is in use.")


def _is_default(backend: Any, instance: Any) -> bool:
    found = backend.get_vpc(instance.vpc_id)
    return found is not None and str(found.is_default).lower() == "true"


def _check_vpc(backend: Any, vpc_id: str) -> None:
    backend.get_vpc(vpc_id)
    gateways = any(gateway.vpc and gateway.vpc.id == vpc_id for gateway in backend.internet_gateways.values())
    groups = any(group.name != "default" for group in backend.groups.get(vpc_id, {}).values())
    endpoints = any(
        endpoint.vpc_id == vpc_id and endpoint.state != "deleted"
        for endpoint in backend.vpc_end_points.values()
    )
    if gateways or groups or endpoints or _interfaces(backend, lambda nic: nic.subnet.vpc_id == vpc_id):
        raise in_use(f"The vpc '{vpc_id}' has dependencies and cannot be deleted.")


def _check_endpoint(backend: Any, vpc_id: str, service_name: str, **kwargs: Any) -> None:
    tables = set(kwargs.get("route_table_ids") or [])
    for endpoint in backend.vpc_end_points.values():
        same = endpoint.vpc_id == vpc_id and endpoint.service_name == service_name
        both = tables & set(endpoint.route_table_ids or [])
        if same and both and endpoint.state != "deleted":
            message = f"route table {min(both)} already has a route to the prefix list of {service_name}"
            raise ec2_error("RouteAlreadyExists", message)


def install(settings: Settings) -> None:
    """Let each of these operations be checked first.

    Args:
        settings: For the limits on VPCs and addresses.
    """

    def check_vpc_limit(backend: Any, *args: Any, **kwargs: Any) -> None:
        if settings.vpc_limit is not None and len(backend.vpcs) >= settings.vpc_limit:
            raise ec2_error("VpcLimitExceeded", "The maximum number of VPCs has been reached.")

    def check_gateway_limit(backend: Any, *args: Any, **kwargs: Any) -> None:
        # The quota on internet gateways follows that on VPCs.
        if settings.vpc_limit is not None and len(backend.internet_gateways) >= settings.vpc_limit:
            message = "The maximum number of internet gateways has been reached."
            raise ec2_error("InternetGatewayLimitExceeded", message)

    def check_address_limit(backend: Any, *args: Any, **kwargs: Any) -> None:
        if settings.address_limit is not None and len(backend.addresses) >= settings.address_limit:
            raise ec2_error("AddressLimitExceeded", "The maximum number of addresses has been reached.")

    checks: dict[str, Callable[..., None]] = {
        "delete_subnet": _check_subnet,
        "delete_security_group": _check_group,
        "attach_internet_gateway": _check_attach,
        "detach_internet_gateway": _check_detach,
        "release_address": _check_address,
        "delete_vpc": _check_vpc,
        "create_vpc_endpoint": _check_endpoint,
        "create_vpc": check_vpc_limit,
        "create_internet_gateway": check_gateway_limit,
        "allocate_address": check_address_limit,
    }
    for name, check in checks.items():
        setattr(EC2Backend, name, _checked(check, getattr(EC2Backend, name)))


def _checked(check: Callable[..., None], operation: Callable[..., Any]) -> Callable[..., Any]:
    def checked(backend: Any, *args: Any, **kwargs: Any) -> Any:
        check(backend, *args, **kwargs)
        return operation(backend, *args, **kwargs)

    return checked
