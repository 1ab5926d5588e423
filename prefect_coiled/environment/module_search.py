"""Where Python finds a name along a search path, told from the names of files: nothing is imported or read.

The first folder with a package or a module of the name has it. Folders of that name without an `__init__.py`
are portions of one package, all of them, where no other has it.
https://packaging.python.org/en/latest/guides/packaging-namespace-packages/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.machinery import all_suffixes
from pathlib import Path

from prefect_coiled.environment.archives import archive_of, has_module

_SUFFIXES = tuple(sorted(all_suffixes(), key=len, reverse=True))  # ".cpython-311-x86_64-linux-gnu.so" first
_MOST_FOLDERS = 1000


def module_name(file: str) -> str:
    """The name under which a file is imported; empty if it is no module."""
    suffix = module_suffix(file)
    name = file.removesuffix(suffix) if suffix else ""
    return name if name.isidentifier() else ""


def module_suffix(file: str) -> str:
    """What a file's name has behind the name of a module, such as ".py"; else nothing."""
    return next((suffix for suffix in _SUFFIXES if file.endswith(suffix)), "")


def search(name: str, roots: Iterable[Path], passed_by: Callable[[Path], bool]) -> tuple[Path, ...]:
    """The folders and archives that a name is imported from: several only of a package in portions.

    Args:
        roots: Where it is looked for, the first ones first.
        passed_by: Whether what a path leads to is none of those that are looked for.
    """
    portions: list[Path] = []
    for root in roots:
        if is_whole(root, name):
            if not passed_by(root / name):
                return (root,)
        elif has_portion(root, name) and not passed_by(root / name):
            portions.append(root)
    return tuple(portions)


def is_whole(root: Path, name: str) -> bool:
    """Whether a folder has a module of a name, or a package with an `__init__`; an archive, any of it."""
    ends = [f"{name}{suffix}" for suffix in _SUFFIXES]
    ends += [os.path.join(name, f"__init__{suffix}") for suffix in _SUFFIXES]
    if any(os.path.isfile(root / end) for end in ends):
        return True
    return archive_of(root) is not None and has_module(root, name, _SUFFIXES)


def has_portion(root: Path, name: str) -> bool:
    """Whether a folder has one of a name with modules in it, or in its own folders."""
    for seen, (_, folders, files) in enumerate(os.walk(root / name)):
        folders[:] = [n for n in folders if n.isidentifier() and n not in ("__pycache__", "node_modules")]
        if any(map(module_name, files)):
            return True
        if seen > _MOST_FOLDERS:
            return False
    return False
