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


def hourly_beside(disk_gb: float = 0.0, *, public: bool = False) -> float:
    """What a machine's disk and public address cost, in US dollars an hour.

    Args:
        disk_gb: GiB of its disk.
        public: Whether it has a public address.
    """
    disk = disk_gb * EBS_GP3_USD_PER_GB_MONTH / HOURS_PER_MONTH
    return disk + (PUBLIC_IPV4_USD_PER_HOUR if public else 0.0)


def nat_hourly() -> float:
    """What a NAT gateway with its address costs, in US dollars an hour."""
    return NAT_GATEWAY_USD_PER_HOUR + PUBLIC_IPV4_USD_PER_HOUR


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
