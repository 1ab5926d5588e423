"""From an environment to its lock: for each package the one wheel that the machines install, by hash.

Nothing is resolved: every version is known, and the indexes are asked only which files there are and what
their hashes are (`pins`). No wheel is downloaded for that.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from prefect_coiled.environment import build as building
from prefect_coiled.environment import kept
from prefect_coiled.environment.download import download
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.modules import write_wheel
from prefect_coiled.environment.pins import compile_all
from prefect_coiled.environment.records import (
    DISTRIBUTION,
    Environment,
    Lock,
    Package,
    Wheel,
    normalized,
)
from prefect_coiled.environment.target import Target, check_fits
from prefect_coiled.errors import OptionsError

__all__ = ["Locked", "lock", "lock_entries", "pick"]

logger = logging.getLogger(__name__)
_AT_ONCE = 4


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
        """Add the program's own modules, as a wheel of their own."""
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
    entries = compile_all(plain, target, indexes, strict, notes)
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
    sources: list[_Source] = []
    for entry in entries:
        found = pick(entry, tags)
        if found is not None and not found.sha256:
            # An index that gives no hash: whatever it has now is what is locked.
            sources.append(_Source(Package(name=found.name, version=found.version), found.url))
        elif found is not None:
            wheels[found.name] = found
        else:
            sources.append(_source(entry))

    def make(source: _Source) -> Path:
        package, key = source.package, kept.key_of(source.package, source.sha256)
        own = folder / package.name
        own.mkdir(exist_ok=True)
        made = kept.find(key, own)
        if made is None:
            archive = None
            if source.url:
                # An archive's name says what it is.
                wanted = Wheel(
                    name=package.name,
                    version=package.version,
                    file=_file(source.url),
                    sha256=source.sha256,
                    url=source.url,
                )
                archive = download(wanted, own, indexes)
            made = building.build(package, own, indexes, archive)
            kept.keep(key, made)
        check_fits(made, tags, target.python, target.architecture)
        return made

    sources += [_Source(p, p.url if p.origin == "url" else "") for p in others]
    built: dict[str, Path] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build") as pool:
        for path in pool.map(make, sources):
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


class _Source(NamedTuple):
    """What is to be built.

    Attributes:
        package: What it is, and where it is unless it is an archive.
        url: The address of the archive of its sources, to be fetched first.
        sha256: The archive's hash, where the index says.
    """

    package: Package
    url: str = ""
    sha256: str = ""


def _source(entry: Mapping[str, Any]) -> _Source:
    """What is to be built for a package of a pylock.toml."""
    name, version = str(entry["name"]), str(entry.get("version", "0"))
    if sdist := entry.get("sdist"):
        sha256 = str(sdist.get("hashes", {}).get("sha256", ""))
        return _Source(Package(name=name, version=version), _address(sdist), sha256)
    if vcs := entry.get("vcs"):
        place = str(vcs.get("url") or vcs.get("path"))
        sub = str(vcs.get("subdirectory", ""))
        commit = str(vcs["commit-id"])
        made = Package(name=name, version=version, origin="vcs", url=place, commit=commit, subdirectory=sub)
        return _Source(made)
    if archive := entry.get("archive"):
        if archive.get("url"):
            return _Source(
                Package(name=name, version=version, origin="url", url=archive["url"]), archive["url"]
            )
        path = Path(archive["path"]).absolute()
        return _Source(Package(name=name, version=version, origin="file", url=path.as_uri()))
    if directory := entry.get("directory"):
        path = Path(directory["path"]).absolute()
        return _Source(Package(name=name, version=version, origin="directory", url=path.as_uri()))
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
