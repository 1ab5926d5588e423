"""Say which locked versions known advisories are about, by a copy of a database; `make check` runs it.

Nothing is asked of the network. The database is a folder, or a zip, of records in the form of
https://ossf.github.io/osv-schema/, JSON or YAML: what https://osv.dev gives for PyPI, or a checkout of
https://github.com/pypa/advisory-database. Where it is, ADVISORIES or the first argument says; without one,
that is said, and nothing is scanned.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from locked import LOCKS, entries
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

# Advisories that do not concern this project, each with the reason.
NOT_OURS: dict[str, str] = {}

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def records(database: Path, names: set[str]) -> Iterator[Mapping[str, Any]]:
    """The records that may be about packages of these names."""
    if database.is_dir():
        files = (f for f in sorted(database.rglob("*")) if f.suffix in (".json", ".yaml", ".yml"))
        texts: Iterator[tuple[str, bytes]] = ((f.name, f.read_bytes()) for f in files)
    else:
        archive = zipfile.ZipFile(database)
        texts = ((name, archive.read(name)) for name in archive.namelist())
    wanted = [name.encode() for name in names]
    for name, text in texts:
        if name.endswith(".json"):
            yield json.loads(text)
        # YAML is slow to read; what names none of them is none of theirs.
        elif any(one in text.lower().replace(b"_", b"-").replace(b".", b"-") for one in wanted):
            found = yaml.load(text, _Loader)
            if isinstance(found, Mapping):
                yield found


def concerns(affected: Mapping[str, Any], version: Version) -> bool:
    """Whether a version is among the affected ones."""
    if str(version) in {_normal(one) for one in affected.get("versions") or ()}:
        return True
    for one in affected.get("ranges") or ():
        if one.get("type") != "ECOSYSTEM":
            continue
        inside = False
        for event in one.get("events") or ():
            ((what, text),) = event.items()
            at = Version("0") if str(text) == "0" else Version(str(text))
            if what == "introduced" and version >= at:
                inside = True
            elif (what == "fixed" and version >= at) or (what == "last_affected" and version > at):
                inside = False
        if inside:
            return True
    return False


def _normal(text: object) -> str:
    try:
        return str(Version(str(text)))
    except InvalidVersion:
        return ""


def scan(database: Path, locks: tuple[Path, ...] = LOCKS) -> list[str]:
    """A line for each advisory about a version that is locked."""
    locked: dict[str, set[str]] = {}
    for lock in locks:
        for entry in entries(lock):
            locked.setdefault(entry.name, set()).add(entry.version)
    found = set()
    for record in records(database, set(locked)):
        known = {str(record.get("id")), *map(str, record.get("aliases") or ())}
        if record.get("withdrawn") or known & set(NOT_OURS):
            continue
        for affected in record.get("affected") or ():
            package = affected.get("package") or {}
            name = canonicalize_name(str(package.get("name", "")))
            if package.get("ecosystem") != "PyPI":
                continue
            for version in locked.get(name, ()):
                if concerns(affected, Version(version)):
                    more = " ".join(sorted(known - {str(record["id"])}))
                    said = str(record.get("summary") or record.get("details") or "").splitlines()
                    found.add(f"{name} {version}: {record['id']} {more} {''.join(said[:1])[:100]}".strip())
    return sorted(found)


def main(arguments: list[str]) -> int:
    """Scan, and say it; 1 where something was found, or there is no such database."""
    place = arguments[0] if arguments else os.environ.get("ADVISORIES", "")
    if not place:
        print("Locks: not scanned for advisories, for want of a database (ADVISORIES=FOLDER or ZIP).")
        return 0
    if not Path(place).exists():
        print(f"ADVISORIES: there is no {place}.", file=sys.stderr)
        return 1
    found = scan(Path(place))
    print("\n".join(found) or f"Locks: no advisory of {place} is about a version in them.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
