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
# A MiB/s and an IOPS for a month, beyond those that come with a gp3 disk; in other regions they go with the
# price of a GB. https://aws.amazon.com/ebs/pricing
_GP3_USD_PER_MIBPS_MONTH, _GP3_USD_PER_IOPS_MONTH = 0.04, 0.005
GP3_MIBPS, GP3_IOPS = 125, 3000
_GP3_IOPS_PER_GIB = 500
# A vCPU's hour beyond what a burstable machine may use on average; T3, T3a and T4g start as "unlimited".
# https://aws.amazon.com/ec2/pricing/on-demand, https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/
# burstable-performance-instances-unlimited-mode.html
_CREDITS_USD_PER_VCPU_HOUR = {"t3": 0.05, "t3a": 0.05, "t4g": 0.04}
# What that is, by size, of the whole machine.
_BASELINES = {
    "nano": 0.05,
    "micro": 0.1,
    "small": 0.2,
    "medium": 0.2,
    "large": 0.3,
    "xlarge": 0.4,
    "2xlarge": 0.4,
}
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

    def beside(self, disk_gb: float = 0.0, *, public: bool = False, throughput: int = GP3_MIBPS) -> float:
        """What a machine's disk and public address cost an hour.

        Args:
            disk_gb: GiB of its disk.
            public: Whether it has a public address.
            throughput: MiB a second of its disk.
        """
        month = disk_gb * self.gb_month + self._faster(throughput)
        return month / HOURS_PER_MONTH + (self.address if public else 0.0)

    def _faster(self, throughput: int) -> float:
        """What a disk costs a month because it is faster than others."""
        more = max(throughput - GP3_MIBPS, 0) * _GP3_USD_PER_MIBPS_MONTH
        more += (iops(throughput) - GP3_IOPS) * _GP3_USD_PER_IOPS_MONTH
        return more * self.gb_month / _EBS_GP3_USD_PER_GB_MONTH

    def surplus(self, vm_type: str) -> float:
        """What a burstable machine costs an hour on top, at most: where all its vCPUs are busy all day."""
        family, _, size = vm_type.partition(".")
        busy = 1.0 - _BASELINES.get(size, 0.0)
        known = machines.table().get(vm_type)
        return _CREDITS_USD_PER_VCPU_HOUR.get(family, 0.0) * busy * (known.vcpus if known else 2)

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


def iops(throughput: int) -> int:
    """IOPS that a gp3 disk needs for so many MiB a second: each is good for 0.25, and 3,000 come with it.

    https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html
    """
    return max(GP3_IOPS, 4 * throughput)


def least_disk(throughput: int) -> int:
    """GiB that a gp3 disk has at least for so many MiB a second: beyond 3,000 IOPS, each is good for 500.

    https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html
    """
    asked = iops(throughput)
    return 1 if asked == GP3_IOPS else -(-asked // _GP3_IOPS_PER_GIB)


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
    known = [bool(one.spot) for one in prices.values()]
    if spot and known and any(known):
        text += "; spot machines at the spot price of the dearest zone at the moment"
        text += "" if all(known) else " where it is known, else at the on-demand price"
    elif spot:
        text += "; spot machines cost less than the on-demand price counted here"
    return f"{text}."


def _some(regions: list[str]) -> str:
    return ", ".join(regions) if len(regions) <= 4 else f"{len(regions)} regions"
