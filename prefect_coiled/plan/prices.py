"""AWS's list prices by the hour, of one region on one day (`machines.prices_as_of`); never a guess."""

from __future__ import annotations

from prefect_coiled.plan import machines

# https://aws.amazon.com/ebs/pricing, /vpc/pricing; us-east-1.
EBS_GP3_USD_PER_GB_MONTH = 0.08
NAT_GATEWAY_USD_PER_HOUR = 0.045
PUBLIC_IPV4_USD_PER_HOUR = 0.005
HOURS_PER_MONTH = 730.0

NOT_KNOWN = "price not known"


def hourly(vm_type: str) -> float | None:
    """The on-demand list price of a machine in US dollars an hour, or None when it is not known."""
    machine = machines.table().get(vm_type)
    return machine.usd_per_hour if machine else None


def total(prices: list[float | None]) -> float | None:
    """The sum of prices; None if one of them is not known."""
    return None if None in prices else sum(price for price in prices if price is not None)


def usd(value: float | None) -> str:
    """An amount in words, such as "$0.0101"."""
    if value is None:
        return NOT_KNOWN
    return f"${value:.2f}" if value >= 1 else f"${value:.4f}"


def priced(text: str, value: float | None) -> str:
    """A text with what something costs an hour, where it costs anything."""
    text = text.rstrip(".")
    return text if value == 0 else f"{text}, {NOT_KNOWN if value is None else f'{usd(value)} an hour'}"
