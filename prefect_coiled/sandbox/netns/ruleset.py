"""Pure: what is said of a VPC -> the nftables rules of its router.

The whole table is written anew at each change and replaces the one before in one transaction, so that there
is no moment with half of the rules. What EC2 says of security groups holds here:

- what no rule allows is dropped without an answer;
- answers pass, whatever the rules of the other direction say;
- a connection that is there goes on when its rule is revoked; only new ones are refused. But one that came
  in by a rule for everybody (0.0.0.0/0), where everything may go out, is not tracked, and is cut at once:
  https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/security-group-connection-tracking.html
- routes are asked for each packet, so that a way out that is taken away cuts what uses it.

There is no DNS, and who asks for it is told so at once instead of waiting for ten seconds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from prefect_coiled.sandbox.network import EVERYWHERE, Group, Interface, RouteTable, Rule, Vpc

__all__ = ["METADATA", "RESOLVER", "internet_rules", "publics", "vpc_rules"]

METADATA, RESOLVER = "169.254.169.254", "169.254.169.253"
# Marks of a packet: by which way it leaves the VPC, and that the rules for going out let it.
_INTERNET, _S3, _FIRST_NAT, _MAY_LEAVE = 0x1, 0x2, 0x100, 0x10000
_UNTRACKED = 0x1  # mark of a connection
_MOST_PORTS = 65535


def publics(vpc: Vpc) -> set[str]:
    """The public addresses that lead into a VPC: those of its instances and of the NAT gateways they use."""
    gateways = {route.nat for table in vpc.tables for route in table.routes if route.nat}
    return gateways | {interface.public for interface in vpc.interfaces if interface.public}


def vpc_rules(vpc: Vpc, s3: str) -> str:
    """The rules of a VPC's router. Its link to the internet is called "internet".

    Args:
        vpc: What is said of it.
        s3: The address of S3.
    """
    gateways = sorted({route.nat for table in vpc.tables for route in table.routes if route.nat})
    nats = {address: _FIRST_NAT + n for n, address in enumerate(gateways)}
    public = [i for i in vpc.interfaces if i.public]
    used = [g for g in vpc.groups if any(g.id in i.groups for i in vpc.interfaces)]
    lines = [
        "table inet vpc",
        "delete table inet vpc",
        "table inet vpc {",
        _set("hosts", (i.address for i in vpc.interfaces)),
        _set("local", vpc.cidrs, "flags interval;"),
        _set("public_hosts", (i.address for i in public)),
        _map("inward", "ipv4_addr", ((i.public, i.address) for i in public)),
        _map("outward", "ipv4_addr", ((i.address, i.public) for i in public)),
        _map("ways", "verdict", ((i.address, f"goto {_name(i.table)}") for i in vpc.interfaces if i.table)),
        *(_set(_name(group.id), _members(group, vpc.interfaces)) for group in vpc.groups),
        "chain by_internet {",
        f"ip saddr @public_hosts meta mark set {_INTERNET} return",
        "drop",
        "}",
        *(line for table in vpc.tables for line in _table(table, nats, s3)),
        *(line for group in used for line in _group(group)),
        "chain leaving {",
        *(f"ip saddr @{_name(group.id)} jump out_{_name(group.id)}" for group in used),
        f"meta mark & {_MAY_LEAVE} == {_MAY_LEAVE} return",
        "drop",
        "}",
        "chain entering {",
        *(f"ip daddr @{_name(group.id)} jump in_{_name(group.id)}" for group in used),
        "drop",
        "}",
        _FIXED,
        "chain sources { type nat hook postrouting priority srcnat; policy accept;",
        f'oifname "internet" meta mark & 0xffff == {_INTERNET} snat ip to ip saddr map @outward',
        f'oifname "internet" meta mark & 0xffff == {_S3} masquerade',
        *(
            f'oifname "internet" meta mark & 0xffff == {mark} snat ip to {address}'
            for address, mark in nats.items()
        ),
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


_FIXED = f"""chain routes {{
ip saddr vmap @ways
drop
}}
chain forward {{ type filter hook forward priority filter; policy drop;
ip saddr @hosts ip daddr != @local meta l4proto {{ tcp, udp }} th dport 53 reject
ip saddr @hosts ip daddr != @local jump routes
ct state established,related ct mark 0 accept
ct direction reply accept
ip saddr @hosts jump leaving
iifname != "internet" ip daddr @hosts jump entering
ct status dnat ip daddr @hosts jump entering
ip daddr @local drop
ip saddr @hosts accept
}}
chain input {{ type filter hook input priority filter; policy drop;
ct state established,related accept
ip saddr @hosts ip daddr {METADATA} tcp dport 80 accept
ip saddr @hosts ip daddr {RESOLVER} udp dport 53 accept
udp sport 68 udp dport 67 accept
}}
chain destinations {{ type nat hook prerouting priority dstnat; policy accept;
iifname "internet" dnat ip to ip daddr map @inward
}}"""


def internet_rules(endpoints: Sequence[str], relay: int = 0) -> str:
    """The rules of the internet: from VPCs to AWS's endpoints, to the client and to each other.

    The client reaches AWS's API on the loopback; others on this machine, who reach the client's link too,
    must not reach it.

    Args:
        endpoints: AWS's addresses.
        relay: A port here to which connections are redirected that leave the sandbox, if there is one.
    """
    return "\n".join(
        [
            "table inet internet",
            "delete table inet internet",
            "table inet internet {",
            _set("endpoints", endpoints),
            "chain input { type filter hook input priority filter; policy drop;",
            "ct state established,related accept",
            'iifname "vpc*" ip daddr @endpoints tcp dport 80 accept',
            *([f'iifname "vpc*" ct status dnat tcp dport {relay} accept'] if relay else []),
            'iifname "vpc*" reject',
            "}",
            "}\n",
        ]
    )


def _table(table: RouteTable, nats: dict[str, int], s3: str) -> list[str]:
    """The narrowest destination first, as routes are chosen."""
    lines = [f"chain {_name(table.id)} {{"]
    if any(route.through == "s3" for route in table.routes):
        lines.append(f"ip daddr {s3} meta mark set {_S3} return")
    narrowest = sorted(
        (route for route in table.routes if route.cidr),
        key=lambda route: -ipaddress.ip_network(route.cidr, strict=False).prefixlen,
    )
    for route in narrowest:
        to = "" if route.cidr == EVERYWHERE else f"ip daddr {route.cidr} "
        if route.through == "internet":
            lines.append(f"{to}goto by_internet")
        elif route.through == "nat":
            lines.append(f"{to}meta mark set {nats[route.nat]} return")
        else:
            lines.append(f"{to}drop")
    return [*lines, "drop", "}"]


def _group(group: Group) -> list[str]:
    everything_out = any(
        rule.cidr == EVERYWHERE and rule.protocol == "-1" and rule.first is None for rule in group.egress
    )
    # Rules for everybody first: what they let in is not tracked, even if a narrower rule lets it in too.
    ingress = sorted(group.ingress, key=lambda rule: rule.cidr != EVERYWHERE)
    lines = [f"chain in_{_name(group.id)} {{"]
    for rule in ingress:
        if everything_out and rule.cidr == EVERYWHERE and rule.protocol in ("tcp", "udp", "-1"):
            flows = _traffic(rule) or "meta l4proto { tcp, udp } "
            lines.append(f"{flows}ct mark set {_UNTRACKED} accept")
        lines.append(f"{_peer(rule, 'saddr')}{_traffic(rule)}accept")
    lines += ["}", f"chain out_{_name(group.id)} {{"]
    for rule in group.egress:
        allowed = f"meta mark set meta mark | {_MAY_LEAVE} return"
        lines.append(f"{_peer(rule, 'daddr')}{_traffic(rule)}{allowed}")
    return [*lines, "}"]


def _peer(rule: Rule, end: str) -> str:
    if rule.group:
        return f"ip {end} @{_name(rule.group)} "
    return "" if rule.cidr == EVERYWHERE else f"ip {end} {rule.cidr} "


def _traffic(rule: Rule) -> str:
    if rule.protocol == "-1":
        return ""
    if rule.protocol in ("tcp", "udp"):
        first, last = rule.first or 0, _MOST_PORTS if rule.last is None else rule.last
        return (
            f"{rule.protocol} dport {first}-{last} " if first != last else f"{rule.protocol} dport {first} "
        )
    if rule.protocol == "icmp" and rule.first is not None:
        return f"icmp type {rule.first} "
    return f"meta l4proto {rule.protocol} "


def _members(group: Group, interfaces: Iterable[Interface]) -> list[str]:
    return [interface.address for interface in interfaces if group.id in interface.groups]


def _name(identity: str) -> str:
    return identity.replace("-", "_")


def _set(name: str, elements: Iterable[str], flags: str = "") -> str:
    return f"set {name} {{ type ipv4_addr; {flags} {_elements(elements)} }}"


def _map(name: str, to: str, pairs: Iterable[tuple[str, str]]) -> str:
    return f"map {name} {{ type ipv4_addr : {to}; {_elements(f'{a} : {b}' for a, b in pairs)} }}"


def _elements(elements: Iterable[str]) -> str:
    text = ", ".join(sorted(set(elements)))
    return f"elements = {{ {text} }};" if text else ""
