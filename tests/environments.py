"""Environments as users have them: that of the suite without what the suite alone needs."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

from prefect_coiled.environment import capture
from prefect_coiled.environment.records import normalized


def needless(*wanted: str) -> list[str]:
    """What is installed here, and needed by none of the distributions that are wanted."""
    needed: set[str] = set()
    names = list(wanted)
    while names:
        if (name := normalized(names.pop())) in needed:
            continue
        needed.add(name)
        try:
            required = map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            continue
        names += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return sorted({package.name for package in capture().packages} - needed)
