"""What a cluster may cost an hour: which machine types, and how many workers, stay below it.

List prices, on demand: a spot machine costs less than it is counted with, and no type is taken whose price is
not known. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.prices import GP3_MIBPS, Prices, usd


class Sizes(NamedTuple):
    """What machines of one role have beside their type.

    Attributes:
        disk: GiB of disk.
        public: Whether a public address.
        throughput: MiB a second of the disk.
    """

    disk: float
    public: bool
    throughput: int = GP3_MIBPS

    def rate(self, vm_type: str, prices: Prices) -> float | None:
        """US dollars an hour of one such machine, at most; None if the price of its type is not known."""
        price = prices.machine(vm_type)
        if price is None:
            return None
        beside = prices.beside(self.disk, public=self.public, throughput=self.throughput)
        return price + prices.surplus(vm_type) + beside


class Rates(NamedTuple):
    """US dollars an hour, with the dearest types that a cluster may get.

    Attributes:
        base: Of the scheduler, and of the NAT gateway with its address where the cluster keeps one.
        worker: Of one worker.
    """

    base: float
    worker: float

    def most_workers(self, limit: float, *, works: bool = False) -> int:
        """How many workers cost no more than `limit` an hour, with all the rest.

        Args:
            works: Whether one of them is on the scheduler's machine.
        """
        left = limit - self.base
        machines = max(math.floor(left / self.worker + 1e-9), 0)
        return machines + (works and left >= -1e-9)


class Choice(NamedTuple):
    """The types that are left, in their order, and what they cost at most."""

    scheduler_types: tuple[str, ...]
    worker_types: tuple[str, ...]
    rates: Rates


def below(
    limit: float | None,
    n_workers: int,
    scheduler_types: Sequence[str],
    worker_types: Sequence[str],
    *,
    scheduler: Sizes,
    worker: Sizes,
    nat: bool,
    prices: Prices,
    works: bool = False,
    what: str = "max_hourly_cost and max_total_cost",
) -> Choice:
    """The types with which a cluster costs no more than `limit` an hour.

    Args:
        limit: US dollars an hour; None for none, where prices have to be known all the same.
        nat: Whether the cluster keeps a NAT gateway.
        works: Whether one of the workers is on the scheduler's machine.
        what: What needs the prices, where there is no limit an hour.

    Raises:
        OptionsError: There are none; says how many workers there would be.
    """
    what = what if limit is None else f"max_hourly_cost {usd(limit)}"
    schedulers = _priced(scheduler_types, scheduler, prices, what)
    workers = _priced(worker_types, worker, prices, what)
    base = prices.nat if nat else 0.0
    cheapest = Rates(base + min(schedulers.values()), min(workers.values()))
    if limit is None:
        return _choice(list(schedulers), list(workers), schedulers, workers, base)
    machines = n_workers - works
    least = cheapest.base + machines * cheapest.worker
    if least > limit:
        most = cheapest.most_workers(limit, works=works)
        fits = f"{most} worker{'s' if most != 1 else ''} at most" if most else "none"
        raise OptionsError(
            what,
            f"{n_workers} worker{'s' if n_workers != 1 else ''} and a scheduler cost {usd(least)} an hour at "
            "least, at list prices",
            f"Below it is room for {fits}. Ask for fewer, for smaller machines, or raise it.",
        )
    fit = [t for t, rate in workers.items() if cheapest.base + machines * rate <= limit]
    dearest = machines * max(workers[t] for t in fit)
    first = [t for t, rate in schedulers.items() if base + rate + dearest <= limit]
    return _choice(first, fit, schedulers, workers, base)


def worker_rate(spec: ClusterSpec, prices: Prices) -> float:
    """US dollars an hour of one more worker of a cluster, of the dearest type that it may get.

    Raises:
        OptionsError: A price is not known.
    """
    sizes = Sizes(spec.worker_disk, spec.has_public_address("worker"), spec.worker_disk_throughput)
    what = "monthly_budget"
    check_region(prices, spec.region, what)
    return max(_priced(spec.worker_types, sizes, prices, what).values())


def check_region(
    prices: Prices, region: str, what: str, otherwise: str = "Or leave it out and use cluster_timeout."
) -> None:
    """See that prices are those of a region, before something is held to them.

    Args:
        what: What needs the prices, such as "max_hourly_cost".
        otherwise: What to do where they are not to be had.

    Raises:
        OptionsError: They are those of another one.
    """
    if prices.region != region:
        raise OptionsError(
            what,
            f"the prices of {region} are not known, so nothing can be held to it: "
            f"{prices.why or 'AWS was not asked'}",
            f"Where it is denied, renew the policies: `prefect-coiled setup iam ... --apply`. {otherwise}",
        )


def _priced(types: Sequence[str], sizes: Sizes, prices: Prices, what: str) -> dict[str, float]:
    # What is not sold in the region cannot be launched there.
    sold = [one for one in types if prices.machines.get(one, 0.0) is not None]
    rates = {one: sizes.rate(one, prices) for one in sold or types}
    if unknown := [one for one, rate in rates.items() if rate is None]:
        raise OptionsError(
            what,
            f"the price of {', '.join(unknown)} is not known here, so nothing can be held to it",
            "Name types of the general families, or leave it out and use cluster_timeout.",
        )
    return {one: rate for one, rate in rates.items() if rate is not None}


def _choice(
    first: list[str], fit: list[str], schedulers: dict[str, float], workers: dict[str, float], base: float
) -> Choice:
    rates = Rates(base + max(schedulers[t] for t in first), max(workers[t] for t in fit))
    return Choice(tuple(first), tuple(fit), rates)
