"""Wheels that were built here before: a commit of a repository and an archive of known hash never change.

A directory does, so that is built each time. The folder may be deleted at any moment.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from prefect_coiled.environment.records import Package

_DAYS = 60
# To be raised when the same sources would give another wheel.
_FORMAT = 1


def folder(kind: str = "built") -> Path:
    """Where they are: `prefect-coiled/built` in the user's cache folder ($XDG_CACHE_HOME, ~/.cache).

    Args:
        kind: Another folder beside it, for what else is known of packages.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache, "prefect-coiled", kind)


def _is_ours(path: Path) -> bool:
    """Whether nobody else can have put it there, or changed it: a cache may be in a folder of several."""
    if not hasattr(os, "getuid"):  # Windows: the user's own folder
        return True
    found = path.lstat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022 and not path.is_symlink()


def _check(place: Path) -> None:
    """Of a folder and the one above it, both of ours.

    Raises:
        OSError: One is not this user's alone, is a link that leads to what he has elsewhere, or is not there.
    """
    if not (_is_ours(place) and _is_ours(place.parent)):
        raise PermissionError(f"{place} is not this user's alone")


def _make(place: Path) -> None:
    """Make a folder, and those above it, for this user alone.

    Raises:
        OSError: It cannot be made; or somebody else has put another, or a link, in its place.
    """
    missing = [one for one in (place, *place.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
    _check(place)


def read(path: Path) -> str:
    """A small file that was kept.

    Raises:
        OSError: There is none, or somebody else can have written it.
    """
    if not _is_ours(path):
        raise PermissionError(f"{path} is not this user's alone")
    _check(path.parent)
    return path.read_text()


def write(path: Path, content: bytes) -> None:
    """Keep a small file, whole or not at all. A full disk is no error: it is found out again."""
    try:
        _make(path.parent)
        handle, beside = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(beside, path)
        except OSError:
            os.unlink(beside)
    except OSError:
        return


def key_of(package: Package, sha256: str = "") -> str:
    """What a wheel is kept under; empty for sources that may change."""
    if not sha256 and not (package.origin == "vcs" and package.commit):
        return ""
    # What is compiled fits this interpreter and this system.
    built_by = (sys.implementation.cache_tag, platform.system(), platform.machine(), platform.libc_ver()[1])
    where = (package.url, package.commit, package.subdirectory) if not sha256 else (sha256,)
    told = "\0".join(map(str, (_FORMAT, *built_by, package.name, *where)))
    return hashlib.sha256(told.encode()).hexdigest()


def find(key: str, target: Path) -> Path | None:
    """A copy of the wheel that is kept under a key, if one is."""
    for wheel in sorted((folder() / key).glob("*.whl")) if key else ():
        try:
            _check(folder())
            if not all(map(_is_ours, (wheel, wheel.parent))):
                continue
            copy = Path(shutil.copyfile(wheel, target / wheel.name))
            os.utime(wheel.parent)  # it was of use today
        except OSError:
            return None
        return copy
    return None


def keep(key: str, wheel: Path) -> None:
    """Keep a wheel, and let go of those that nobody has wanted for two months. A full disk is no error."""
    if not key:
        return
    place = folder()
    try:
        _make(place)
        beside = Path(tempfile.mkdtemp(prefix=".new-", dir=place))  # for this user alone, as sources may be
        try:
            Path(shutil.copyfile(wheel, beside / wheel.name)).chmod(0o600)
            if not (place / key).exists():
                beside.rename(place / key)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError:
        return
    let_go()


def let_go(kind: str = "built") -> None:
    """Remove what nobody has wanted, or found out, for two months."""
    try:
        _check(place := folder(kind))
        for old in place.iterdir():
            if old.lstat().st_mtime < time.time() - _DAYS * 86400:
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
    except OSError:
        return
