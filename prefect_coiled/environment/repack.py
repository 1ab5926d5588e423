"""A wheel of what is installed here, of its very files: for what no index has, or has with another content.

It needs no sources and no way to them, and what runs on the machines is what runs here. What was compiled for
another system cannot be packed so, nor a package of which the record does not name all files.
"""

from __future__ import annotations

import configparser
import csv
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Container, Iterator, Sequence
from email.parser import HeaderParser
from pathlib import Path

from packaging.tags import Tag, parse_tag

from prefect_coiled.environment import kept
from prefect_coiled.environment.contents import read_record
from prefect_coiled.environment.records import Package, is_version
from prefect_coiled.environment.rewrite import settled
from prefect_coiled.node.packages import hash_of

_NATIVE = re.compile(r"\.(so|pyd|dylib|dll)(\.\d+)*\Z")
_WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# What an installer wrote about this very installation; some of it may hold an address with a password.
_OF_INSTALLER = frozenset(
    {
        "INSTALLER",
        "RECORD",
        "RECORD.jws",
        "RECORD.p7s",
        "REQUESTED",
        "direct_url.json",
        "uv_cache.json",
        "uv_build.json",
    }
)


def can_be_packed(package: Package, tags: Sequence[Tag]) -> bool:
    """Whether a wheel of what is installed here would run on the machines.

    Args:
        package: With the place of its record.
        tags: Of the wheels that the machines install.
    """
    record = Path(package.record)
    if package.editable or record.suffix != ".dist-info" or not (record / "METADATA").is_file():
        return False
    if not is_version(package.version):
        return False  # no installer takes a wheel of it
    listed = list(_listed(record))
    if not listed or not all(path.is_file() for path, _ in listed if path.suffix == ".py"):
        return False
    native = any(_NATIVE.search(path.name) for path, _ in listed)
    if native and package.origin == "conda":
        return False  # what conda compiles needs conda's own libraries beside it
    wanted = _tags(record)
    return bool(set(wanted) & set(tags)) if wanted else not native


class Packable(Container[str]):
    """The names of the packages that `can_be_packed`; each is looked at when it is asked for, once."""

    def __init__(self, packages: Sequence[Package], tags: Sequence[Tag]) -> None:
        self._packages, self._tags = {p.name: p for p in packages if p.record}, tags
        self._known: dict[str, bool] = {}

    def __contains__(self, name: object) -> bool:
        if name not in self._packages:
            return False
        if name not in self._known:
            self._known[str(name)] = can_be_packed(self._packages[str(name)], self._tags)
        return self._known[str(name)]


def pack(package: Package, folder: Path) -> Path:
    """Write the wheel; the same files give the same one."""
    record = Path(package.record)
    # Of old, the folder's name is not in its normal form, and no installer would take a wheel of that name.
    stem = f"{package.name.replace('-', '_')}-{package.version}"
    files = [(path, _renamed(name, record.stem, stem)) for path, name in _listed(record) if path.is_file()]
    states = [(name, path.stat()) for path, name in files]
    key = _short(package.record, *(f"{name}\0{s.st_size}\0{s.st_mtime_ns}" for name, s in states))
    if (made := kept.find(key, folder)) is not None:
        return made
    target = folder / f"{stem}-{_compressed(_tags(record))}.whl"
    rough = folder / f".{target.name}"
    told = io.StringIO()
    rows = csv.writer(told, lineterminator="\n")
    # Files of packages that are built to be the same each time are often of 1970.
    with zipfile.ZipFile(rough, "w", zipfile.ZIP_STORED, strict_timestamps=False) as wheel:
        for path, name in files:
            if ".data/scripts/" in name:
                # https://packaging.python.org/en/latest/specifications/binary-distribution-format/
                # An installer puts its own Python here.
                wheel.writestr(name, re.sub(rb"\A#!.*python[^\n]*", b"#!python", path.read_bytes()))
                rows.writerow((name, "", ""))
            else:
                wheel.write(path, name)
                rows.writerow((name, f"sha256={hash_of(path)}", path.stat().st_size))
        if not (record / "WHEEL").is_file():
            rows.writerow((f"{stem}.dist-info/WHEEL", "", ""))
            wheel.writestr(f"{stem}.dist-info/WHEEL", _WHEEL)
        rows.writerow((f"{stem}.dist-info/RECORD", "", ""))
        wheel.writestr(f"{stem}.dist-info/RECORD", told.getvalue())
    settled(rough, target)
    rough.unlink()
    kept.keep(key, target)
    return target


def _listed(record: Path) -> Iterator[tuple[Path, str]]:
    """The files of an installed package, and their names in its wheel."""
    location = record.parent
    # "lib/python3.11/site-packages" in the environment; "Lib/site-packages" on Windows.
    above = 1 if location.parent.name.lower() == "lib" else 2
    prefix = location.parents[min(above, len(location.parents) - 1)]
    data = f"{record.stem}.data"
    generated = _entry_points(record)
    # What says what it is belongs to it, whether it is listed or not.
    listed = read_record(record)
    for name in sorted({*listed, f"{record.name}/METADATA"} if listed else ()):
        path = Path(name)
        # What was compiled is compiled anew, of the source beside it; without one it is the module itself.
        if "__pycache__" in path.parts or (path.suffix in (".pyc", ".pyo") and name[:-1] in listed):
            continue
        if path.parts[0] == record.name and path.name in _OF_INSTALLER and len(path.parts) == 2:
            continue
        if not path.is_absolute() and path.parts[0] != "..":
            yield location / path, name
            continue
        place = Path(os.path.normpath(location / path))
        if prefix not in place.parents:
            continue  # another's
        if place.parent.name in ("bin", "Scripts"):
            if place.name.removesuffix(".exe").removesuffix("-script.py") not in generated:
                yield place, f"{data}/scripts/{place.name}"
        else:
            yield place, f"{data}/data/{place.relative_to(prefix).as_posix()}"


def _renamed(name: str, old: str, new: str) -> str:
    """A name in the wheel, with another name of the folders of its record and its data."""
    for end in (".dist-info/", ".data/"):
        if name.startswith(old + end):
            return new + name.removeprefix(old)
    return name


def _entry_points(record: Path) -> set[str]:
    """The scripts that an installer writes by itself."""
    parser = configparser.ConfigParser(delimiters=("=",), strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read(record / "entry_points.txt", encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError):
        return set()
    return {
        name
        for kind in ("console_scripts", "gui_scripts")
        if parser.has_section(kind)
        for name, _ in parser.items(kind)
    }


def _tags(record: Path) -> list[Tag]:
    try:
        told = HeaderParser().parsestr((record / "WHEEL").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return []
    return [tag for line in told.get_all("Tag") or () for tag in parse_tag(line.strip())]


def _compressed(tags: Sequence[Tag]) -> str:
    """The tags as a wheel's name has them."""
    if not tags:
        return "py3-none-any"
    sets = ({t.interpreter for t in tags}, {t.abi for t in tags}, {t.platform for t in tags})
    return "-".join(".".join(sorted(parts)) for parts in sets)


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
