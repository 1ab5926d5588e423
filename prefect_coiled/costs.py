"""What machines cost: AWS's list prices, summed; never a guess where a price is not known.

May not call AWS: who asks for an estimate says by which prices.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from prefect_coiled.plan.prices import GP3_MIBPS, HOURS_PER_MONTH, NOT_KNOWN, Prices, basis, shipped, usd


def hourly(vm_type: str) -> float | None:
    """The on-demand list price of a machine in US dollars an hour, or None when it is not known.

    It is that of the library's own table, which is of us-east-1.
    """
    return shipped().machine(vm_type)


MINIMUM_SECONDS = 60
"""EC2 bills machines by the second, but at least so many seconds each."""


class MachineUse(BaseModel):
    """Machines of one type that run for the same time.

    Attributes:
        hours: How long each runs, in hours.
        disk_gb: Size of each one's gp3 volume, in GB.
        throughput: MiB a second of that volume.
        public_ip: Whether each has a public IPv4 address.
        label: What they are for, such as "workers".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vm_type: str
    count: int = Field(default=1, ge=0)
    hours: float = Field(default=1.0, ge=0)
    spot: bool = False
    disk_gb: float = Field(default=0.0, ge=0)
    throughput: int = GP3_MIBPS
    public_ip: bool = False
    label: str = ""


class CostLine(BaseModel):
    """One item.

    Attributes:
        usd: US dollars; None where the price is not known.
        note: A remark, such as that the spot price is lower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    usd: float | None
    note: str = ""


class CostEstimate(BaseModel):
    """What something costs by AWS's list prices.

    Attributes:
        total_usd: Their sum in US dollars; None if a price is not known.
        known_usd: The sum of those that are known.
        basis: What kind of number this is, in a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lines: tuple[CostLine, ...]
    total_usd: float | None
    known_usd: float
    basis: str

    @property
    def short(self) -> str:
        """The total in words, such as "$0.0101"."""
        return usd(self.total_usd)

    def __str__(self) -> str:
        rows = [
            f"{line.what}: {usd(line.usd)}{f' ({line.note})' if line.note else ''}" for line in self.lines
        ]
        total = usd(self.total_usd)
        if self.total_usd is None:
            total += f"; without what is not known {usd(self.known_usd)}"
        return "\n".join([*rows, f"Total: {total}", self.basis])


def estimate(
    uses: Iterable[MachineUse],
    *,
    nat_gateway_hours: float = 0.0,
    region: str | None = None,
    prices: Prices | None = None,
) -> CostEstimate:
    """Sum what machines, their disks and addresses, and NAT gateways with theirs cost.

    Args:
        nat_gateway_hours: Hours of NAT gateways, all together. They cost even when nothing runs.
        region: Where it runs; said in the basis where the prices are those of another one.
        prices: Those that come with the library by default.
    """
    prices = prices or shipped()
    lines: list[CostLine] = []
    disk_gb_hours = address_hours = faster_usd = 0.0
    spot = False
    for use in uses:
        if not use.count:
            continue
        spot = spot or use.spot
        hours = max(use.hours, MINIMUM_SECONDS / 3600) if use.hours else 0.0
        price = prices.machine(use.vm_type, spot=use.spot)
        name = f"{use.count} x {use.vm_type}{' spot' if use.spot else ''}"
        what = f"{use.label}: {name}" if use.label else name
        known = use.vm_type in prices.spot
        of_spot = "spot price of the moment" if known else "at most: the on-demand price"
        note = NOT_KNOWN if price is None else of_spot if use.spot else ""
        usd = None if price is None else price * use.count * hours
        lines.append(CostLine(what=f"{what}, {_hours(hours)}", usd=usd, note=note))
        disk_gb_hours += use.disk_gb * use.count * hours
        faster_usd += prices.beside(throughput=use.throughput) * use.count * hours
        address_hours += use.count * hours if use.public_ip else 0.0
    for what, quantity, price in (
        ("disks (gp3)", disk_gb_hours, prices.gb_month / HOURS_PER_MONTH),
        ("their throughput", faster_usd, 1.0),
        ("public IPv4 addresses", address_hours, prices.address),
        ("NAT gateways and their addresses", nat_gateway_hours, prices.nat),
    ):
        if quantity:
            lines.append(CostLine(what=what, usd=quantity * price))
    known_usd = sum(line.usd for line in lines if line.usd is not None)
    complete = all(line.usd is not None for line in lines)
    return CostEstimate(
        lines=tuple(lines),
        total_usd=known_usd if complete else None,
        known_usd=known_usd,
        basis=basis({region or prices.region: prices}, spot),
    )


def _hours(hours: float) -> str:
    return f"{hours:.2f} h" if hours >= 1 else f"{hours * 60:.1f} min"
