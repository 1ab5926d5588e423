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
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import httpx

from prefect_coiled.environment import kept
from prefect_coiled.environment.fetch import client_for
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Package, Wheel
from prefect_coiled.environment.sites import path_of
from prefect_coiled.errors import OptionsError
from prefect_coiled.node.packages import as_recorded, hash_of, imported_from

_PART, _SECONDS = 32 * 1024, 30.0
# Bytes of a RECORD, which has a line for each file; large packages have some MiB.
_LONGEST_RECORD = 64 << 20
# To be raised when other files of a wheel count.
_FORMAT = 2
_EMPTY = as_recorded(hashlib.sha256().digest())
# Stands for the wheel's own METADATA: what a package without a Python file is known by.
_METADATA = ":METADATA"


@dataclass(frozen=True)
class Difference:
    """How the files of a package here differ from those of a wheel.

    Attributes:
        changed: Python files that have another content here.
        missing: Those that are not here.
        extra: Those that the wheel lacks.
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
    return {path: (told[path], imported_from(path)) for path in told if path != _METADATA}


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

    As the wheel's RECORD says; see `check_record`.

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
            with _remote(wheel.url, indexes) as file:
                found = _read(file, wheel.file)
    except (OSError, zipfile.BadZipFile, KeyError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise OptionsError(what, indexes.redacted(str(error) or type(error).__name__)) from None
    if wheel.sha256:
        kept.write(cache, json.dumps(found).encode())
    return found


def contents_of_file(path: Path) -> Mapping[str, str]:
    """The same of a wheel that is here."""
    with path.open("rb") as file:
        return _read(file, path.name)


def check_record(path: Path) -> str:
    """What of a whole wheel is not as its RECORD says; empty if all is.

    Of a wheel that was not downloaded RECORD alone was read: it was believed, and counts when this is empty.
    Installers do not look.
    """
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        if len(set(names)) != len(names):
            return "a file is twice in it"
        for record in (n for n in names if n.endswith(".dist-info/RECORD")):
            for name, digest in _record(_told(wheel, record)).items():
                if name in names and re.fullmatch(r"[\w-]{43}", digest) and _digest(wheel, name) != digest:
                    return f"{name} is not what its RECORD says"
    return ""


def _told(wheel: zipfile.ZipFile, record: str) -> str:
    """A RECORD, which is read as a whole: a small archive can hold one that fills the memory.

    Raises:
        zipfile.BadZipFile: It is longer than one is.
    """
    if wheel.getinfo(record).file_size > _LONGEST_RECORD:
        raise zipfile.BadZipFile(f"{record} is longer than {_LONGEST_RECORD >> 20} MiB")
    return wheel.read(record).decode(errors="replace")


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


def _read(file: IO[bytes], called: str) -> dict[str, str]:
    found: dict[str, str] = {}
    with zipfile.ZipFile(file) as wheel:
        names = wheel.namelist()
        record = next((n for n in names if re.fullmatch(r"[^/]+\.dist-info/RECORD", n)), None)
        told = _record(_told(wheel, record)) if record else {}
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
        package: With the place of its record.
        told: What the wheel holds, as `contents` says.
        fresh: Whether to read every file, also those that look as they did when they were read last.
    """
    record = Path(package.record)
    expected = {path: digest for path, digest in told.items() if path != _METADATA}
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


# -- a file of which the end is read first


class _Parts(io.RawIOBase):
    """A file behind an address of which only those parts are fetched that are read."""

    def __init__(
        self, url: str, headers: Mapping[str, str], client: httpx.Client, tail: bytes, size: int
    ) -> None:
        self._url, self._headers, self._client, self._size = url, headers, client, size
        self._parts = [(size - len(tail), tail)]
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        for start, part in self._parts:
            if start <= self._at and end <= start + len(part):
                break
        else:
            start, part = self._at, self._fetch(self._at, max(end, min(self._at + _PART, self._size)))
            self._parts.append((start, part))
        data = part[self._at - start : end - start]
        self._at += len(data)
        return data

    def _fetch(self, start: int, end: int) -> bytes:
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}"}
        reply = self._client.get(self._url, headers=headers, timeout=_SECONDS)
        reply.raise_for_status()
        return reply.content if reply.status_code == 206 else reply.content[start:end]


def _remote(url: str, indexes: Indexes) -> IO[bytes]:
    header, client = indexes.authorization(url), client_for(indexes.trust(url))
    headers = {"Authorization": header} if header else {}
    reply = client.get(url, headers={**headers, "Range": f"bytes=-{_PART}"}, timeout=_SECONDS)
    total = reply.headers.get("Content-Range", "").rpartition("/")[2]
    if reply.status_code == 206 and total.isdigit():
        return _Parts(url, headers, client, reply.content, int(total))  # type: ignore[return-value]
    if reply.status_code != 200:  # an index that knows no parts counted from the end
        reply = client.get(url, headers=headers, timeout=_SECONDS)
    reply.raise_for_status()
    return io.BytesIO(reply.content)
