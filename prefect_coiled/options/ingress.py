"""What may reach the scheduler from outside: ports, and the networks they are open to."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import OptionsModel, renamed, unset

SSH_PORT = 22
DEFAULT_PORTS = (SSH_PORT, 8787, 8786)
ANYWHERE = "0.0.0.0/0"
# Whoever means everybody writes one of these.
_EVERYBODY = (ANYWHERE, "::/0")
_LEAVE_OUT = (
    f'Write "{ANYWHERE}" for everybody or "me" for your own address, or leave it out for the default.'
)


def _check_cidr(cidr: object) -> str:
    if not isinstance(cidr, str):
        raise OptionsError(f"cidr {cidr!r}", 'must be a text such as "203.0.113.0/24", or "me".')
    text = cidr.strip()
    if not text:
        raise OptionsError(
            "cidr ''",
            "is blank, which opens nothing.",
            f'Write "{ANYWHERE}" for everybody, "me" for your own address, or ingress=[] to let nobody in.',
        )
    if text == "me":
        return text
    try:
        network = str(ipaddress.ip_network(text))
    except ValueError:
        network = ""
    if network and (network not in _EVERYBODY or text == network):
        return network
    if network:
        raise OptionsError(f"cidr {cidr!r}", "would let in everybody.", f'Write "{network}" if you mean it.')
    try:
        wanted = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise OptionsError(
            f"cidr {cidr!r}", 'is not an IPv4 or IPv6 network such as "203.0.113.0/24", nor "me".'
        ) from None
    raise OptionsError(f"cidr {cidr!r}", "names one host, not the start of a network.", f'Write "{wanted}".')


def _check_ports(ports: object) -> tuple[int, ...]:
    if isinstance(ports, int):
        ports = (ports,)
    if not isinstance(ports, (list, tuple)):
        raise OptionsError(f"ports {ports!r}", "must be a list of numbers from 1 to 65535.")
    for port in ports:
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            raise OptionsError(f"port {port!r}", "must be a number from 1 to 65535.")
    if not ports:
        raise OptionsError("ports []", "needs at least one port.", "To open none at all, give ingress=[].")
    return tuple(dict.fromkeys(ports))


class IngressRule(OptionsModel):
    """Ports that a source may reach on the scheduler.

    Attributes:
        ports: TCP ports, 1 to 65535.
        cidr: An IPv4 or IPv6 network, or "me" for the address the caller is seen from.
    """

    ports: Annotated[tuple[int, ...], Field(description="TCP ports, 1 to 65535.")] = DEFAULT_PORTS
    cidr: Annotated[str, Field(description='An IPv4 or IPv6 network, or "me".')] = ANYWHERE

    @field_validator("ports", mode="before")
    @classmethod
    def _ports(cls, value: object) -> tuple[int, ...]:
        return _check_ports(value)

    @field_validator("cidr", mode="before")
    @classmethod
    def _cidr(cls, value: object) -> str:
        return _check_cidr(value)


def says_who(value: object) -> bool:
    """Whether each rule says its networks, and not only its ports."""
    rules = value if isinstance(value, (list, tuple)) else [value]
    return all("cidr" in renamed(rule, {}) for rule in rules if isinstance(rule, Mapping))


def ingress_rules(value: object, sources: Sequence[str] = (ANYWHERE,)) -> tuple[IngressRule, ...]:
    """Rules from however they were written: one mapping or a list of them.

    Args:
        sources: Who gets in by a rule that only says ports: those who got in before. Other ports are no
            reason to let others in.

    Raises:
        OptionsError: A rule is wrong, or says only ports where nobody got in before.
    """
    if isinstance(value, (Mapping, IngressRule)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise OptionsError(f"ingress {value!r}", 'must be a list such as [{"ports": [8786], "cidr": "me"}].')
    rules = []
    for rule in value:
        if isinstance(rule, Mapping):
            # Not said is the default; said and left blank is not.
            for name in rule:
                if unset(rule[name]):
                    raise OptionsError(f"{name} {rule[name]!r}", "is blank, which opens nothing.", _LEAVE_OUT)
            given = renamed(rule, {})
            if "cidr" not in given and not sources:
                raise OptionsError(
                    f"ingress {dict(rule)!r}",
                    "says no cidr, and nobody gets in so far.",
                    "Give its cidr too.",
                )
            wanted = (given["cidr"],) if "cidr" in given else dict.fromkeys(sources)
            rules += [IngressRule(**{**given, "cidr": source}) for source in wanted]
        elif isinstance(rule, IngressRule):
            rules.append(rule)
        else:
            raise OptionsError(f"ingress {rule!r}", 'must look like {"ports": [8786], "cidr": "me"}.')
    return tuple(rules)


@dataclass(frozen=True)
class Firewall:
    """A change of who may reach schedulers; what is None stays.

    Attributes:
        closed: Whether nothing is open any more.

    Raises:
        OptionsError: It contradicts itself, or a port or network is none.
    """

    ports: Sequence[int] | None = None
    cidrs: Sequence[str] | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        if self.closed and (self.ports or self.cidrs):
            raise OptionsError("the firewall", "cannot be closed and open ports or networks.")
        if self.ports is not None:
            _check_ports(self.ports)
        for cidr in self.cidrs or ():
            _check_cidr(cidr)


def changed_rules(saved: Sequence[IngressRule], change: Firewall) -> list[IngressRule]:
    """The rules after a change: ports keep their networks, and networks their ports.

    Raises:
        OptionsError: If the rules differ so that it would not be clear what is meant, or open what is closed.
    """
    if change.closed:
        return []
    if not saved and not change.cidrs:
        raise OptionsError("the firewall", "is closed.", "To open it, say the networks as well as the ports.")
    ports = {rule.ports for rule in saved}
    networks: dict[tuple[int, ...], set[str]] = {}
    for rule in saved:
        networks.setdefault(rule.ports, set()).add(rule.cidr)
    if change.ports is None and len(ports) > 1:
        raise OptionsError(
            "the firewall", "has rules with different ports.", "Say the ports as well as the networks."
        )
    if change.cidrs is None and len({frozenset(n) for n in networks.values()}) > 1:
        raise OptionsError(
            "the firewall", "has rules with different networks.", "Say the networks as well as the ports."
        )
    opened = tuple(change.ports) if change.ports else saved[0].ports if saved else DEFAULT_PORTS
    cidrs = change.cidrs or list(dict.fromkeys(rule.cidr for rule in saved))
    return [IngressRule(ports=opened, cidr=cidr) for cidr in cidrs]


def lets_in_more(rules: Sequence[IngressRule], saved: Sequence[IngressRule]) -> bool:
    """Whether rules open a port to a network that could not reach it by other ones."""
    return any(
        not any(port in other.ports and _within(rule.cidr, other.cidr) for other in saved)
        for rule in rules
        for port in rule.ports
    )


def _within(cidr: str, other: str) -> bool:
    """Whether a network is part of another one; which address "me" is, is not known here."""
    if cidr == other:
        return True
    if "me" in (cidr, other):
        return other == ANYWHERE
    inner, outer = ipaddress.ip_network(cidr), ipaddress.ip_network(other)
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def check_ssh(rules: Sequence[IngressRule], *, ssh: bool) -> None:
    """Refuse port 22 where it was named and nobody could log in. Among the usual ports it waits for a key.

    Raises:
        OptionsError: If a rule names port 22 and there is no key.
    """
    named = [rule for rule in rules if SSH_PORT in rule.ports and set(rule.ports) != set(DEFAULT_PORTS)]
    if named and not ssh:
        raise OptionsError(
            f"port {SSH_PORT}",
            "opens only with a key pair, and this cluster has none.",
            'Make the cluster with key_name="..." (or allow_ssh=True), or leave the port out.',
        )


def by_one_port(rules: Sequence[IngressRule], port: int | None) -> tuple[IngressRule, ...]:
    """The rules of a cluster whose clients and dashboard share a port: it stands in for their usual two.

    Args:
        port: The port; None where each has its own.
    """
    if port is None:
        return tuple(rules)
    usual = {p for p in DEFAULT_PORTS if p != SSH_PORT}
    return tuple(
        rule.model_copy(update={"ports": tuple(dict.fromkeys(port if p in usual else p for p in rule.ports))})
        for rule in rules
    )


def held_rules(rules: Sequence[IngressRule], *, ssh: bool) -> tuple[IngressRule, ...]:
    """The rules that hold: port 22 only with a key."""
    held = [
        rule if ssh else rule.model_copy(update={"ports": tuple(p for p in rule.ports if p != SSH_PORT)})
        for rule in rules
    ]
    return tuple(rule for rule in held if rule.ports)
