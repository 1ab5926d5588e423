"""Write the software bill of materials of a build, in CycloneDX's JSON: `make sbom`.

What the library needs to run, with its extras, as requirements.lock has it for this Python and platform:
names, versions, hashes of the files, licences as installed, and what needs what.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot5
from locked import LOCKS, Entry, entries
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "prefect-dask-ec2"
EXTRAS = ("sandbox", "dataframe")


def needs(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    """What an installed package needs here, with some of its extras."""
    for text in distribution(name).requires or ():
        wanted = Requirement(text)
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield wanted


def closure() -> dict[str, set[str]]:
    """Everything that is needed, by name, each with what it needs itself."""
    found: dict[str, set[str]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo: list[tuple[str, frozenset[str]]] = [(PROJECT, frozenset(EXTRAS))]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        direct = {(canonicalize_name(r.name), frozenset(r.extras)) for r in needs(name, extras)}
        found.setdefault(name, set()).update(n for n, _ in direct if n != name)
        todo += direct
    return found


def licences(dist: Distribution) -> Iterator[LicenseExpression | DisjunctiveLicense]:
    """What a package says of its licence: an SPDX expression, else its classifiers, else a word."""
    metadata = dist.metadata
    if expression := metadata.get("License-Expression"):
        yield LicenseExpression(str(expression))
        return
    listed = [
        c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")
    ]
    text = str(metadata.get("License") or "").strip()
    for name in listed or ([text] if text and "\n" not in text else []):
        yield DisjunctiveLicense(name=name)


def bill() -> Bom:
    """The bill of materials.

    Raises:
        SystemExit: Something that is needed is not in the lock.
    """
    locked: dict[str, Entry] = {}
    for entry in entries(LOCKS[0]):
        if entry.requirement.marker is None or entry.requirement.marker.evaluate():
            locked[entry.name] = entry
    graph = closure()
    if missing := sorted(set(graph) - set(locked) - {PROJECT}):
        raise SystemExit(f"not in the lock: {', '.join(missing)}")
    made: dict[str, Component] = {}
    for name in sorted(graph):
        dist = distribution(name)
        version = dist.version if name == PROJECT else locked[name].version
        url = PackageURL("pypi", None, name, version)
        made[name] = Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            purl=url,
            bom_ref=str(url),
            licenses=licences(dist),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=h) for h in _hashes(locked, name)],
        )
    bom = Bom(components=[one for name, one in made.items() if name != PROJECT])
    bom.metadata.component = made[PROJECT]
    for name, direct in graph.items():
        bom.register_dependency(made[name], [made[one] for one in sorted(direct)])
    return bom


def _hashes(locked: dict[str, Entry], name: str) -> tuple[str, ...]:
    return locked[name].hashes if name in locked else ()


def main(arguments: list[str]) -> None:
    """Write it to the file that is named, else to the standard output."""
    output = JsonV1Dot5(bill())
    if arguments:
        Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)
        output.output_to_file(arguments[0], allow_overwrite=True, indent=1)
    else:
        print(output.output_as_string(indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
