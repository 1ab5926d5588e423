"""What is said of networks, as plain records: who has which address, who may reach whom, which way is out.

A data plane whose firewall is real makes it so from these records alone. Nothing here knows of moto, or of
how packets are moved. Only IPv4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["EVERYWHERE", "Group", "Interface", "Route", "RouteTable", "Rule", "Vpc"]

EVERYWHERE = "0.0.0.0/0"


@dataclass(frozen=True)
class Rule:
    """One rule of a security group, with one peer.

    Attributes:
        protocol: "tcp", "udp", "icmp", the number of another protocol, or "-1" for all.
        first: The first port, or the type of ICMP; None for all.
        last: The last port.
        cidr: The peer's network, where it is one.
        group: The id of the peer's security group, where it is one.
    """

    protocol: str
    first: int | None = None
    last: int | None = None
    cidr: str = ""
    group: str = ""


@dataclass(frozen=True)
class Group:
    """A security group.

    Attributes:
        id: Its id.
        ingress: What may come in.
        egress: What may go out.
    """

    id: str
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Route:
    """A way out of a VPC; what stays inside needs none.

    Attributes:
        cidr: The destination; empty for that of the S3 endpoint.
        through: An internet gateway, a NAT gateway, S3's gateway endpoint, or nothing that works.
        nat: The public address of the NAT gateway.
    """

    cidr: str
    through: Literal["internet", "nat", "s3", "nothing"]
    nat: str = ""


@dataclass(frozen=True)
class RouteTable:
    """A route table.

    Attributes:
        id: Its id.
        routes: Its routes, in any order: the narrowest destination wins.
    """

    id: str
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True)
class Interface:
    """The network interface of an instance.

    Attributes:
        instance_id: Whose it is.
        address: Its private address.
        subnet: The block of its subnet, such as "10.77.16.0/20".
        mac: Its hardware address.
        public: Its public address, or empty.
        groups: The ids of its security groups.
        table: The id of the route table that its subnet uses.
    """

    instance_id: str
    address: str
    subnet: str
    mac: str = ""
    public: str = ""
    groups: tuple[str, ...] = ()
    table: str = ""


@dataclass(frozen=True)
class Vpc:
    """A VPC with instances in it.

    Attributes:
        id: Its id.
        cidrs: Its blocks.
        interfaces: Those of its instances, from their launch to their end.
        groups: Their security groups, and those that are named in rules of these.
        tables: The route tables that they use.
    """

    id: str
    cidrs: tuple[str, ...]
    interfaces: tuple[Interface, ...] = ()
    groups: tuple[Group, ...] = ()
    tables: tuple[RouteTable, ...] = ()
