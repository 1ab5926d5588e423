"""Modules in archives: a zip file on the search path, or a folder in one; also a wheel or an egg that is one.

https://docs.python.org/3/library/zipimport.html
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


def archive_of(path: Path) -> Path | None:
    """The archive that a path leads into, or is; None where it leads into none."""
    if os.path.isdir(path):
        return None
    found = next((p for p in (path, *path.parents) if os.path.isfile(p)), None)
    return found if found is not None and _names(found) else None


def has_module(root: Path, name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a module or a package of a name is in an archive.

    Args:
        suffixes: What the file of a module may end with.
    """
    inside = entries_of(root)
    return any(path.startswith(f"{name}/") and path.endswith(suffixes) for path in inside) or any(
        f"{name}{suffix}" in inside for suffix in suffixes
    )


def entries_of(root: Path) -> dict[str, int]:
    """The files below an entry of the search path that leads into an archive, with their sizes."""
    archive = archive_of(root)
    if archive is None:
        return {}
    prefix = _prefix(root, archive)
    return {
        name.removeprefix(prefix): size
        for name, size in _names(archive).items()
        if name.startswith(prefix) and not name.endswith("/")
    }


def read(root: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The content of some of them."""
    archive = archive_of(root)
    if archive is None:
        return {}
    prefix = _prefix(root, archive)
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(prefix + name) for name in names}


def _prefix(root: Path, archive: Path) -> str:
    return f"{root.relative_to(archive).as_posix()}/" if root != archive else ""


def _names(archive: Path) -> dict[str, int]:
    try:
        found = archive.stat()
    except OSError:
        return {}
    return _read(archive, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _read(archive: Path, changed: int, size: int) -> dict[str, int]:
    try:
        with zipfile.ZipFile(archive) as opened:
            return {entry.filename: entry.file_size for entry in opened.infolist()}
    except (OSError, zipfile.BadZipFile):
        return {}
