"""Small files that are kept for this user alone, in the cache folder, which may be one of several users."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def folder(kind: str) -> Path:
    """Where a kind is kept: `prefect-coiled/KIND` in the user's cache folder ($XDG_CACHE_HOME, ~/.cache)."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache, "prefect-coiled", kind)


def is_ours(path: Path) -> bool:
    """Whether nobody else can have put it there, or changed it: a cache may be in a folder of several."""
    if not hasattr(os, "getuid"):  # Windows: the user's own folder
        return True
    found = path.lstat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022 and not path.is_symlink()


def check(place: Path) -> None:
    """Of a folder and the one above it, both of ours.

    Raises:
        OSError: One is not this user's alone, is a link that leads to what he has elsewhere, or is not there.
    """
    if not (is_ours(place) and is_ours(place.parent)):
        raise PermissionError(f"{place} is not this user's alone")


def make(place: Path) -> None:
    """Make a folder, and those above it, for this user alone.

    Raises:
        OSError: It cannot be made; or somebody else has put another, or a link, in its place.
    """
    missing = [one for one in (place, *place.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
    check(place)


def read(path: Path) -> str:
    """A small file that was kept.

    Raises:
        OSError: There is none, or somebody else can have written it.
    """
    if not is_ours(path):
        raise PermissionError(f"{path} is not this user's alone")
    check(path.parent)
    return path.read_text()


def write(path: Path, content: bytes) -> None:
    """Keep a small file, whole or not at all. A full disk is no error: it is found out again."""
    try:
        make(path.parent)
        handle, beside = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(beside, path)
        except OSError:
            os.unlink(beside)
    except OSError:
        return
