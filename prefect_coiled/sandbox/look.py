"""Reads from moto what is said of networks: the records of `network`, for the VPCs that have instances.

Reads only; to be called under the lock of the sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefect_coiled.sandbox.network import EVERYWHERE, Group, Interface, Route, RouteTable, Rule, Vpc

__all__ = ["look"]


def look(instances: Iterable[Any]) -> tuple[Vpc, ...]:
    """The VPCs that these instances are in.

    Args:
        instances: moto's instances.
    """
    inside: dict[str, list[Any]] = {}
    for instance in instances:
        inside.setdefault(instance.nics[0].subnet.vpc_id, []).append(instance)
    return tuple(_vpc(vpc_id, members) for vpc_id, members in inside.items())


def _vpc(vpc_id: str, instances: list[Any]) -> Vpc:
    backend = instances[0].ec2_backend
    interfaces = tuple(_interface(backend, instance) for instance in instances)
    blocks = backend.get_vpc(vpc_id).get_cidr_block_association_set(ipv6=False)
    tables = sorted({interface.table for interface in interfaces if interface.table})
    return Vpc(
        id=vpc_id,
        cidrs=tuple(block["cidr_block"] for block in blocks),
        interfaces=interfaces,
        groups=_groups(backend, vpc_id, {name for interface in interfaces for name in interface.groups}),
        tables=tuple(_table(backend, backend.route_tables[name]) for name in tables),
    )


def _interface(backend: Any, instance: Any) -> Interface:
    nic = instance.nics[0]
    table = _table_of(backend, nic.subnet)
    return Interface(
        instance_id=instance.id,
        address=nic.private_ip_address,
        subnet=nic.subnet.cidr_block,
        mac=nic.mac_address,
        public=nic.public_ip or "",
        groups=tuple(sorted(group.id for group in nic.group_set)),
        table=table.id if table else "",
    )


def _table_of(backend: Any, subnet: Any) -> Any:
    main = None
    for table in backend.route_tables.values():
        if subnet.id in table._associations.values():
            return table
        if table.vpc_id == subnet.vpc_id and table.main_association_id is not None:
            main = table
    return main


def _table(backend: Any, table: Any) -> RouteTable:
    routes = [
        Route(route.destination_cidr_block, *_way(backend, route))
        for route in table.routes
        if route.destination_cidr_block and not route.local
    ]
    if any(_leads_to_s3(endpoint, table.id) for endpoint in backend.vpc_end_points.values()):
        routes.append(Route("", "s3"))
    return RouteTable(table.id, tuple(routes))


def _way(backend: Any, route: Any) -> tuple[Any, str]:
    """Where a route leads, and by which public address."""
    if _is_internet(route):
        return "internet", ""
    gateway = route.nat_gateway
    if gateway is None or gateway.state != "available" or gateway.connectivity_type == "private":
        return "nothing", ""
    table = _table_of(backend, backend.get_subnet(gateway.subnet_id))
    out = any(
        _is_internet(r) and r.destination_cidr_block == EVERYWHERE for r in (table.routes if table else ())
    )
    addresses = [address.public_ip for address in backend.addresses if address.eni is gateway._eni]
    return ("nat", addresses[0]) if out and addresses else ("nothing", "")


def _is_internet(route: Any) -> bool:
    gateway = route.gateway
    return gateway is not None and gateway.id.startswith("igw-") and gateway.vpc is not None


def _leads_to_s3(endpoint: Any, table_id: str) -> bool:
    gateway = (endpoint.vpc_endpoint_type or "Gateway").lower() == "gateway"
    s3 = endpoint.service_name.endswith(".s3") and endpoint.state == "available"
    return gateway and s3 and table_id in (endpoint.route_table_ids or ())


def _groups(backend: Any, vpc_id: str, wanted: set[str]) -> tuple[Group, ...]:
    known = backend.groups.get(vpc_id, {})
    found = {}
    for name in wanted & set(known):
        group = known[name]
        found[name] = Group(name, _rules(group.ingress_rules), _rules(group.egress_rules))
    named = {rule.group for group in found.values() for rule in (*group.ingress, *group.egress) if rule.group}
    for name in named - set(found):
        found[name] = Group(name)
    return tuple(found[name] for name in sorted(found))


def _rules(rules: Iterable[Any]) -> tuple[Rule, ...]:
    found = []
    for rule in rules:
        cidr, group = rule.ip_range.get("CidrIp", ""), rule.source_group.get("GroupId", "")
        if not cidr and not group:
            continue  # IPv6, or a prefix list
        first, last = (rule.from_port, rule.to_port) if rule.ip_protocol != "-1" else (None, None)
        if first is not None and first < 0:
            first = last = None
        found.append(Rule(rule.ip_protocol or "-1", first, last, cidr, group))
    return tuple(found)
