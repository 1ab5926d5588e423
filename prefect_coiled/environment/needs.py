"""What packages need on Linux beyond those that the client has: a client on another system lacks it.

uv resolves it for the machines' platform. All versions of the client stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from prefect_coiled.environment.ask import PackageNotFoundError, compiled, name_of
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Environment, Package, normalized
from prefect_coiled.environment.target import Target


def is_like(client: Environment, target: Target) -> bool:
    """Whether the client's system is the machines', so that its list of packages is whole."""
    system, _, machine = client.platform.partition("-")
    return system == "linux" and machine in (target.markers["platform_machine"], target.architecture)


def needs_of(
    requirements: Sequence[str],
    pins: Iterable[str],
    client: Environment,
    target: Target,
    indexes: Indexes,
    chosen: Mapping[str, str],
) -> list[dict[str, Any]]:
    """What requirements need on the machines and the client does not have.

    Args:
        pins: The versions that hold, of all that comes from an index.
        client: Its packages; those that are built or left out are asked of no index.

    Raises:
        PackageNotFoundError: Something needed cannot be had.
        OptionsError: The index does not answer.
    """
    pins = list(pins)
    pinned = {normalized(Requirement(pin).name) for pin in pins}
    never = {p.name for p in client.packages if p.name not in pinned} | set(client.left_out)
    never |= _done_without(client)
    have = pinned | never | {"uv"}
    while True:
        found = _resolved(requirements, pins, never, target, indexes, chosen)
        beyond = [e for e in found if normalized(str(e["name"])) not in have]
        names = {normalized(str(e["name"])) for e in beyond}
        ignored = {n for n in names if any(fnmatchcase(n, glob) for glob in client.ignored)}
        if not ignored:
            return beyond
        # What they alone need goes with them.
        never |= ignored


def _resolved(
    requirements: Sequence[str],
    pins: Sequence[str],
    never: Iterable[str],
    target: Target,
    indexes: Indexes,
    chosen: Mapping[str, str],
) -> list[dict[str, Any]]:
    locked = [
        f"{name}=={v}" for name, v in indexes.locked().items() if name not in {*never, *map(name_of, pins)}
    ]
    # What never holds is never asked for: https://docs.astral.sh/uv/concepts/resolution/#dependency-overrides
    without = [f"{name} ; sys_platform == 'never'" for name in sorted(never)]
    tries = [
        # The project's own lock may know what Linux needs; it may be older than what is installed, too.
        *([([*pins, *locked], without)] if locked else []),
        (pins, without),
        # The client runs with versions that do not go together by their metadata; so will the machines.
        ((), [*without, *pins]),
    ]
    for n, (constraints, overrides) in enumerate(tries, 1):
        text = {"constraints.txt": "\n".join(constraints), "overrides.txt": "\n".join(overrides)}
        options = ["--constraints", "constraints.txt", "--overrides", "overrides.txt"]
        try:
            return compiled(requirements, target, indexes, *options, chosen=chosen, files=text)
        except PackageNotFoundError:
            if n == len(tries):
                raise
    raise AssertionError("a try ends in an answer or in an error")


def requirements_of_built(client: Environment, pins: Iterable[str]) -> list[str]:
    """What the client's packages that no index has require, but for one another and what is pinned."""
    pinned = {normalized(Requirement(pin).name) for pin in pins}
    own = {p.name for p in client.packages if p.name not in pinned}
    found = []
    for package in client.packages:
        if package.name in own:
            for text, requirement in _parsed(package):
                name = normalized(requirement.name)
                if not requirement.url and name not in own and name not in client.left_out:
                    found.append(text)
    return found


def needed_elsewhere_only(name: str, client: Environment, target: Target) -> bool:
    """Whether a package is here only because others require it on the client's system, and not on Linux."""
    said = [
        requirement.marker is not None and not requirement.marker.evaluate(dict(target.markers))
        for package in client.packages
        for _, requirement in _parsed(package)
        if normalized(requirement.name) == name
    ]
    return bool(said) and all(said)


def _done_without(client: Environment) -> set[str]:
    """What the client's packages require on its own system, and it runs without."""
    system, _, machine = client.platform.partition("-")
    markers = {
        "sys_platform": system,
        "platform_system": {"darwin": "Darwin", "win32": "Windows"}.get(system, system.capitalize()),
        "os_name": "nt" if system == "win32" else "posix",
        "platform_machine": machine,
        "python_version": client.python_minor,
        "python_full_version": client.python,
        "extra": "",
    }
    have = {p.name for p in client.packages}
    required = {
        normalized(requirement.name)
        for package in client.packages
        for _, requirement in _parsed(package)
        if requirement.marker is None or requirement.marker.evaluate(dict(markers))
    }
    return required - have


def _parsed(package: Package) -> Iterable[tuple[str, Requirement]]:
    for text in package.requires:
        try:
            yield text, Requirement(text)
        except InvalidRequirement:
            continue


def told(entries: Sequence[Mapping[str, Any]], most: int = 1000) -> str:
    """Packages of a pylock.toml in words, with their size where the index gives it."""
    sizes = [min((int(w.get("size", 0)) for w in e.get("wheels", ())), default=0) for e in entries]
    named = sorted(f"{e['name']}=={e.get('version', '?')}" for e in entries)
    names = ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")
    return f"{names} ({sum(sizes) / 1e6:.0f} MB)" if all(sizes) and sum(sizes) > 1e6 else names
