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
from prefect_coiled.internals.kept import check, folder, is_ours, make

_DAYS = 60
# To be raised when the same sources would give another wheel.
_FORMAT = 1


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
    for wheel in sorted((folder("built") / key).glob("*.whl")) if key else ():
        try:
            check(folder("built"))
            if not all(map(is_ours, (wheel, wheel.parent))):
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
    place = folder("built")
    try:
        make(place)
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
        check(place := folder(kind))
        for old in place.iterdir():
            if old.lstat().st_mtime < time.time() - _DAYS * 86400:
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
    except OSError:
        return
