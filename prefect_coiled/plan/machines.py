"""Which EC2 machine types suit what was asked for.

`machines.json` beside this file holds the general families with their list prices. A type that is
not in it can still be named: the caller then asks AWS whether it exists. Pure: makes no call.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import near

Arch = Literal["x86_64", "arm64"]
CpuWish: TypeAlias = "int | Sequence[int] | None"
MemoryWish: TypeAlias = "str | Sequence[str] | None"

# Packages are locked, and an image chosen, once for a cluster.
_ONE = "All machines of a cluster, the scheduler's too, are of one architecture: name types of one."

TOLERANCE = 0.1
"""How far memory may be from what was asked for, as a fraction, unless a range was given."""

DEFAULT_TYPES: dict[Arch, tuple[str, ...]] = {
    "x86_64": ("m6i.xlarge", "m6a.xlarge", "m7i.xlarge", "m5.xlarge", "m5a.xlarge", "m7a.xlarge"),
    "arm64": ("m7g.xlarge", "m6g.xlarge"),
}
"""Where nothing was asked for: 4 vCPUs and 16 GiB; each next one for when the one before is not to be had."""


@dataclass(frozen=True)
class MachineType:
    """An EC2 machine type.

    Attributes:
        name: Such as "m6i.xlarge".
        gpu_type: Name of the GPU, such as "T4", or "".
        usd_per_hour: On-demand list price, US dollars an hour, in the region and on the day of the table.
    """

    name: str
    vcpus: int
    memory_gib: float
    arch: Arch
    gpus: int
    gpu_type: str
    usd_per_hour: float

    @property
    def burstable(self) -> bool:
        """Whether it computes at full speed only for a while (the t families)."""
        return self.name.startswith("t")

    @property
    def worth(self) -> float:
        """The price by which types are compared: generations before the sixth do less for the same money."""
        old = not self.gpus and not self.burstable and int(self.name[1]) < 6
        return self.usd_per_hour * (1.25 if old else 1)

    @property
    def general(self) -> bool:
        """Whether it is of the families with 4 GiB for each vCPU."""
        return self.name.startswith("m")

    def __str__(self) -> str:
        gpu = f", {self.gpus} {self.gpu_type}" if self.gpus else ""
        return f"{self.name} ({self.vcpus} vCPUs, {self.memory_gib:g} GiB{gpu})"


@functools.cache
def _data() -> dict[str, Any]:
    text = importlib.resources.files(__package__).joinpath("machines.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


@functools.cache
def table() -> dict[str, MachineType]:
    """All types of the table by name."""
    return {name: MachineType(name, *row) for name, row in _data()["types"].items()}


def prices_as_of() -> str:
    """The day of the table's prices, as an ISO date."""
    return str(_data()["as_of"])


def prices_region() -> str:
    """The region of the table's prices."""
    return str(_data()["region"])


def known(name: str) -> bool:
    """Whether the type is in the table; if not, only AWS knows whether it exists."""
    return name in table()


def choose(
    cpu: CpuWish = None,
    memory: MemoryWish = None,
    *,
    gpu: int | bool | None = None,
    gpu_type: str | None = None,
    vm_types: str | Sequence[str] | None = None,
    arch: Arch | None = None,
    limit: int = 10,
) -> tuple[str, ...]:
    """Choose machine types.

    Burstable types are left out where another one fits. Where only one of cpu and memory is given,
    types with 4 GiB for each vCPU come first; otherwise the best for its price does.

    Args:
        cpu: vCPUs, exactly or from a lowest to a highest number.
        memory: Such as "16 GiB" (give or take 10 %), or a lowest and a highest.
        gpu: 0 or 1.
        gpu_type: Such as "T4"; means one GPU.
        vm_types: Names of types, instead of all of the above.
        arch: Processor architecture; "x86_64" by default.
        limit: Give at most so many.

    Returns:
        Names of types, the best first; never empty.

    Raises:
        OptionsError: What was asked for contradicts itself, or no type is like that.
    """
    gpus = _gpus(gpu, gpu_type)
    if vm_types:
        if cpu is not None or memory is not None:
            raise OptionsError(
                "vm_types with cpu or memory", "cannot be given together.", "Give one or the other."
            )
        return _named(vm_types, gpus if gpu is not None or gpu_type else None, gpu_type, arch)
    cpus, gib = _cpu_range(cpu), _memory_range(memory)
    wanted_arch: Arch = arch or "x86_64"
    if wanted_arch not in DEFAULT_TYPES:
        raise OptionsError(f"arch {arch!r}", "must be x86_64 or arm64.")
    if cpus is None and gib is None and not gpus:
        return DEFAULT_TYPES[wanted_arch][:limit]
    pool = [m for m in table().values() if m.arch == wanted_arch and m.gpus == gpus]
    if gpu_type:
        pool = [m for m in pool if m.gpu_type == _gpu_name(gpu_type)]
    fit = [m for m in pool if _within(m.vcpus, cpus) and _within(m.memory_gib, gib)]
    fit = [m for m in fit if not m.burstable] or fit
    if not fit:
        raise _none_fits(pool, cpus, gib, gpus, wanted_arch)
    one_wish = (cpus is None) != (gib is None)
    preferred = [*DEFAULT_TYPES[wanted_arch], *table()]
    fit.sort(key=lambda m: (one_wish and not m.general, m.worth, preferred.index(m.name)))
    return tuple(m.name for m in fit[:limit])


def architecture(vm_types: Sequence[str]) -> Arch:
    """The architecture of the types, by which an image is chosen.

    By AWS's naming, Graviton families have a "g" after the generation; all others are x86_64.
    """
    family = vm_types[0].partition(".")[0]
    if known(vm_types[0]):
        return table()[vm_types[0]].arch
    return "arm64" if re.fullmatch(r"a1|[a-z]+\d+(?=[a-fh-z]*g)[a-z]*(-[a-z0-9]+)?", family) else "x86_64"


# Families with NVIDIA GPUs that the driver of AWS's GPU image knows; "g4ad" has those of AMD.
# https://docs.aws.amazon.com/dlami/latest/devguide/gpu.html
_GPU_FAMILY = re.compile(r"g4dn|g5g?|gr?[67][a-z]*|g[89][a-z]*|p[4-9][a-z]*(-[a-z0-9]+)?")


def has_gpu(name: str) -> bool:
    """Whether machines of the type have a GPU; by AWS's naming, where the type is not in the table."""
    if known(name):
        return table()[name].gpus > 0
    return bool(_GPU_FAMILY.fullmatch(name.partition(".")[0]))


def _gpus(gpu: object, gpu_type: str | None) -> int:
    if gpu is None:
        return 1 if gpu_type else 0
    if not isinstance(gpu, int) or gpu < 0:
        raise OptionsError(f"gpu {gpu!r}", "must be 0 or 1.")
    if gpu > 1:
        raise OptionsError(
            f"gpu {gpu}", "is more than the one GPU a worker can have.", "Ask for more workers."
        )
    if gpu_type and not gpu:
        raise OptionsError(f"gpu_type {gpu_type!r}", "was given with gpu=0.")
    return int(gpu)


def _gpu_name(gpu_type: str) -> str:
    there = sorted({m.gpu_type for m in table().values() if m.gpu_type})
    plain = gpu_type.lower().replace("nvidia", "").replace("tesla", "").strip(" -_")
    for name in there:
        if name.lower() == plain:
            return name
    raise OptionsError(
        f"gpu_type {gpu_type!r}",
        f"must be one of {', '.join(there)}, or name a type by vm_types.",
        near(plain, there),
    )


def _cpu_range(cpu: Any) -> tuple[float, float] | None:
    if cpu is None:
        return None
    pair = list(cpu) if isinstance(cpu, (list, tuple)) else [cpu, cpu]
    good = all(isinstance(c, int) and not isinstance(c, bool) and c >= 1 for c in pair)
    if len(pair) != 2 or not good or pair[0] > pair[1]:
        raise OptionsError(
            f"cpu {cpu!r}", "must be a whole number of vCPUs such as 4, or a range such as [4, 8]."
        )
    return pair[0], pair[1]


_UNITS = {"kib": 2**-20, "mib": 2**-10, "gib": 1.0, "tib": 2.0**10}
_UNITS |= {"kb": 1e3 / 2**30, "mb": 1e6 / 2**30, "gb": 1e9 / 2**30, "tb": 1e12 / 2**30}


def _gib(text: object) -> float:
    found = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b)\s*", text, re.I) if isinstance(text, str) else None
    )
    if not found or not float(found[1]):
        raise OptionsError(
            f"memory {text!r}", 'must be a size such as "16 GiB", or a range such as ["16 GiB", "32 GiB"].'
        )
    return float(found[1]) * _UNITS[found[2].lower()]


def _memory_range(memory: object) -> tuple[float, float] | None:
    if memory is None:
        return None
    if not isinstance(memory, (list, tuple)):
        size = _gib(memory)
        return size * (1 - TOLERANCE), size * (1 + TOLERANCE)
    if len(memory) != 2:
        raise OptionsError(f"memory {memory!r}", 'must be one size, or two such as ["16 GiB", "32 GiB"].')
    low, high = _gib(memory[0]), _gib(memory[1])
    if low > high:
        raise OptionsError(f"memory {memory!r}", "must name the lower size first.")
    return low, high


def _within(value: float, bounds: tuple[float, float] | None) -> bool:
    return bounds is None or bounds[0] <= value <= bounds[1]


def _none_fits(
    pool: list[MachineType],
    cpus: tuple[float, float] | None,
    gib: tuple[float, float] | None,
    gpus: int,
    arch: Arch,
) -> OptionsError:
    def off(machine: MachineType) -> tuple[float, bool, float]:
        distance = 0.0
        for value, bounds in ((machine.vcpus, cpus), (machine.memory_gib, gib)):
            if bounds is not None:
                distance += abs(math.log(min(max(value, bounds[0]), bounds[1]) / value))
        return round(distance, 6), machine.burstable, machine.worth

    wishes = [_span(cpus, "vCPUs"), _span(gib, "GiB"), f"{gpus} GPU" if gpus else ""]
    near = ", ".join(str(m) for m in sorted(pool, key=off)[:3])
    wish = " and ".join(filter(None, wishes))
    hint = f"Nearest: {near}." if near else ""
    return OptionsError(f"machine with {wish}", f"no {arch} type is like that.", hint)


def _span(bounds: tuple[float, float] | None, unit: str) -> str:
    if bounds is None:
        return ""
    low, high = bounds
    return f"{low:g} {unit}" if low == high else f"{low:.4g} to {high:.4g} {unit}"


# AWS's own pattern: letters, generation, options ("m6i", "c7gn", "u7i-12tb"), then a size.
_FAMILY = re.compile(r"[a-z]{1,5}\d{1,2}[a-z]*(-[a-z0-9]+)?|mac-m\d[a-z]*")
_SIZE = re.compile(r"nano|micro|small|medium|large|([2-9]|\d{2,3})?xlarge|metal(-\d+xl)?")


def _named(
    vm_types: str | Sequence[str], gpus: int | None, gpu_type: str | None, arch: Arch | None
) -> tuple[str, ...]:
    """The types, unless what else was asked for contradicts them."""
    kind = _gpu_name(gpu_type) if gpu_type else ""
    names = [vm_types] if isinstance(vm_types, str) else list(vm_types)
    for name in names:
        if not isinstance(name, str) or not known(name):
            _plausible(name)
            continue
        machine = table()[name]
        if machine.gpus > 1:
            raise OptionsError(
                f"vm_type {name!r}",
                f"has {machine.gpus} GPUs; a worker can have one.",
                "Ask for more workers.",
            )
        if gpus and not machine.gpus:
            raise OptionsError(f"vm_type {name!r}", "has no GPU, but one was asked for.")
        if gpus == 0 and machine.gpus:
            raise OptionsError(f"vm_type {name!r}", "has a GPU, but none was asked for.")
        if kind and machine.gpu_type != kind:
            raise OptionsError(f"vm_type {name!r}", f"has the GPU {machine.gpu_type}; {kind} was asked for.")
    arches = {architecture([name]): name for name in names}
    if len(arches) > 1:
        both = " and ".join(f"{name!r} ({a})" for a, name in arches.items())
        raise OptionsError(f"vm_types {both}", "are of different architectures.", _ONE)
    if arch and arch not in arches:
        raise OptionsError(f"vm_type {names[0]!r}", f"is not {arch}.", _ONE)
    return tuple(dict.fromkeys(names))


def _plausible(name: object) -> None:
    text = name if isinstance(name, str) else ""
    family, _, size = text.partition(".")
    families = {n.partition(".")[0] for n in table()}
    # A size that its family does not have can be told here; a family not in the table is AWS's to judge.
    new_size = family in families and not size.startswith("metal")
    if _FAMILY.fullmatch(family) and _SIZE.fullmatch(size) and not new_size:
        return
    hint = near(text, table(), 3) or 'They look like "m6i.xlarge".'
    raise OptionsError(f"vm_type {name!r}", "is not an EC2 machine type.", hint)
