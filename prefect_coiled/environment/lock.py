"""From an environment to its lock: for each package the one wheel that the machines install, by hash.

Nothing is resolved: every version is known, and the indexes are asked only which files there are and what
their hashes are (`uv pip compile --no-deps`, which writes pylock.toml). No wheel is downloaded for that.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from prefect_coiled.environment import build as building
from prefect_coiled.environment.download import download
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.modules import write_wheel
from prefect_coiled.environment.records import (
    DISTRIBUTION,
    Environment,
    Lock,
    Package,
    Wheel,
    normalized,
    read_toml,
)
from prefect_coiled.errors import OptionsError

__all__ = ["Locked", "Target", "compile_pins", "lock", "lock_entries", "pick"]

logger = logging.getLogger(__name__)
_SECONDS = 300
_AT_ONCE = 4


@dataclass(frozen=True)
class Target:
    """What the machines run.

    Attributes:
        python: The version of Python, such as "3.11.9".
        architecture: "x86_64" or "arm64".
    """

    python: str
    architecture: str = "x86_64"

    @property
    def tags(self) -> list[Tag]:
        """Of the wheels that fit, the best first."""
        return building.target_tags(self.python, self.architecture)

    @property
    def platform(self) -> str:
        """In uv's words."""
        machine = "aarch64" if self.architecture == "arm64" else self.architecture
        return f"{machine}-manylinux_2_{building.GLIBC}"


@dataclass
class Locked:
    """A lock, and the wheels that were built for it on this machine.

    Attributes:
        lock: The lock.
        built: Their files by hash.
        indexes: For downloads of the others.
        notes: What a user should know, such as a package that was left out.
        folder: Where the files are, until `discard`.
    """

    lock: Lock
    built: dict[str, Path] = field(default_factory=dict)
    indexes: Indexes = field(default_factory=Indexes)
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None

    def fetch(self, wheel: Wheel, folder: Path) -> Path:
        """The wheel's file: the one built here, or a download.

        Raises:
            OptionsError: The index does not give it, or gives another one.
        """
        return self.built.get(wheel.sha256) or download(wheel, folder, self.indexes)

    def add_modules(self, files: dict[str, bytes]) -> None:
        """Add the modules beside the flow, as a wheel of their own."""
        if self.folder is None or (path := write_wheel(files, self.folder)) is None:
            return
        made = building.wheel_of(path)
        self.built[made.sha256] = path
        self.lock = self.lock.model_copy(update={"modules": made})

    def discard(self) -> None:
        """Remove the files."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def lock(
    environment: Environment,
    target: Target,
    *,
    strict: bool = False,
    indexes: Indexes | None = None,
) -> Locked:
    """Lock the client's environment for the machines.

    Args:
        environment: As `capture` found it.
        target: What the machines run.
        strict: Whether a local build ("2.3.0+cu121") that no index has is an error rather than replaced by
            the released version.
        indexes: Where to look; by default as pip and uv are set up here.

    Raises:
        OptionsError: A package cannot be had for the machines; the text says which, why and what to do.
    """
    indexes = indexes or Indexes.of()
    notes = [f"{name} is left out: {why}" for name, why in sorted(environment.left_out.items())]
    plain = [p for p in environment.packages if p.origin in ("index", "conda")]
    entries = _compile(plain, target, indexes, strict, notes)
    others = [p for p in environment.packages if p.origin not in ("index", "conda")]
    return lock_entries(entries, others, target, indexes, notes)


def lock_entries(
    entries: Iterable[Mapping[str, Any]],
    others: Sequence[Package],
    target: Target,
    indexes: Indexes,
    notes: list[str],
) -> Locked:
    """Lock packages of a pylock.toml, and others that are built here.

    Raises:
        OptionsError: A package cannot be had for the machines.
    """
    entries = list(entries)
    named = {normalized(str(e["name"])) for e in entries} | {p.name for p in others}
    if DISTRIBUTION not in named:
        raise OptionsError(
            f"packages: {DISTRIBUTION} is not among the client's packages, so no machine can install it",
            next_step="Install it into the client's environment instead of importing it from a folder.",
        )
    folder = Path(tempfile.mkdtemp(prefix="prefect-coiled-lock-"))
    try:
        return _locked(entries, others, target, indexes, folder, notes)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _locked(
    entries: Iterable[Mapping[str, Any]],
    others: Sequence[Package],
    target: Target,
    indexes: Indexes,
    folder: Path,
    notes: list[str],
) -> Locked:
    """Put together what indexes have and what has to be built."""
    tags = target.tags
    wheels: dict[str, Wheel] = {}
    sources: list[tuple[Package, str]] = []
    for entry in entries:
        found = pick(entry, tags)
        if found is not None and not found.sha256:
            # An index that gives no hash: whatever it has now is what is locked.
            sources.append((Package(name=found.name, version=found.version), found.url))
        elif found is not None:
            wheels[found.name] = found
        else:
            package, url = _source(entry)
            sources.append((package, url))

    def make(package: Package, url: str = "") -> Path:
        own = folder / package.name
        own.mkdir(exist_ok=True)
        if url:
            # An archive's name says what it is; the hash is that of the index.
            wanted = Wheel(name=package.name, version=package.version, file=_file(url), sha256="", url=url)
            source = download(wanted, own, indexes)
        else:
            source = None
        made = building.build(package, own, indexes, source)
        building.check_fits(made, tags, target.python, target.architecture)
        return made

    jobs = [*((p, u) for p, u in sources), *((p, p.url if p.origin == "url" else "") for p in others)]
    built: dict[str, Path] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build") as pool:
        for path in pool.map(lambda job: make(*job), jobs):
            made = building.wheel_of(path)
            wheels[made.name], built[made.sha256] = made, path
    uv = wheels.pop("uv")
    ordered = tuple(wheels[name] for name in sorted(wheels))
    made_lock = Lock(python=target.python, architecture=target.architecture, wheels=ordered, uv=uv)
    return Locked(made_lock, built, indexes, notes, folder)


def pick(entry: Mapping[str, Any], tags: Sequence[Tag]) -> Wheel | None:
    """The best wheel of a package in a pylock.toml, or None if it has none that fits."""
    rank = {tag: n for n, tag in enumerate(tags)}
    best: tuple[int, Wheel] | None = None
    for wheel in entry.get("wheels", ()):
        address = _address(wheel)
        file = str(wheel.get("name") or _file(address))
        places = [rank[tag] for tag in parse_wheel_filename(file)[3] if tag in rank]
        if places and (best is None or min(places) < best[0]):
            made = Wheel(
                name=entry["name"],
                version=entry.get("version") or str(parse_wheel_filename(file)[1]),
                file=file,
                sha256=wheel.get("hashes", {}).get("sha256", ""),
                size=int(wheel.get("size", 0)),
                url=address,
            )
            best = min(places), made
    return best[1] if best else None


def _source(entry: Mapping[str, Any]) -> tuple[Package, str]:
    """What is to be built for a package of a pylock.toml, and the address of its archive."""
    name, version = str(entry["name"]), str(entry.get("version", "0"))
    if sdist := entry.get("sdist"):
        return Package(name=name, version=version), _address(sdist)
    if vcs := entry.get("vcs"):
        place = str(vcs.get("url") or vcs.get("path"))
        sub = str(vcs.get("subdirectory", ""))
        commit = str(vcs["commit-id"])
        made = Package(name=name, version=version, origin="vcs", url=place, commit=commit, subdirectory=sub)
        return made, ""
    if archive := entry.get("archive"):
        if archive.get("url"):
            return Package(name=name, version=version, origin="url", url=archive["url"]), archive["url"]
        path = Path(archive["path"]).absolute()
        return Package(name=name, version=version, origin="file", url=path.as_uri()), ""
    if directory := entry.get("directory"):
        path = Path(directory["path"]).absolute()
        return Package(name=name, version=version, origin="directory", url=path.as_uri()), ""
    raise OptionsError(
        f"package {name}=={version}",
        "the index has no wheel of it for the machines, and no sources",
        f"Leave it out: package_sync_ignore=[{name!r}].",
    )


def _address(entry: Mapping[str, Any]) -> str:
    # What is in a folder of wheels (find-links) has a path.
    return str(entry.get("url") or Path(entry["path"]).absolute().as_uri())


def _file(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


# -- asking the indexes


def compile_pins(pins: Sequence[str], target: Target, indexes: Indexes) -> list[dict[str, Any]]:
    """The packages of a pylock.toml for pinned requirements.

    Raises:
        PackageNotFoundError: At least one of them cannot be had.
        OptionsError: The index does not answer.
    """
    command = [*building.find_uv(), "pip", "compile", "-", "--quiet", "--no-deps", "--format", "pylock.toml"]
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


def _compile(
    packages: Sequence[Package], target: Target, indexes: Indexes, strict: bool, notes: list[str]
) -> list[dict[str, Any]]:
    """All packages with their files; those that no index has are named together."""
    bad: dict[str, str] = {}
    pins = {str(p): p for p in packages}
    found = _halved([*pins, "uv"], target, indexes, bad)
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
