"""Which Python files a process imports, by hash: on the client, and the same question on a machine.

Imports nothing but the standard library, so that it runs wherever Dask does.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Mapping
from importlib import util
from pathlib import Path


def hash_of(path: Path) -> str:
    """The hash of a file in the form that RECORD has it; empty where there is no such file.

    https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return ""
    return as_recorded(digest.digest())


def as_recorded(digest: bytes) -> str:
    """A SHA-256 digest in the form that RECORD has it."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def imported_from(path: str) -> Path | None:
    """Where a module of a package is imported from, also one that an editable install's finder knows.

    Args:
        path: Inside a wheel, such as "mine/parts/one.py".
    """
    top, _, rest = path.partition("/")
    try:
        spec = util.find_spec(top.removesuffix(".py"))
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and Path(spec.origin).name == top else None
    folders = list(spec.submodule_search_locations or ())
    places = (Path(folder, rest) for folder in folders)
    return next((place for place in places if place.is_file()), None) or _found_by_hook(path, folders)


def _found_by_hook(path: str, folders: list[str]) -> Path | None:
    """A module of a package whose folder is none, as that of meson-python's editable installs."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, folders)
        except (ImportError, ValueError, AttributeError, TypeError):
            continue
        if spec is not None and spec.origin and Path(spec.origin).as_posix().endswith(f"/{path}"):
            return Path(spec.origin)
    return None


def differing(expected: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """The files that this process would import with another content, or not at all, by package.

    Args:
        expected: The hashes of Python files by their path, by package.
    """
    found = {}
    for package, files in expected.items():
        others = []
        for path, digest in files.items():
            place = imported_from(path)
            if place is None or hash_of(place) != digest:
                others.append(path)
        if others:
            found[package] = sorted(others)
    return found
