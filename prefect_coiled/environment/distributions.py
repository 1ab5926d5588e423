"""Which of the records of installed packages count: those of what is imported here, each package once.

Python lists every folder on its path that looks like a record (`importlib.metadata`). Among them are
leftovers of interrupted upgrades, second records of one package, and the `.egg-info` that lies beside the
sources of an editable install or of a project that is not installed at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from prefect_coiled.environment.contents import python_files
from prefect_coiled.environment.records import normalized
from prefect_coiled.environment.sites import EggLink, egg_links, real, site_folders
from prefect_coiled.node.packages import hash_of

# https://packaging.python.org/en/latest/specifications/name-normalization/
# pip skips what has no such name too: what it is about to remove gets one that begins with "~".
_NAME = re.compile(r"^([A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9])\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A record that counts.

    Attributes:
        name: Normalised.
        folder: Of the record itself, such as ".../six-1.17.0.dist-info"; None where Python does not say.
        sources: The root of the project that a development install (`setup.py develop`) runs from.
    """

    name: str
    version: str
    distribution: metadata.Distribution
    folder: Path | None
    sources: Path | None = None

    @property
    def requires(self) -> list[str]:
        """What it requires."""
        try:
            return self.distribution.requires or []
        except UnicodeDecodeError:
            return _read_anyhow(self.folder).get_all("Requires-Dist") or []

    def text(self, file: str) -> str:
        """A file of the record, or ""."""
        try:
            return self.distribution.read_text(file) or ""
        except (OSError, ValueError):
            return ""


def find(distributions: Iterable[metadata.Distribution] | None = None) -> tuple[list[Found], dict[str, str]]:
    """The records that count, in the order of the path, and why by name for those that cannot be read.

    Args:
        distributions: What to look at; by default everything on the path.
    """
    groups: dict[str, list[Found]] = {}
    broken: dict[str, str] = {}
    links: dict[str, EggLink] = {}
    for place in site_folders():
        for link in egg_links(place):
            links.setdefault(link.name, link)
    for distribution in metadata.distributions() if distributions is None else distributions:
        path = getattr(distribution, "_path", None)
        folder = Path(path) if isinstance(path, os.PathLike) else None
        if folder is not None and not _NAME.match(folder.name.partition("-")[0].partition(".")[0]):
            continue
        name, version = _told(distribution, folder)
        if not _NAME.match(name) or not version:
            if folder is not None and folder.suffix == ".dist-info":
                called = normalized(folder.stem.rpartition("-")[0] or folder.stem)
                lacks = "version" if _NAME.match(name) or not name else "package"
                broken.setdefault(called, f"its record {folder.name} names no {lacks}: install it anew")
            continue
        if folder is None and hasattr(distribution, "_path"):
            # Nothing shows that it is what an index has under that name.
            broken.setdefault(
                normalized(name), "it lies in no folder: what the program imports of it travels"
            )
            continue
        found = Found(normalized(name), version, distribution, folder)
        if folder is not None and _is_beside_sources(folder):
            link_of = links.get(found.name)
            # Beside sources that are not installed: a record of nothing, as `python -m build` leaves it.
            if link_of is None or real(str(folder.parent)) not in (link_of.modules, link_of.root):
                continue
            found = replace(found, sources=link_of.root)
        groups.setdefault(found.name, []).append(found)
    for name in groups:
        broken.pop(name, None)
    return [_imported(group) for group in groups.values()], broken


def _told(distribution: metadata.Distribution, folder: Path | None) -> tuple[str, str]:
    """Name and version, each empty where the record has none."""
    try:
        read = distribution.metadata
        return (read["Name"] or "", distribution.version or "") if read else ("", "")
    except UnicodeDecodeError:
        anyhow = _read_anyhow(folder)
        return anyhow["Name"] or "", anyhow["Version"] or ""
    except (OSError, KeyError, TypeError, ValueError):
        # A folder without METADATA: what Python does then differs from version to version.
        return "", ""


def _read_anyhow(folder: Path | None) -> Message:
    """Metadata that is no UTF-8, as of packages of old: Python fails to read it, and installers do not."""
    for file in (folder / "METADATA", folder / "PKG-INFO", folder) if folder is not None else ():
        try:
            return Parser().parsestr(file.read_bytes().decode("utf-8", errors="replace"), headersonly=True)
        except OSError:
            continue
    return Message()


def _is_beside_sources(folder: Path) -> bool:
    """Whether a record is an `.egg-info` that a build left beside the sources."""
    if folder.suffix != ".egg-info" or (folder / "installed-files.txt").exists():
        return False
    return real(str(folder.parent)) not in site_folders()


def _imported(group: list[Found]) -> Found:
    """Of several records of one package, the one of the files that are imported."""
    first = group[0]
    beside = [f for f in group if f.folder and first.folder and f.folder.parent == first.folder.parent]
    if len(beside) < 2:
        return first
    return max(beside, key=_agreement)


def _agreement(found: Found) -> tuple[float, float]:
    """How well the files that are there agree with a record; of equals the one that was written last."""
    folder = found.folder
    if folder is None:
        return 0.0, 0.0
    told = python_files(folder)
    same = sum(hash_of(folder.parent / path) == digest for path, digest in told.items())
    try:
        written = folder.stat().st_mtime
    except OSError:
        written = 0.0
    return (same / len(told) if told else 0.0), written
