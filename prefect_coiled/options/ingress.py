"""What may reach the scheduler from outside: ports, and the networks they are open to."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import OptionsModel, renamed, unset

DEFAULT_PORTS = (22, 8787, 8786)
ANYWHERE = "0.0.0.0/0"
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
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
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


def ingress_rules(value: object) -> tuple[IngressRule, ...]:
    """Rules from however they were written: one mapping or a list of them."""
    if isinstance(value, (Mapping, IngressRule)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise OptionsError(f"ingress {value!r}", 'must be a list such as [{"ports": [8786], "cidr": "me"}].')
    rules = []
    for rule in value:
        if isinstance(rule, Mapping):
            # Not said is the default; said and left blank is not.
            for name in ("cidr", "ports"):
                if name in rule and unset(rule[name]):
                    raise OptionsError(f"{name} {rule[name]!r}", "is blank, which opens nothing.", _LEAVE_OUT)
            rules.append(IngressRule(**renamed(rule, {})))
        elif isinstance(rule, IngressRule):
            rules.append(rule)
        else:
            raise OptionsError(f"ingress {rule!r}", 'must look like {"ports": [8786], "cidr": "me"}.')
    return tuple(rules)
