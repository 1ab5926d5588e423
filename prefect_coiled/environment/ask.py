"""Asks the package indexes, by uv, for files of packages that the machines run."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import normalized, read_toml
from prefect_coiled.environment.target import Target
from prefect_coiled.environment.uv import run_uv
from prefect_coiled.errors import OptionsError

_SECONDS = 300


class PackageNotFoundError(OptionsError):
    """One of several packages cannot be had."""


def compiled(
    requirements: Sequence[str],
    target: Target,
    indexes: Indexes,
    *options: str,
    chosen: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The packages of a pylock.toml for requirements, resolved for the machines.

    Args:
        options: More of uv's for `pip compile`.
        chosen: Which of its indexes a package is asked of, where its sources name several; else the first.

    Raises:
        PackageNotFoundError: They cannot be met.
        OptionsError: The index does not answer.
    """
    sources = {}
    for name in map(name_of, requirements):
        if of := indexes.sources_for(name, target.markers):
            sources[name] = (chosen or {}).get(name, of[0])
    project = indexes.project_text(list(requirements), sources)
    command = ["pip", "compile", "pyproject.toml", "--quiet", "--format", "pylock.toml", "--no-header"]
    command += ["--python-version", target.python, "--python-platform", target.platform]
    # What sources need is asked of them by this very interpreter, where an index does not say it.
    command += ["--python", sys.executable, *options]
    said = run_uv(command, indexes, files={"pyproject.toml": project, **(files or {})}, seconds=_SECONDS)
    if not said.code:
        return list(read_toml(said.out).get("packages", ()))
    error = " ".join(said.error.split()).removeprefix("error: ")
    if said.code == 1:
        raise PackageNotFoundError("packages", error)
    raise OptionsError("asking the package index", error[:600], "Check the index and the credentials for it.")


def found_alone(
    pins: Sequence[str], target: Target, indexes: Indexes, bad: dict[str, str], chosen: dict[str, str]
) -> list[dict[str, Any]]:
    """The packages of pinned requirements, without what these need.

    Asked for are all at once; where that fails, each half, until those are known that fail alone.

    Args:
        bad: Gets what cannot be had, with uv's words.
        chosen: Gets the index of a package whose sources name several.

    Raises:
        OptionsError: The index does not answer.
    """
    if not pins:
        return []
    # Pre-releases are pinned like any other version.
    options = ("--no-deps", "--prerelease", "allow")
    tries: list[dict[str, str]] = [{}]
    if len(pins) == 1:
        name = name_of(pins[0])
        tries = [{name: index} for index in indexes.sources_for(name, target.markers)] or tries
    for choice in tries:
        try:
            found = compiled(pins, target, indexes, *options, chosen={**chosen, **choice})
        except PackageNotFoundError as error:
            why = error.diagnosis.why
            continue
        chosen.update(choice)
        return found
    if len(pins) == 1:
        bad[pins[0]] = why
        return []
    half = len(pins) // 2
    parts = (pins[:half], pins[half:])
    return [x for part in parts for x in found_alone(part, target, indexes, bad, chosen)]


def name_of(requirement: str) -> str:
    """The normalised name in a requirement."""
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement.strip())
    return normalized(found[0]) if found else ""
