"""AWS's list prices by the hour, of one region on one day; never a guess. Pure.

They are those of AWS's price list (`aws.price_list`), or of the table that comes with the library
(`plan.machines`), which has one region.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from pydantic import Field

from prefect_coiled.plan import machines
from prefect_coiled.records import Record

# https://aws.amazon.com/ebs/pricing, /vpc/pricing; us-east-1.
_EBS_GP3_USD_PER_GB_MONTH = 0.08
_NAT_GATEWAY_USD_PER_HOUR = 0.045
# The same in all regions: https://aws.amazon.com/vpc/pricing.
_PUBLIC_IPV4_USD_PER_HOUR = 0.005
HOURS_PER_MONTH = 730.0

NOT_KNOWN = "price not known"


class Prices(Record):
    """What things cost, in US dollars.

    Attributes:
        region: Whose prices they are.
        as_of: The day of the prices, as an ISO date.
        machines: An hour of each type, on demand, with Linux; None for a type that is not sold there. What is
            not in it has no known price.
        gb_month: A GB of gp3 for a month.
        nat_gateway: An hour of a NAT gateway, without its address.
        address: An hour of a public IPv4 address.
        spot: An hour of a spot machine of each type, in its dearest zone, at the moment; as far as known.
        why: Why they are not those of AWS's price list; empty if they are.
    """

    region: str
    as_of: str
    machines: Mapping[str, float | None] = Field(repr=False)
    gb_month: float = _EBS_GP3_USD_PER_GB_MONTH
    nat_gateway: float = _NAT_GATEWAY_USD_PER_HOUR
    address: float = _PUBLIC_IPV4_USD_PER_HOUR
    spot: Mapping[str, float] = Field(default={}, repr=False)
    why: str = ""

    def machine(self, vm_type: str, *, spot: bool = False) -> float | None:
        """A machine for an hour; None if that is not known.

        Args:
            spot: Whether it is a spot machine, which counts as one on demand where its price is not known.
        """
        on_demand = self.machines.get(vm_type)
        return self.spot.get(vm_type, on_demand) if spot else on_demand

    def beside(self, disk_gb: float = 0.0, *, public: bool = False) -> float:
        """What a machine's disk and public address cost an hour.

        Args:
            disk_gb: GiB of its disk.
            public: Whether it has a public address.
        """
        return disk_gb * self.gb_month / HOURS_PER_MONTH + (self.address if public else 0.0)

    @property
    def nat(self) -> float:
        """A NAT gateway with its address for an hour."""
        return self.nat_gateway + self.address

    def of(self, types: Iterable[str]) -> Prices:
        """The same, of these types alone."""
        asked = set(types)
        parts = {"machines": self.machines, "spot": self.spot}
        return self.model_copy(
            update={part: {k: v for k, v in all_.items() if k in asked} for part, all_ in parts.items()}
        )


@functools.cache
def shipped() -> Prices:
    """The prices of the library's own table."""
    return Prices(
        region=machines.prices_region(),
        as_of=machines.prices_as_of(),
        machines={name: machine.usd_per_hour for name, machine in machines.table().items()},
    )


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


def basis(prices: Mapping[str, Prices], spot: bool = False) -> str:
    """What kind of numbers they are, in a sentence.

    Args:
        prices: What was counted with, by the region of what was counted.
        spot: Whether spot machines are among it.
    """
    days: dict[str, set[str]] = {}
    for one in prices.values() or [shipped()]:
        days.setdefault(one.as_of, set()).add(one.region)
    differs: dict[str, list[str]] = {}
    for region, one in prices.items():
        if region != one.region:
            differs.setdefault(one.why, []).append(region)
    listed = "; ".join(f"{_some(sorted(regions))} as of {day}" for day, regions in sorted(days.items()))
    text = f"List prices of {listed}, without tax, data transfer and logs"
    for why, regions in differs.items():
        verb = "differs" if len(regions) == 1 else "differ"
        text += f"; {_some(sorted(regions))} {verb}{f' ({why})' if why else ''}"
    if spot and prices and all(one.spot for one in prices.values()):
        text += "; spot machines at the spot price of the dearest zone at the moment"
    elif spot:
        text += "; spot machines cost less than the on-demand price counted here"
    return f"{text}."


def _some(regions: list[str]) -> str:
    return ", ".join(regions) if len(regions) <= 4 else f"{len(regions)} regions"
