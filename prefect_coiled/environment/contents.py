"""What a wheel holds and what is installed here, as the hashes of their Python files; and how they differ.

A wheel lists its files with their hashes at its end (RECORD), so some kilobytes tell what it is. What was
read of a wheel is kept, by the wheel's own hash; it may be deleted at any moment.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
import re
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import httpx

from prefect_coiled.environment.fetch import opened, whole
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Package, Wheel
from prefect_coiled.environment.sites import path_of
from prefect_coiled.errors import OptionsError
from prefect_coiled.internals import kept
from prefect_coiled.node.packages import as_recorded, hash_of, imported_from

# Bytes of a RECORD, which has a line for each file; large packages have some MiB.
_LONGEST_RECORD = 64 << 20
# To be raised when other files of a wheel count.
_FORMAT = 3
_EMPTY = as_recorded(hashlib.sha256().digest())
# Stands for the wheel's own METADATA: what a package without a Python file is known by.
_METADATA = ":METADATA"
# Stands for its RECORD, if that lists every file: then by its hash the whole wheel is known to be this one.
RECORD = ":RECORD"
_OF_ITSELF = (_METADATA, RECORD)
_RECORD_OF = re.compile(r"[^/]+\.dist-info/RECORD")


@dataclass(frozen=True)
class Difference:
    """How the files of a package here differ from those of a wheel.

    Attributes:
        changed: Python files that have another content here.
        related: Whether they are two states of one project, rather than two projects of one name.
    """

    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    related: bool = True

    def __bool__(self) -> bool:
        return bool(self.changed or self.missing or self.extra or not self.related)

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.changed, *self.missing, *self.extra)

    def __str__(self) -> str:
        named = ", ".join(self.files[:3])
        more = len(self.files) - 3
        return f"{named} and {more} more" if more > 0 else named or "nothing in common"


def read_record(folder: Path) -> dict[str, str]:
    """The installed files that a record lists, with their hashes; those without one have ""."""
    try:
        listed = _record((folder / "RECORD").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}
    # A path may lead away and back, or begin at the root of the file system.
    beside = f"{folder.parent.as_posix()}/"
    return {posixpath.normpath(path.removeprefix(beside)): told for path, told in listed.items()}


def python_files(record: Path) -> dict[str, str]:
    """The Python files among them that lie beside the record, where they are imported from."""
    listed = read_record(record).items()
    return {path: told for path, told in listed if path.endswith(".py") and not path.startswith(("..", "/"))}


def imported_files(wheel: Path) -> dict[str, tuple[str, Path | None]]:
    """The Python files of a wheel that is here: their hashes, and where each is imported from here.

    Args:
        wheel: Of an editable package, say, whose files lie elsewhere.
    """
    told = contents_of_file(wheel)
    return {path: (told[path], imported_from(path)) for path in told if path not in _OF_ITSELF}


def _record(text: str) -> dict[str, str]:
    # https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file
    # No name has a NUL in it, and a quotation mark that is not closed ends with its line.
    rows = (row for line in text.replace("\0", "").splitlines() for row in csv.reader([line]))
    return {
        row[0].replace("\\", "/"): (row[1].removeprefix("sha256=") if len(row) > 1 else "")
        for row in rows
        if row and row[0]
    }


def contents(wheel: Wheel, indexes: Indexes) -> Mapping[str, str]:
    """What of a wheel of an index is run, with its hashes, by the path that it is installed under.

    As the wheel's RECORD says, which holds if `check_record` finds that very one in the whole wheel. A wheel
    whose RECORD does not list all of it is fetched as a whole.

    Args:
        wheel: With its address, and its hash where it is known.

    Raises:
        OptionsError: The index does not give it.
    """
    cache = kept.folder("contents") / f"{wheel.sha256}-{_FORMAT}"
    if wheel.sha256:
        try:
            known: dict[str, str] = json.loads(kept.read(cache))
            return known
        except (OSError, ValueError):
            pass
    what = f"looking into {wheel.file}"
    try:
        if wheel.url.startswith("file:"):
            with path_of(wheel.url).open("rb") as file:
                found = _read(file, wheel.file)
        else:
            with opened(wheel.url, indexes, wheel.size) as file:
                found = _read(file, wheel.file)
            if RECORD not in found:
                found = _of_whole(wheel, indexes)
    except (OSError, csv.Error, zipfile.BadZipFile, KeyError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise OptionsError(what, indexes.redacted(str(error) or type(error).__name__)) from None
    if wheel.sha256:
        kept.write(cache, json.dumps(found).encode())
    return found


def _of_whole(wheel: Wheel, indexes: Indexes) -> dict[str, str]:
    """The same, where no RECORD could say later that the file is the one that was looked into."""
    if not wheel.sha256:  # and no hash either: nothing is known of what will be fetched
        return {}
    with tempfile.TemporaryFile() as file:
        if whole(wheel.url, indexes, file, wheel.size) != wheel.sha256:
            raise OSError("it has another hash than the index said")
        return _read(file, wheel.file, believe=False)


def contents_of_file(path: Path) -> Mapping[str, str]:
    """The same of a wheel that is here."""
    with path.open("rb") as file:
        return _read(file, path.name)


def check_record(path: Path, seen: str = "") -> str:
    """What of a whole wheel is not as its RECORD says; empty if all is.

    Of a wheel that was not downloaded RECORD alone was read: it was believed, and counts when this is empty.
    Installers do not look. Machines look in the same way (`install.sh`).

    Args:
        seen: The hash of the RECORD that was read before. An index may have given another one then.
    """
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        if len(set(names)) != len(names):
            return "a file is twice in it"
        for record in (n for n in names if n.endswith(".dist-info/RECORD")):
            for name, digest in _listed(_told(wheel, record)):
                if name in names and _digest(wheel, name) != digest:
                    return f"{name} is not what its RECORD says"
        if seen:
            own = [n for n in names if _RECORD_OF.fullmatch(n)]
            if [hashlib.sha256(_told(wheel, n)).hexdigest() for n in own] != [seen]:
                return "RECORD is another one than was looked into"
            if rest := _not_listed(names, own[0], _listed(_told(wheel, own[0]))):
                return f"{rest[0]} is not in its RECORD"
    return ""


def _listed(record: bytes) -> list[tuple[str, str]]:
    """The files of a wheel that its RECORD lists with a hash, and these.

    Read as machines read it, so that nothing stands in it for the one and not for the other.
    """
    rows = csv.reader(io.StringIO(record.decode(errors="replace")))
    return [(r[0], r[1][7:].rstrip("=")) for r in rows if len(r) > 1 and r[1].startswith("sha256=")]


def _not_listed(names: Iterable[str], record: str, listed: Iterable[tuple[str, str]]) -> list[str]:
    """The files that a RECORD lacks; it cannot hold its own hash, nor that of a signature."""
    known = {name for name, _ in listed} | {record, f"{record}.jws", f"{record}.p7s"}
    return [name for name in names if not name.endswith("/") and name not in known]


def _told(wheel: zipfile.ZipFile, record: str) -> bytes:
    """A RECORD, which is read as a whole: a small archive can hold one that fills the memory.

    Raises:
        zipfile.BadZipFile: It is longer than one is.
    """
    if wheel.getinfo(record).file_size > _LONGEST_RECORD:
        raise zipfile.BadZipFile(f"{record} is longer than {_LONGEST_RECORD >> 20} MiB")
    return wheel.read(record)


def _digest(wheel: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with wheel.open(name) as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return as_recorded(digest.digest())


def _counts(name: str, file: str) -> bool:
    """Whether a file of a wheel is run where the wheel is installed, and is the same on every system."""
    if name.endswith(".pth"):  # a line of it that begins with "import" is run at every start
        return "/" not in name or re.fullmatch(r"[^/]+\.data/(purelib|platlib)/[^/]+", name) is not None
    # What is compiled is another file for each system, and comes before a module of its name.
    return name.endswith(".py") or (file.endswith("-none-any.whl") and name.endswith((".so", ".pyd")))


def _read(file: IO[bytes], called: str, *, believe: bool = True) -> dict[str, str]:
    found: dict[str, str] = {}
    with zipfile.ZipFile(file) as wheel:
        names = wheel.namelist()
        records = [n for n in names if _RECORD_OF.fullmatch(n)]
        text = _told(wheel, records[0]) if records and believe else b""
        told = dict(listed := _listed(text))
        if len(records) == 1 and text and not _not_listed(names, records[0], listed):
            found[RECORD] = hashlib.sha256(text).hexdigest()
        for name in names:
            if name.endswith(".dist-info/METADATA") and name.count("/") == 1:
                place = _METADATA
            elif not _counts(name, called):
                continue
            else:
                # https://packaging.python.org/en/latest/specifications/binary-distribution-format/#the-data-directory
                moved = re.match(r"[^/]+\.data/(purelib|platlib)/(.+)", name)
                if moved is None and re.match(r"[^/]+\.data/", name):
                    continue
                place = moved[2] if moved else name
            found[place] = told.get(name) or _digest(wheel, name)
    return found


def difference(package: Package, told: Mapping[str, str], *, fresh: bool = False) -> Difference:
    """How what is installed here differs from a wheel.

    Args:
        told: What the wheel holds, as `contents` says.
    """
    record = Path(package.record)
    expected = {path: digest for path, digest in told.items() if path not in _OF_ITSELF}
    extra = sorted(
        path for path in python_files(record) if path not in expected and (record.parent / path).is_file()
    )
    if not any(digest != _EMPTY for digest in expected.values()):
        # Nothing to know it by but what it says of itself.
        missing = tuple(p for p in expected if _at(record.parent, p) is None)
        return Difference(missing=missing, extra=tuple(extra), related=_says_the_same(record, told))
    places = {path: _at(record.parent, path) for path in expected}
    signature = _signature(places.values())
    mark = kept.folder("seen") / _short(package.record, *sorted(f"{p}{d}" for p, d in expected.items()))
    if not fresh and not extra and signature and _text(mark) == signature:
        return Difference()
    missing = tuple(sorted(path for path, place in places.items() if place is None))
    changed = tuple(
        sorted(path for path, place in places.items() if place and hash_of(place) != expected[path])
    )
    if not (changed or missing or extra):
        kept.write(mark, signature.encode())
        return Difference()
    solid = [path for path, digest in expected.items() if digest != _EMPTY]
    same_files = len(set(solid) - {*changed, *missing})
    # Of few files each may have been changed here: the same names, and the same words about itself.
    same = not missing and not extra and _says_the_same(record, told)
    return Difference(changed, missing, tuple(extra), related=same or same_files * 2 >= len(solid))


def _says_the_same(record: Path, told: Mapping[str, str]) -> bool:
    """Whether what is installed says of itself what the wheel does."""
    return hash_of(record / "METADATA") == told.get(_METADATA)


def _at(location: Path, path: str) -> Path | None:
    """Where a file of a package is, if it is there: a distribution may part pure from compiled packages."""
    for folder in (location, *_libraries()):
        if (folder / path).is_file():
            return folder / path
    return None


@lru_cache(maxsize=1)
def _libraries() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")})


def _signature(places: Iterable[Path | None]) -> str:
    """Changes when one of the files does, without reading them; empty where one is missing."""
    told = []
    for place in places:
        if place is None:
            return ""
        state = place.stat()
        told.append(f"{place}\0{state.st_size}\0{state.st_mtime_ns}")
    return _short(*sorted(told))


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _text(path: Path) -> str:
    try:
        return kept.read(path)
    except OSError:
        return ""
