"""Proof that a package of an index is the one that is installed here, by the hashes of its Python files.

A name and a version prove nothing: a company's own package may have the name of a stranger's, and a file may
have been changed here. Where the proof fails, the machines get what is here, of its very files (`repack`), or
it is said before anything is launched.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prefect_coiled.environment import kept
from prefect_coiled.environment.contents import (
    RECORD,
    Difference,
    contents,
    difference,
    imported_files,
)
from prefect_coiled.environment.entries import pick
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Change, Lock, Package, looked_into, normalized
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError
from prefect_coiled.node.packages import hash_of

# Origins of which an index is asked: what has a record of an installer's and no address of its own.
INDEXED = ("index", "conda", "system")
_AT_ONCE = 16
_OF_SYSTEM = "it belongs to the operating system, and the index has no wheel of it"


class Proven(NamedTuple):
    """What is proven.

    Attributes:
        entries: Of the pylock.toml, those to be taken.
        packed: Packages of which the files here are taken instead.
        changes: What is not the same everywhere.
    """

    entries: list[Mapping[str, Any]]
    packed: list[Package]
    changes: list[Change]


class _Verdict(NamedTuple):
    kind: Literal["same", "absent", "sources", "other", "packed", "stranger", "system"]
    difference: Difference = Difference()
    record: str = ""


def prove(
    entries: Iterable[Mapping[str, Any]],
    packages: Sequence[Package],
    here: Container[str],
    target: Target,
    indexes: Indexes,
    *,
    strict: bool = False,
    fresh: bool = False,
) -> Proven:
    """Compare what indexes offer with what is installed here.

    Args:
        packages: What is installed here and was asked for.
        here: Names of those whose files here would run on the machines.

    Raises:
        OptionsError: A package of the index is a stranger's, or differs and must not.
    """
    by_name = {normalized(str(entry["name"])): entry for entry in entries}
    tags = target.tags

    def judge(package: Package) -> _Verdict:
        entry = by_name.get(package.name)
        if entry is None:
            return _Verdict("packed" if package.name in here else "absent")
        if str(entry.get("version", "")) != package.version and "+" in package.version:
            return _Verdict("same")  # told already: another build in place of a local one
        wheel = pick(entry, tags)
        if wheel is None:
            # What the system builds needs the system's own libraries.
            return _Verdict("system" if package.origin == "system" else "sources")
        if not package.record:
            return _Verdict("same")
        told = contents(wheel, indexes)
        found, record = difference(package, told, fresh=fresh), told.get(RECORD, "")
        if not found:
            return _Verdict("same", record=record)
        if package.name in here:
            return _Verdict("packed", found)
        return _Verdict("other" if found.related else "stranger", found, record)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="proof") as pool:
        verdicts = dict(zip(packages, pool.map(judge, packages), strict=True))
    for kind in ("contents", "seen"):
        kept.let_go(kind)
    strangers = [(p, v.difference) for p, v in verdicts.items() if v.kind == "stranger"]
    if gone := [p for p, d in strangers if not (d.changed or d.extra)]:
        raise OptionsError(
            f"packages for the machines: of {', '.join(map(str, gone))} files are missing here",
            "its record lists them, and they were removed since",
            f"Install it anew. {_leave_out([p.name for p in gone])}",
        )
    if strangers:
        raise _refusal(strangers, "is another package than the one that is installed here")
    others = [(p, v.difference) for p, v in verdicts.items() if v.kind == "other"]
    if others and strict:
        raise _refusal(others, "differs from the one that is installed here")
    changes = [
        _change(p, d, p.version, f"the machines get the released one, which differs from what is here in {d}")
        for p, d in others
    ]
    packed = []
    for package in [p for p, v in verdicts.items() if v.kind == "system" and p.name not in here]:
        if strict:
            raise OptionsError(
                f"packages for the machines: {package}", _OF_SYSTEM, _leave_out([package.name])
            )
        by_name.pop(package.name)
        changes.append(_change(package, Difference(), "", f"{_OF_SYSTEM}: it is left out"))
    for package, verdict in verdicts.items():
        if verdict.kind == "packed" or (verdict.kind == "sources" and package.name in here):
            packed.append(package)
            by_name.pop(package.name, None)
            if verdict.kind == "packed":
                changes.append(_as_here(package, verdict.difference))
    seen = {package.name: verdict.record for package, verdict in verdicts.items()}
    entries = [looked_into(entry, seen.get(name, "")) for name, entry in by_name.items()]
    return Proven(entries, packed, changes)


def _as_here(package: Package, found: Difference) -> Change:
    if not found:
        what = "no index that is set up here has it"
    elif not found.related:
        what = f"the index has another package of that name ({found})"
    else:
        what = f"it differs here from the released one in {found}"
    return _change(package, found, "as here", f"{what}: the machines get it as it is here")


def _change(package: Package, found: Difference, machines: str, what: str) -> Change:
    return Change(package=package.name, here=package.version, machines=machines, files=found.files, what=what)


def _refusal(found: Sequence[tuple[Package, Difference]], what: str) -> OptionsError:
    names = [package.name for package, _ in found]
    told = "; ".join(f"{package} of the index {what} ({why})" for package, why in found)
    return OptionsError(
        f"packages for the machines: {told}",
        "it was not installed from the index that is set up here, or its files were changed since",
        f"Set up its index (UV_INDEX, pip.conf). {_leave_out(names)}",
    )


def _leave_out(names: Sequence[str]) -> str:
    return f"Leave it out: package_sync_ignore={list(names)}; or name what to install: software=FILE."


def check_editables(
    packages: Sequence[Package], lock: Lock, built: Mapping[str, Path], *, strict: bool = False
) -> list[Change]:
    """Compare the wheels of the client's own directories with what is imported from there.

    Args:
        packages: Among them those that the client runs from their directories.

    Raises:
        OptionsError: There is one, and it must not be.
    """
    changes = []
    hashes = {wheel.name: wheel.sha256 for wheel in lock.wheels}
    for package in packages:
        path = built.get(hashes.get(package.name, ""))
        if not package.editable or path is None:
            continue
        files = imported_files(path)
        changed = tuple(
            sorted(p for p, (told, at) in files.items() if at is not None and hash_of(at) != told)
        )
        missing = tuple(sorted(p for p, (_, at) in files.items() if at is None))
        if found := Difference(changed, missing):
            what = f"its wheel differs from what is imported here in {found}"
            changes.append(_change(package, found, package.version, what))
            if strict:
                raise _refusal([(package, found)], "differs, as its wheel,")
    return changes
