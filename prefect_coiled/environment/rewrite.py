"""Wheels of what is built here, written anew: the same each time, named as installed, without what stays.

    settled         with fixed times and order, so that a wheel's hash is that of its content
    take_out        without some of its files
    named           with the name and the version that are installed here
    secrets_in, ignored_in    which of a directory's files stay

Reads and writes files of wheels, and reads the directory that one was built of.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from prefect_coiled.environment.ignored import IGNORE_FILE, Ignored, is_environment, is_secret
from prefect_coiled.environment.module_search import module_name
from prefect_coiled.node.packages import as_recorded

_LOOKED_AT = 65536
_TIME = (2020, 2, 2, 0, 0, 0)


def settled(wheel: Path, target: Path) -> Path:
    """The wheel with fixed times and order inside, so that its hash is that of its content."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in sorted(old.infolist(), key=lambda e: (".dist-info/" in e.filename, e.filename)):
            made = zipfile.ZipInfo(entry.filename, _TIME)
            made.external_attr = entry.external_attr
            made.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(made, old.read(entry))
    return target


def take_out(wheel: Path, names: Collection[str]) -> None:
    """Write a wheel anew without some of its files."""
    if names:
        _rewrite(wheel, wheel, lambda name, content: None if name in names else (name, content))


def named(wheel: Path, name: str, version: str) -> Path:
    """The wheel under a name and a version, which its sources may say otherwise by now; gives its path."""
    parts = wheel.name.split("-")
    before = "-".join(parts[:2])
    after = f"{name.replace('-', '_')}-{version}"
    folders = {f"{before}.dist-info": f"{after}.dist-info", f"{before}.data": f"{after}.data"}

    def changed(path: str, content: bytes) -> tuple[str, bytes]:
        folder, slash, rest = path.partition("/")
        if folder.endswith(".dist-info") and rest == "METADATA":
            head, blank, body = content.replace(b"\r\n", b"\n").partition(b"\n\n")
            for key, value in (("Name", name), ("Version", version)):
                head = re.sub(rf"(?mi)^{key}:.*$".encode(), f"{key}: {value}".encode(), head, count=1)
            content = head + blank + body
        return folders.get(folder, folder) + slash + rest, content

    target = wheel.with_name("-".join([after, *parts[2:]]))
    _rewrite(wheel, target, changed)
    if target != wheel:
        wheel.unlink()
    return target


def _rewrite(wheel: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """Write a wheel with each file as it is after a change, and with a list of them that is right."""
    rough = target.with_name(f".{target.name}")
    told = io.StringIO()
    rows = csv.writer(told, lineterminator="\n")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(rough, "w", zipfile.ZIP_STORED) as new:
        record = ""
        for entry in old.infolist():
            found = change(entry.filename, old.read(entry))
            if found is None:
                continue
            name, content = found
            if re.fullmatch(r"[^/]+\.dist-info/RECORD", name):
                record = name
                continue
            made = zipfile.ZipInfo(name, _TIME)
            made.external_attr = entry.external_attr
            new.writestr(made, content)
            if not entry.is_dir():
                rows.writerow((name, f"sha256={as_recorded(hashlib.sha256(content).digest())}", len(content)))
        rows.writerow((record, "", ""))
        new.writestr(zipfile.ZipInfo(record, _TIME), told.getvalue())
    settled(rough, target)
    rough.unlink()


def secrets_in(wheel: Path) -> tuple[str, ...]:
    """What in a wheel of a directory may hold a secret: nobody has published that yet."""
    with zipfile.ZipFile(wheel) as content:
        return tuple(name for name in content.namelist() if _is_secret(content, name))


def _is_secret(wheel: zipfile.ZipFile, name: str) -> bool:
    file = name.rpartition("/")[2]
    if not file or ".dist-info/" in name or module_name(file):
        return False
    with wheel.open(name) as content:
        return is_secret(file, content.read(_LOOKED_AT))


def ignored_in(wheel: Path, source: Path) -> dict[str, str]:
    """What in a wheel of a directory our ignore files leave out, and which of them does.

    A wheel does not say which file became which. So one is taken for the file of the same content whose path
    has the most of its own path at its end; what has none was made by the build.
    """
    ignored = Ignored(source)
    if not ignored.is_ours_there() and not any(IGNORE_FILE in files for _, files in _walk(source)):
        return {}
    with zipfile.ZipFile(wheel) as content:
        entries = [e for e in content.infolist() if not e.is_dir() and ".dist-info/" not in e.filename]
    sizes: dict[str, set[int]] = {}
    for entry in entries:
        sizes.setdefault(_last(entry.filename), set()).add(entry.file_size)
    known = _known(source, ignored, sizes)
    found = {}
    for entry in entries:
        own = entry.filename.split("/")
        best, said = 0, [""]
        for path, size, crc, by in known.get(_last(entry.filename), ()):
            if (size, crc) == (entry.file_size, entry.CRC):
                common = _common_end(own, path.split("/"))
                if common >= best:
                    best, said = common, [*(said if common == best else []), by]
        # Of equals one that is not left out counts: it is the same content.
        if best and all(said):
            found[entry.filename] = said[0]
    return found


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two paths have in common at their end."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _known(
    source: Path, ignored: Ignored, sizes: dict[str, set[int]]
) -> dict[str, list[tuple[str, int, int, str]]]:
    """The files of a directory that a wheel may have, by name: path, size, checksum, and what ignores it."""
    known: dict[str, list[tuple[str, int, int, str]]] = {}
    left_out: dict[Path, str] = {source: ""}
    for folder, files in _walk(source):
        if folder != source:
            left_out[folder] = left_out[folder.parent] or ignored.by_us(folder, folder=True)
        for name in files:
            path = folder / name
            try:
                size = path.stat().st_size
                if size not in sizes.get(name, ()) or not path.is_file():
                    continue
                crc = zlib.crc32(path.read_bytes())
            except OSError:
                continue
            inside = path.relative_to(source).as_posix()
            known.setdefault(name, []).append((inside, size, crc, left_out[folder] or ignored.by_us(path)))
    return known


def _walk(source: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders of a project that a wheel may be of, with the names of their files; links are followed."""
    seen: set[str] = set()
    for where, names, files in os.walk(source, followlinks=True):
        folder = Path(where)
        names[:] = [n for n in names if not n.startswith(".") and not is_environment(folder / n)]
        if (true := os.path.realpath(folder)) in seen:
            names.clear()  # a link that leads back
            continue
        seen.add(true)
        yield folder, files


def _last(path: str) -> str:
    return path.rpartition("/")[2]
