"""Modules that only this machine has: a script of a deployment, and what lies beside it.

The machines of a cluster have what is installed here. A flow that Prefect loads from a file
(`flows/report.py:report`) belongs to no package, so its tasks travel by value, with the functions and
classes of its neighbours that they use. This module imports neither Dask nor Prefect.
"""

from __future__ import annotations

import site
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import cloudpickle  # type: ignore[import-untyped]

__all__ = ["is_loose", "send_by_value"]


def is_loose(module: ModuleType) -> bool:
    """Whether a module comes from a file that is no part of an installed distribution.

    Args:
        module: A module that is imported.
    """
    file, name = getattr(module, "__file__", None), module.__name__
    if not isinstance(file, str) or name in ("__main__", "__mp_main__"):
        return False  # built in, or sent by value anyway
    path = Path(file)
    # Where the search that would find it by its name begins.
    root = path.parents[name.count(".") + (path.name == "__init__.py")]
    if any(root == home or home in root.parents for home in _homes()):
        return False
    return not any(root == folder for folder in _installed_folders(tuple(_site_folders())))


def send_by_value() -> None:
    """Have cloudpickle send what belongs to the loose modules of this process by value, from now on."""
    known = cloudpickle.list_registry_pickle_by_value()
    for name, module in list(sys.modules.items()):
        if (
            name not in known
            and isinstance(module, ModuleType)
            and module.__name__ == name
            and is_loose(module)
        ):
            cloudpickle.register_pickle_by_value(module)


@lru_cache(maxsize=1)
def _homes() -> tuple[Path, ...]:
    """Where Python itself and what is installed live."""
    paths = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*site.getsitepackages(), site.getusersitepackages(), str(Path(sysconfig.__file__).parent)}
    return tuple(Path(p).resolve() for p in paths if p) + tuple(Path(p) for p in paths if p)


def _site_folders() -> Iterator[str]:
    yield from {*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib")}


@lru_cache(maxsize=4)
def _installed_folders(folders: tuple[str, ...]) -> frozenset[Path]:
    """The folders that `.pth` files put on the path: what is installed from a directory."""
    found: set[Path] = set()
    for folder in folders:
        for file in Path(folder).glob("*.pth"):
            try:
                lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            named = (Path(folder, line.strip()) for line in lines if line.strip())
            found |= {path for path in named if path.is_dir()}
    return frozenset(found)
