"""The files of a user's modules on a machine: where they lie, what is written of them, and beside what."""

from __future__ import annotations

import hashlib
import importlib.machinery
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath


def digest(content: bytes) -> str:
    """The hash that a file is known by."""
    return hashlib.sha256(content).hexdigest()


def top_of(path: str) -> str:
    """The name by which a file of modules is imported, without dots."""
    return path.partition("/")[0].partition(".")[0]


def is_here(name: str, files: Mapping[str, str]) -> bool:
    """Whether the search path leads to exactly these files already."""
    try:
        spec = importlib.machinery.PathFinder.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    if spec.origin is None or not spec.has_location:
        places = [Path(location).parent for location in spec.submodule_search_locations or ()]
    elif spec.submodule_search_locations is not None:
        places = [Path(spec.origin).parents[1]]
    else:
        places = [Path(spec.origin).parent]
    # A package goes before a module of its name: the module may lie beside it and not be what is imported.
    found = Path(spec.origin) if spec.origin is not None and spec.has_location else None
    if found is not None and found.relative_to(places[0]).as_posix() not in files:
        return False
    return any(all(_hash_of(place / path) == hash_ for path, hash_ in files.items()) for place in places)


def look_first_in(folder: Path, name: str) -> None:
    """Have a package that is loaded from elsewhere find in a folder what is imported of it from now on."""
    for loaded, module in list(sys.modules.items()):
        places = getattr(module, "__path__", None)
        # Of a package in portions Python looks along the search path by itself.
        if top_of(loaded) == name and isinstance(places, list):
            places.insert(0, str(folder.joinpath(*loaded.split("."))))


def write(
    name: str, folder: Path, files: Mapping[str, str], contents: Mapping[str, bytes], had: frozenset[str]
) -> None:
    """Write the files of one name into a folder.

    Args:
        had: The paths of files that programs had, now or before.
    """
    _copy_installed(name, folder, files)
    for path in had - files.keys():
        # It was deleted since this machine got its wheel. What nobody had is the wheel's own, and stays.
        if top_of(path) == name and (folder / path).is_file():
            (folder / path).unlink()
    put(folder, files, contents)


def put(folder: Path, files: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, beside what is in it."""
    for path, hash_ in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents[hash_])


def _copy_installed(name: str, folder: Path, files: Mapping[str, str]) -> None:
    """Begin with what this machine has of a package, for what its wheel has besides its sources.

    A package that was installed here from a checkout may have compiled parts; the checkout has changed since.
    """
    try:
        spec = importlib.machinery.PathFinder.find_spec(name)
    except (ImportError, ValueError):
        return
    if spec is None or spec.submodule_search_locations is None:
        return
    if not any(path.startswith(f"{name}/") for path in files):
        return  # a module that has the name of an installed package
    places = [Path(place) for place in spec.submodule_search_locations]
    for here in places:
        if here.name != name or here.parent.name != "site-packages":
            continue
        for inside in [name] if spec.has_location else _packages_of(files, here.parent):
            if (here.parent / inside).is_dir():
                left = shutil.ignore_patterns("__pycache__")
                shutil.copytree(here.parent / inside, folder / inside, ignore=left, dirs_exist_ok=True)


def _packages_of(files: Iterable[str], place: Path) -> set[str]:
    """Of a package in portions the packages in it that some files are of; Python finds the rest itself."""
    found = set()
    for path in files:
        folders = [p.as_posix() for p in reversed(PurePosixPath(path).parents[:-1])]
        found.update(next(([f] for f in folders if (place / f / "__init__.py").is_file()), []))
    return found


def is_loaded_otherwise(name: str, files: Mapping[str, str]) -> bool:
    """Whether a module of a name is loaded from another file than that of the program."""
    for loaded, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if top_of(loaded) != name or not isinstance(file, str):
            continue
        here = Path(file)
        # As the client wrote it: the folder that the name stands for, and the file's own name.
        inside = loaded.split(".") if here.stem == "__init__" else loaded.split(".")[:-1]
        if files.get("/".join([*inside, here.name])) != _hash_of(here):
            return True
    return False


def _hash_of(file: Path) -> str:
    try:
        return digest(file.read_bytes())
    except OSError:
        return ""
