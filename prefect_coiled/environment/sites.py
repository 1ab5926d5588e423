"""Where packages are installed, and what old development installs left there.

Reads folders; imports nothing.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from prefect_coiled.environment.records import normalized

SITE_NAMES = ("site-packages", "dist-packages")


class EggLink(NamedTuple):
    """What `setup.py develop` left of a project: an `.egg-link` file.

    Attributes:
        modules: The folder that its modules are imported from.
    """

    name: str
    modules: Path
    root: Path


@lru_cache(maxsize=4096)
def real(path: str) -> Path:
    """The path without links, as far as it exists."""
    return Path(os.path.realpath(path))


def path_of(url: str) -> Path:
    """The path that a `file:` address names, which on Windows begins with a drive."""
    return Path(url2pathname(urlsplit(url).path))


def search_path(entries: Iterable[object] | None = None) -> list[str]:
    """The entries of the search path that Python looks into; the empty one stands for the working directory.

    Args:
        entries: By default those of `sys.path`.
    """
    found = []
    for entry in sys.path if entries is None else entries:
        if isinstance(entry, str):
            try:
                found.append(entry or os.getcwd())
            except OSError:
                continue  # the working directory is not there any more
    return found


def site_folders() -> tuple[Path, ...]:
    """Where packages are installed: of this environment, of the user, of the system."""
    named = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    named += [*site.getsitepackages(), site.getusersitepackages()]
    named += [entry for entry in search_path() if os.path.basename(entry) in SITE_NAMES]
    return tuple(dict.fromkeys(real(entry) for entry in named if entry))


def egg_links(folder: Path) -> Iterator[EggLink]:
    """The development installs whose links lie in a folder, as far as their projects are still there."""
    for name in names_ending(folder, ".egg-link"):
        try:
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        if lines and os.path.isdir(lines[0].strip()):
            modules = lines[0].strip()
            # The second line leads from where the modules are to where setup.py is.
            root = os.path.join(modules, lines[1].strip() if len(lines) > 1 else ".")
            yield EggLink(normalized(name.removesuffix(".egg-link")), real(modules), real(root))


def names_ending(folder: Path, *ends: str) -> list[str]:
    """The names in a folder with one of some endings; none where it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(ends))
    except OSError:
        return []
