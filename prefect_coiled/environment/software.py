"""`software=FILE`: an environment that is written down, as requirements or a pylock.toml.

The machines get what the file says, and besides it this package with what its node needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from prefect_coiled.environment.ask import PackageNotFoundError, compiled
from prefect_coiled.environment.entries import check_entry, pick
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.lock import Locked, lock_entries
from prefect_coiled.environment.records import DISTRIBUTION, Environment, minor, normalized, read_toml
from prefect_coiled.environment.requirement_files import Requirements, read_requirements
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError

# What a machine needs of its own accord; see the import contract of `node`.
_NODE = ("boto3", "bokeh", "cryptography", "dask", "distributed", "pydantic", "typing-extensions")


def check_software(software: object) -> str:
    """The path of the file.

    Raises:
        OptionsError: It is none that can be read here.
    """
    what = f"software {software!r}"
    if not isinstance(software, (str, Path)):
        raise OptionsError(what, "it is the path of a requirements file or of a pylock.toml")
    path = Path(software).expanduser()
    if not path.is_file():
        raise OptionsError(what, "there is no such file", "It is the path of requirements or a pylock.toml.")
    if path.suffix not in (".txt", ".in", ".toml", ".lock"):
        raise OptionsError(what, "it is neither requirements (.txt, .in, .lock) nor a pylock.toml")
    return str(path.resolve())


def lock_software(
    software: str, environment: Environment, target: Target, *, indexes: Indexes | None = None
) -> Locked:
    """Lock what a file says.

    Args:
        environment: The client's, from which this package itself is taken.

    Raises:
        OptionsError: The file cannot be met, or is for another Python.
    """
    indexes = indexes or Indexes.of()
    path = Path(check_software(software))
    entries = _of_pylock(path, target) if path.suffix == ".toml" else []
    pinned = [f"{e['name']}=={e['version']}" for e in entries if e.get("version")]
    told = Requirements() if entries else read_requirements(path)
    indexes = indexes.with_more(told.indexes)
    try:
        found = compiled([*_NODE, "uv", *pinned], target, indexes, *list(told.texts)[:1], files=told.texts)
    except PackageNotFoundError as error:
        raise OptionsError(f"software {path.name}", error.diagnosis.why) from None
    given = {normalized(e["name"]): e for e in entries}
    # What the file has locked is taken as it is locked there: its files, its hashes.
    merged = [*given.values(), *(e for e in found if normalized(e["name"]) not in given)]
    own = [p for p in environment.packages if p.name == DISTRIBUTION]
    if any(normalized(e["name"]) == DISTRIBUTION for e in merged):
        own = []
    return lock_entries(merged, own, target, indexes, [])


def _of_pylock(path: Path, target: Target) -> list[dict[str, Any]]:
    what = f"software {path.name}"
    try:
        read = read_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionsError(what, f"it cannot be read: {error}") from error
    if "lock-version" not in read:
        raise OptionsError(what, "it is no pylock.toml", "`uv export --format pylock.toml` writes one.")
    _check_python(what, str(read.get("requires-python", "")), target)
    listed: list[dict[str, Any]] = read.get("packages", [])
    tags = target.tags
    groups = frozenset(map(str, read.get("default-groups", ())))
    kept = [e for e in listed if _is_meant(e, target, groups)]
    for entry in kept:
        check_entry(entry)
        for wheel in entry.get("wheels", ()):
            if wheel.get("path"):
                wheel["path"] = str(path.parent / wheel["path"])
        for kind in ("sdist", "directory", "archive"):
            if entry.get(kind, {}).get("path"):
                entry[kind]["path"] = str(path.parent / entry[kind]["path"])
        whole = any(entry.get(kind) for kind in ("sdist", "vcs", "directory", "archive"))
        if not whole and pick(entry, tags) is None:
            raise OptionsError(
                f"{what}: {entry['name']}",
                f"its lock has no wheel for Linux {target.architecture} and Python {target.python}",
                "Lock it for that platform too.",
            )
    return kept


def _check_python(what: str, requires: str, target: Target) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = SpecifierSet(requires).contains(target.python, prereleases=True)
    except InvalidSpecifier as error:
        raise OptionsError(what, f"requires-python: {error}") from error
    if not fits:
        raise OptionsError(
            f"{what} is a lock for Python {re.sub(r'[^0-9.,<>=!*~ ]', '', requires)}",
            f"the client, and so the cluster, runs Python {target.python}",
            f"Lock it for Python {minor(target.python)}, or run the client with that Python.",
        )


def _is_meant(entry: Mapping[str, Any], target: Target, groups: frozenset[str]) -> bool:
    """Whether the machines get a package of a lock: of its groups the default ones, of its extras none.

    https://packaging.python.org/en/latest/specifications/pylock-toml/
    """
    from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName

    if not entry.get("marker"):
        return True
    told: dict[str, Any] = {**target.markers, "extras": frozenset(), "dependency_groups": groups}
    evaluate = Marker.evaluate
    # packaging before 25 has no such context, and reads no marker about groups and extras.
    context: dict[str, Any] = {"context": "lock_file"} if "context" in signature(evaluate).parameters else {}
    try:
        return bool(evaluate(Marker(str(entry["marker"])), told, **context))
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName) as error:
        hint = "" if context else "packaging 25 reads markers about groups and extras: update it."
        raise OptionsError(f"marker of {entry.get('name')}", str(error), hint) from error
