"""Proof that a package of an index is the one that is installed here, by the hashes of its Python files.

A name and a version prove nothing: a company's own package may have the name of a stranger's, and a file may
have been changed here. Where the proof fails, the machines get what is here, of its very files (`repack`), or
it is said before anything is launched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from prefect_coiled.environment.contents import Difference, contents, difference
from prefect_coiled.environment.entries import pick
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Package, normalized
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError

__all__ = ["INDEXED", "Proven", "prove"]

# Origins of which an index is asked: what has a record of an installer's and no address of its own.
INDEXED = ("index", "conda", "system")
_AT_ONCE = 16


class Proven(NamedTuple):
    """What is proven.

    Attributes:
        entries: Of the pylock.toml, those to be taken.
        packed: Packages of which the files here are taken instead.
    """

    entries: list[Mapping[str, Any]]
    packed: list[Package]


class _Verdict(NamedTuple):
    kind: Literal["same", "absent", "sources", "other", "packed", "stranger"]
    difference: Difference = Difference()


def prove(
    entries: Iterable[Mapping[str, Any]],
    packages: Sequence[Package],
    here: Collection[str],
    target: Target,
    indexes: Indexes,
    strict: bool,
    notes: list[str],
) -> Proven:
    """Compare what indexes offer with what is installed here.

    Args:
        entries: What the indexes have.
        packages: What is installed here and was asked for.
        here: Names of those whose files here would run on the machines.
        target: What the machines run.
        indexes: Who knows the credentials.
        strict: Whether a package whose files differ from those here is an error.
        notes: What a user should know is added here.

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
            return _Verdict("sources")
        if not package.record:
            return _Verdict("same")
        found = difference(package, contents(wheel, indexes))
        if not found:
            return _Verdict("same")
        if package.name in here:
            return _Verdict("packed", found)
        return _Verdict("other" if found.related else "stranger", found)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="proof") as pool:
        verdicts = dict(zip(packages, pool.map(judge, packages), strict=True))
    strangers = [(p, v.difference) for p, v in verdicts.items() if v.kind == "stranger"]
    if strangers:
        raise _refusal(strangers, "is another package than the one that is installed here")
    others = [(p, v.difference) for p, v in verdicts.items() if v.kind == "other"]
    if others and strict:
        raise _refusal(others, "differs from the one that is installed here")
    notes += [
        f"{p}: the machines get the released one, which differs from what is here in {d}" for p, d in others
    ]
    packed = []
    for package, verdict in verdicts.items():
        if verdict.kind == "packed" or (verdict.kind == "sources" and package.name in here):
            packed.append(package)
            by_name.pop(package.name, None)
            if note := _note(package, verdict):
                notes.append(note)
    return Proven(list(by_name.values()), packed)


def _note(package: Package, verdict: _Verdict) -> str:
    as_here = "the machines get it as it is here"
    if verdict.kind == "sources":
        return ""
    if not verdict.difference:
        return f"{package} is on no index that is set up here: {as_here}"
    if not verdict.difference.related:
        return f"{package} of the index is another package ({verdict.difference}): {as_here}"
    return f"{package} differs here from the released one in {verdict.difference}: {as_here}"


def _refusal(found: Sequence[tuple[Package, Difference]], what: str) -> OptionsError:
    names = [package.name for package, _ in found]
    told = "; ".join(f"{package} of the index {what} ({why})" for package, why in found)
    return OptionsError(
        f"packages for the machines: {told}",
        "it was not installed from the index that is set up here, or its files were changed since",
        f"Set up its index (UV_INDEX, pip.conf), leave it out: package_sync_ignore={names}, or name what to "
        "install: software=FILE.",
    )
