"""Cores and memory as numbers of workers, as Dask's `SpecCluster` counts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dask.utils import parse_bytes

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import check_known
from prefect_coiled.options.keywords import KEYWORDS, MOST_WORKERS, Keyword
from prefect_coiled.options.kinds import plain, shown
from prefect_coiled.plan import machines
from prefect_coiled.plan.node_config import NodeConfig, machine_of

# What Dask's `Adaptive` takes besides the limits, and hands on to `Scheduler.workers_to_close`.
_ADAPTIVE = ("interval", "wait_count", "target_duration", "worker_key", "memory_ratio")
_LIMITS = tuple(f"{end}{what}" for end in ("minimum", "maximum") for what in ("", "_cores", "_memory"))


@dataclass(frozen=True)
class WorkerSize:
    """What the workers of one machine have; None where nobody knows.

    Attributes:
        memory: Its memory in bytes.
        first: What the one has that shares its machine with the scheduler, and is always there.
    """

    threads: int | None
    memory: float | None
    first: WorkerSize | None = None

    def at_least(self, n: Any = 0, *, cores: Any = None, memory: Any = None, what: str = "") -> int:
        """The smallest number of workers that has all of this.

        Raises:
            OptionsError: A number is none, or nobody knows what a worker has.
        """
        wishes = [self._workers(f"{what}cores", cores), self._workers(f"{what}memory", memory)]
        number = _number(what)
        least: int = number.take(n)
        size: int = number.take(max([least, *(math.ceil(w) for w in wishes if w is not None)]))
        return size

    def at_most(self, n: Any = math.inf, *, cores: Any = None, memory: Any = None, what: str = "") -> float:
        """The largest number of workers that has no more than this.

        Raises:
            OptionsError: A number is none, or nobody knows what a worker has.
        """
        wishes = [self._workers(f"{what}cores", cores), self._workers(f"{what}memory", memory)]
        endless = n is None or (isinstance(n, (int, float)) and n > MOST_WORKERS)
        own = math.inf if endless else _number(what).take(n)
        return min([own, *(math.floor(w) for w in wishes if w is not None)])

    def _workers(self, what: str, wish: Any) -> float | None:
        wish = plain(wish)
        if wish is None:
            return None
        is_memory = what.endswith("memory")
        try:
            if isinstance(wish, bool) or (isinstance(wish, str) and not is_memory):
                raise TypeError
            number = float(parse_bytes(wish) if is_memory else wish)
            if not math.isfinite(number) or number < 0:
                raise ValueError
        except (TypeError, ValueError, AttributeError):
            words = 'a number of bytes or a size such as "100 GiB"' if is_memory else "a number, 0 or more"
            raise OptionsError(f"{what} {shown(wish)}", f"it has to be {words}.") from None
        one = self.memory if is_memory else self.threads
        if not one:
            raise OptionsError(
                what,
                "nobody knows yet what a worker has.",
                "Say a number of workers, or nthreads and memory_limit.",
            )
        first = self.first and (self.first.memory if is_memory else self.first.threads)
        if not first:
            return number / one
        return 1 + (number - first) / one if number > first else number / first


def _number(what: str) -> Keyword:
    """What a number of workers takes, by the name under which it was given."""
    return replace(KEYWORDS["n_workers"], name=what.rstrip("_") or "n_workers")


def worker_size(
    node: NodeConfig, vm_types: Iterable[str], there: Iterable[Mapping[str, Any]], shared: str = ""
) -> WorkerSize:
    """What a worker has: what it was told, else what those have that are there, else its machine's type.

    Args:
        vm_types: The types of their machines, the likeliest first.
        there: What the scheduler says of its workers.
        shared: The scheduler's machine, if it has workers too.
    """
    machine = next((machines.table()[t] for t in vm_types if machines.known(t)), None)
    of_shared: list[Mapping[str, Any]] = []
    of_own: list[Mapping[str, Any]] = []
    for one in there:
        is_shared = bool(shared) and machine_of(str(one.get("name"))) == shared
        (of_shared if is_shared else of_own).append(one)
    first = _size(node, None, of_shared) if of_shared else None
    return replace(_size(node, machine, of_own), first=first)


def _size(
    node: NodeConfig, machine: machines.MachineType | None, there: Iterable[Mapping[str, Any]]
) -> WorkerSize:
    seen = next(iter(there), None)
    threads, memory = node.nthreads, None
    try:
        told = parse_bytes(node.memory_limit or "auto")
        memory = float(told) if told > 1 else None
    except ValueError:
        pass  # "auto"
    if seen is not None:
        threads, memory = threads or seen.get("nthreads"), memory or seen.get("memory_limit")
    count = node.workers_per_vm
    threads, memory = threads and threads * count, memory and memory * count
    if machine is not None:
        threads, memory = threads or machine.vcpus, memory or machine.memory_gib * 2**30
    return WorkerSize(threads, memory)


def check_adaptive(given: Iterable[str]) -> None:
    """Refuse a keyword of `adapt` that Dask would swallow; the limits are keywords of it, too.

    Raises:
        OptionsError: There is no such keyword.
    """
    check_known(given, (*_LIMITS, *_ADAPTIVE), "adapt", "unexpected keyword {}.")
