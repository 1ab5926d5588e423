"""From an environment to its lock: for each package the one wheel that the machines install, by hash.

Nothing is resolved: every version is known, and the indexes are asked only which files there are and what
their hashes are (`pins`). No wheel is downloaded for that; but that an index's wheel is the package that is
installed here, and not a stranger's of that name, is checked by the hashes of its Python files (`proof`).
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_coiled.environment import build as building
from prefect_coiled.environment import kept
from prefect_coiled.environment.download import download
from prefect_coiled.environment.entries import Source, file_of, pick, source_of
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.modules_wheel import write_wheel
from prefect_coiled.environment.pins import compile_all
from prefect_coiled.environment.proof import INDEXED, check_editables, prove
from prefect_coiled.environment.records import (
    DISTRIBUTION,
    Change,
    Environment,
    Lock,
    Package,
    Wheel,
    normalized,
)
from prefect_coiled.environment.repack import Packable, can_be_packed, pack
from prefect_coiled.environment.target import Target, check_fits
from prefect_coiled.errors import OptionsError

logger = logging.getLogger(__name__)
_AT_ONCE = 4


@dataclass
class Locked:
    """A lock, and the wheels that were built for it on this machine.

    Attributes:
        indexes: For downloads of the others.
        notes: What a user should know, such as a package that was left out.
        changes: Packages that are not the same here, on the machines and in their release.
    """

    lock: Lock
    built: dict[str, Path] = field(default_factory=dict)
    indexes: Indexes = field(default_factory=Indexes)
    notes: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
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
    fresh: bool = False,
    indexes: Indexes | None = None,
) -> Locked:
    """Lock the client's environment for the machines.

    Args:
        strict: Whether what the machines cannot have as it is here is an error rather than replaced.
        fresh: Whether to read files again that look as they did when they were read last.
        indexes: Where to look; by default as pip and uv are set up here.

    Raises:
        OptionsError: A package cannot be had for the machines; the text says which, why and what to do.
    """
    indexes = indexes or Indexes.of()
    notes = [f"{name} is left out: {why}" for name, why in sorted(environment.left_out.items())]
    plain = [p for p in environment.packages if p.origin in INDEXED]
    # What can be had from the files that are here needs no index.
    here = Packable(plain, target.tags)
    entries = compile_all(plain, target, indexes, strict, notes, here, client=environment)
    proven = prove(entries, plain, here, target, indexes, strict=strict, fresh=fresh)
    others = [p for p in environment.packages if p.origin not in INDEXED]
    built_here = [*others, *proven.packed]
    made = lock_entries(proven.entries, built_here, target, indexes, notes, strict=strict)
    try:
        made.changes = [*proven.changes, *check_editables(others, made.lock, made.built, strict=strict)]
    except BaseException:
        made.discard()
        raise
    made.notes += [f"{change.package}=={change.here}: {change.what}" for change in made.changes]
    return made


def _packed(package: Package, folder: Path) -> Path:
    try:
        return pack(package, folder)
    except OSError as error:
        raise OptionsError(
            f"packing {package} as it is here",
            str(error),
            f"Mend it, or leave it out: package_sync_ignore=[{package.name!r}].",
        ) from error


def lock_entries(
    entries: Iterable[Mapping[str, Any]],
    others: Sequence[Package],
    target: Target,
    indexes: Indexes,
    notes: list[str],
    *,
    strict: bool = False,
) -> Locked:
    """Lock packages of a pylock.toml, and others that are built here.

    Args:
        strict: Whether it is an error if one of the latter needs libraries that the machines lack.

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
        return _locked(entries, others, target, indexes, folder, notes, strict)
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
    strict: bool,
) -> Locked:
    """Put together what indexes have and what has to be built."""
    tags = target.tags
    wheels: dict[str, Wheel] = {}
    sources: list[Source] = []
    for entry in entries:
        found = pick(entry, tags)
        if found is not None and not found.sha256:
            # An index that gives no hash: whatever it has now is what is locked.
            package = Package(name=found.name, version=found.version)
            sources.append(Source(package, found.url, record=found.record))
        elif found is not None:
            wheels[found.name] = found
        else:
            sources.append(source_of(entry))

    def make(source: Source) -> Path:
        package, key = source.package, kept.key_of(source.package, source.sha256)
        own = folder / package.name
        own.mkdir(exist_ok=True)
        if package.record and not package.editable and can_be_packed(package, tags):
            made: Path | None = _packed(package, own)
        else:
            made = kept.find(key, own)
        if made is None:
            archive = None
            if source.url:
                # An archive's name says what it is.
                wanted = Wheel(
                    name=package.name,
                    version=package.version,
                    file=file_of(source.url),
                    sha256=source.sha256,
                    url=source.url,
                    record=source.record,
                )
                archive = download(wanted, own, indexes)
            made = building.build(package, own, indexes, archive)
            kept.keep(key, made)
        if package.origin == "directory":
            made = building.as_of_directory(package, made, notes)
        if lacking := check_fits(made, tags, target.python, target.architecture):
            what, why = f"{package} needs {', '.join(lacking)}", "which the machines lack"
            hint = f"Install a released version that has wheels, or package_sync_ignore=[{package.name!r}]."
            if strict:
                raise OptionsError(f"package_sync_strict: {what}", why, hint)
            notes.append(f"{what}, {why}: its import may fail there. {hint}")
        return made

    sources += [Source(p, p.url if p.origin == "url" else "") for p in others]
    built: dict[str, Path] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build") as pool:
        for path in pool.map(make, sources):
            made = building.wheel_of(path)
            wheels[made.name], built[made.sha256] = made, path
    uv = wheels.pop("uv")
    ordered = tuple(wheels[name] for name in sorted(wheels))
    made_lock = Lock(python=target.python, architecture=target.architecture, wheels=ordered, uv=uv)
    return Locked(made_lock, built, indexes, notes, folder=folder)
