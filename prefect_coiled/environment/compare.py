"""What is not the same here and on the machines, package by package, by the hashes of Python files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from prefect_coiled.environment.contents import imported_files, python_files
from prefect_coiled.environment.lock import Locked
from prefect_coiled.environment.records import Change, Environment
from prefect_coiled.node.packages import hash_of


def against_lock(environment: Environment, locked: Locked) -> list[Change]:
    """What the machines would get otherwise than it is here."""
    changes = list(locked.changes)
    told = {change.package for change in changes}
    here = {package.name: package for package in environment.packages}
    there = {wheel.name: wheel.version for wheel in (*locked.lock.wheels, locked.lock.uv)}
    for name, why in environment.left_out.items():
        changes.append(Change(package=name, here="installed", machines="", what=f"left out: {why}"))
    for name, package in here.items():
        version = there.get(name, "")
        if version != package.version and name not in told:
            what = "the machines get another version" if version else "the machines do not get it"
            changes.append(Change(package=name, here=package.version, machines=version, what=what))
    for name, version in there.items():
        if name not in here and name != "uv":
            what = "Linux needs it beside what is installed here"
            changes.append(Change(package=name, here="", machines=version, what=what))
    return sorted(changes, key=lambda change: change.package)


def manifest(environment: Environment, locked: Locked) -> dict[str, dict[str, str]]:
    """The Python files of the client's packages with the hashes that they have now, by package."""
    hashes = {wheel.name: wheel.sha256 for wheel in locked.lock.wheels}
    found: dict[str, dict[str, str]] = {}
    for package in environment.packages:
        record = Path(package.record)
        if package.editable:
            built = locked.built.get(hashes.get(package.name, ""))
            places = {path: at for path, (_, at) in imported_files(built).items()} if built else {}
        else:
            listed = python_files(record) if package.record else {}
            places = {path: record.parent / path for path in listed}
        files = {path: hash_of(place) for path, place in places.items() if place and place.is_file()}
        if files:
            found[package.name] = files
    return found


def against_machines(
    expected: Mapping[str, Mapping[str, str]],
    versions: Mapping[str, str],
    ask: Callable[[Mapping[str, Mapping[str, str]]], Mapping[str, Mapping[str, list[str]]]],
) -> list[Change]:
    """What machines that run import otherwise than it is here.

    Args:
        ask: Has each machine run `prefect_coiled.node.packages.differing`; gives its answers by machine.
    """
    by_package: dict[str, dict[str, list[str]]] = {}
    for machine, found in ask(expected).items():
        for package, files in found.items():
            by_package.setdefault(package, {})[machine] = files
    changes = []
    for package, machines in sorted(by_package.items()):
        differing = tuple(sorted({path for paths in machines.values() for path in paths}))
        whole = len(differing) == len(expected[package])
        what = "nothing of it is there as it is here" if whole else _some(differing)
        where = f", on {len(machines)} of the machines" if len(machines) > 1 else ""
        changes.append(
            Change(
                package=package,
                here=versions.get(package, ""),
                machines="absent or another" if whole else "other files",
                files=differing,
                what=what + where,
            )
        )
    return changes


def _some(files: tuple[str, ...]) -> str:
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"other files: {', '.join(files[:3])}{more}"
