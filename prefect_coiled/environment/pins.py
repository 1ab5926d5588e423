"""Asks the package indexes for the files of packages whose versions are known, and for their hashes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prefect_coiled.environment.build import find_uv
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Package, read_toml
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError

__all__ = ["PackageNotFoundError", "compile_all", "compile_pins", "compiled"]

_SECONDS = 300


def compile_pins(pins: Sequence[str], target: Target, indexes: Indexes) -> list[dict[str, Any]]:
    """The packages of a pylock.toml for pinned requirements.

    Raises:
        PackageNotFoundError: At least one of them cannot be had.
        OptionsError: The index does not answer.
    """
    command = [*find_uv(), "pip", "compile", "-", "--quiet", "--no-deps", "--format", "pylock.toml"]
    command += ["--python-version", target.python, "--python-platform", target.platform, "--no-header"]
    # Pre-releases are pinned like any other version.
    command += ["--prerelease", "allow"]
    return compiled(command, "".join(f"{pin}\n" for pin in pins), indexes)


def compiled(command: Sequence[str], text: str, indexes: Indexes) -> list[dict[str, Any]]:
    """Run uv's compile; see `compile_pins`."""
    environ = {**os.environ, **indexes.environ}
    try:
        done = subprocess.run(
            command,
            input=text,
            env=environ,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OptionsError("asking the package index", indexes.redacted(str(error))) from None
    if done.returncode == 0:
        return list(read_toml(done.stdout).get("packages", ()))
    said = indexes.redacted(" ".join(done.stderr.split()).removeprefix("error: "))
    # https://docs.astral.sh/uv/reference/cli/: 1 is a failure of what was asked, 2 one of the way there.
    if done.returncode == 1:
        raise PackageNotFoundError("packages", said)
    raise OptionsError("asking the package index", said[:600], "Check the index and the credentials for it.")


class PackageNotFoundError(OptionsError):
    """One of several packages cannot be had."""


def compile_all(
    packages: Sequence[Package],
    target: Target,
    indexes: Indexes,
    strict: bool,
    notes: list[str],
    here: Collection[str] = (),
) -> list[dict[str, Any]]:
    """All packages with their files; those that no index has are named together.

    Args:
        packages: With their versions.
        target: What the machines run.
        indexes: Where to ask.
        strict: Whether what would be replaced or left out is an error.
        notes: What a user should know is added here.
        here: Names of those that can be had without an index: they may be missing in the answer.

    Raises:
        OptionsError: Others cannot be had.
    """
    bad: dict[str, str] = {}
    pins = {str(p): p for p in packages}
    # What installs all of it is there in any case.
    tool = () if any(p.name == "uv" for p in packages) else ("uv",)
    found = _halved([*pins, *tool], target, indexes, bad)
    for pin in [pin for pin in bad if pin in pins and pins[pin].name in here]:
        del bad[pin]
    for pin in [pin for pin in bad if pin in pins and pins[pin].origin == "system" and not strict]:
        del bad[pin]
        notes.append(f"{pin} is left out: it belongs to the operating system, and no index has it")
    replaced = {pin for pin in bad if "+" in pin and not strict}
    if replaced:
        # A local label names a build that a public index does not have.
        public = {pin.partition("+")[0]: pin for pin in sorted(replaced)}
        failed: dict[str, str] = {}
        found += _halved([*public], target, indexes, failed)
        for pin, local in public.items():
            if pin not in failed:
                del bad[local]
                notes.append(f"{local} is a local build that no index has: the machines get {pin}")
    if bad:
        raise _unavailable(bad, pins, target)
    return found


def _halved(
    pins: Sequence[str], target: Target, indexes: Indexes, bad: dict[str, str]
) -> list[dict[str, Any]]:
    """Ask for all; where that fails, for each half, until those are known that fail alone."""
    if not pins:
        return []
    try:
        return compile_pins(pins, target, indexes)
    except PackageNotFoundError as error:
        if len(pins) == 1:
            bad[pins[0]] = error.diagnosis.why
            return []
    half = len(pins) // 2
    return [x for part in (pins[:half], pins[half:]) for x in _halved(part, target, indexes, bad)]


def _unavailable(bad: Mapping[str, str], pins: Mapping[str, Package], target: Target) -> OptionsError:
    names = sorted(pins[pin].name if pin in pins else pin for pin in bad)
    parts = []
    for pin in sorted(bad):
        package = pins.get(pin)
        if package is not None and package.origin == "conda":
            parts.append(f"{pin} is made by conda and no index has it")
        elif "+" in pin:
            parts.append(f"{pin} is a local build that no index has")
        else:
            parts.append(f"{pin} has no file for Linux {target.architecture} and Python {target.python}")
    cause = f" ({bad[next(iter(bad))]})" if len(bad) == 1 else ""
    return OptionsError(
        f"packages for the machines: {'; '.join(parts)}{cause[:400]}",
        next_step=f"Leave them out: package_sync_ignore={names}; or name what to install: software=FILE.",
    )
