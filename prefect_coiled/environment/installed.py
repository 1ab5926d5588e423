"""Which modules belong to what is installed: Python itself, packages, checkouts that are installed editable.

Reads the search path, the records of distributions and their `.pth` files and finders; imports nothing.

What a distribution brings is told by its record. Of one that is installed editable, the record names a
`.pth` file, which has a folder in it or loads a finder; the folder is that of the whole checkout often, so
that scripts and helpers in it can be imported too, although no wheel of the project has them.
https://packaging.python.org/en/latest/specifications/recording-installed-packages/
https://docs.python.org/3/library/site.html
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, NamedTuple

from prefect_coiled.environment.conda import conda_names
from prefect_coiled.environment.sites import (
    SITE_NAMES,
    egg_links,
    names_ending,
    path_of,
    real,
    search_path,
    site_folders,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Installed:
    """What is installed here, as it was when this was made."""

    def __init__(self, path: Iterable[str] | None = None) -> None:
        entries = search_path(path)
        self._python = {real(p) for p in _python_folders()}
        self._sites = set(site_folders())
        self._sites |= {real(p) for p in entries if os.path.basename(p) in SITE_NAMES}
        # What `pip install --target` made; a checkout has an .egg-info at most.
        others = {real(p) for p in entries} - self._sites
        self._targets = {p for p in others if any(names_ending(p, ".dist-info"))}
        self._known: dict[tuple[str, str], bool] = {}
        self._records: dict[Path, _Recorded] = {}
        self._editable = [e for place in sorted(self._sites) for e in _editables(place)]

    def owns(self, file: Path, name: str) -> bool:
        """Whether a module is Python's own or comes with something that is installed."""
        key = os.path.dirname(os.path.abspath(file)), name.partition(".")[0]
        if key not in self._known:
            self._known[key] = self._owns(*key)
        return self._known[key]

    def _owns(self, where: str, top: str) -> bool:
        # As it was found, too: a package may be a link into a folder of packages, or out of it.
        for place in {Path(where), real(where)}:
            for folder in (self._folder_of(parent) for parent in (place, *place.parents)):
                if folder is None:
                    continue
                # A package may put a folder of its own on the path, with what it brings along.
                below = place.relative_to(folder).parts
                name = _import_name(below[0]) if below else top
                if folder in self._sites:
                    return not self._is_stray(folder, name)
                if folder in self._targets:
                    return name in (self.tops(folder) or {name})
                return True
            if any(e.has(place, top) for e in self._editable):
                return True
        return False

    def is_editable(self, file: Path, name: str) -> bool:
        """Whether a module is one of a checkout that is installed editable, so that its file may change."""
        place = real(os.path.dirname(os.path.abspath(file)))
        in_packages = any(self._folder_of(parent) for parent in (place, *place.parents))
        return not in_packages and any(e.has(place, name.partition(".")[0]) for e in self._editable)

    def is_place(self, folder: Path) -> bool:
        """Whether a folder is one of Python itself or of packages."""
        return self._folder_of(real(str(folder))) is not None

    def tops(self, folder: Path) -> frozenset[str]:
        """The names that the packages of a folder bring to import, as far as they say."""
        return self._recorded(folder).tops

    def of_conda_alone(self) -> dict[str, tuple[str, ...]]:
        """The imported modules of which only conda's records tell, by the name of its package."""
        found: dict[str, set[str]] = {}
        for name, module in list(sys.modules.items()):
            file, top = getattr(module, "__file__", None), name.partition(".")[0]
            if not isinstance(file, str):
                continue
            for folder in self._sites & set(real(file).parents):
                recorded = self._recorded(folder)
                if top in recorded.tops or _spelt(top) in recorded.silent:
                    continue
                if package := conda_names(folder).get(top):
                    found.setdefault(package, set()).add(top)
        return {package: tuple(sorted(names)) for package, names in found.items()}

    def _recorded(self, folder: Path) -> _Recorded:
        if folder not in self._records:
            self._records[folder] = _recorded(folder)
        return self._records[folder]

    def _folder_of(self, folder: Path) -> Path | None:
        # A project may lie below the prefix of Python, such as in /usr/src or in /opt/conda/work.
        known = folder in self._sites or folder in self._targets or folder in self._python
        return folder if known else None

    def _is_stray(self, folder: Path, top: str) -> bool:
        """Whether a module in a folder of packages belongs to none of them: somebody copied it there."""
        if folder.name != "site-packages" or top.startswith("_") or top in _OF_PYTHON:
            return False
        recorded = self._recorded(folder)
        if top in recorded.tops or top in conda_names(folder):
            return False
        # A package that does not say what is its own may have it, and what is compiled for other libraries is
        # of no use on a machine.
        return not recorded.silent or (_spelt(top) not in recorded.silent and not _is_compiled(folder / top))


_OF_PYTHON = frozenset({"sitecustomize", "usercustomize", "easy_install", "pkg_resources", "distutils"})


def _python_folders() -> Iterator[str]:
    for key in ("stdlib", "platstdlib"):
        yield sysconfig.get_path(key)
    yield os.path.dirname(os.__file__)
    yield os.path.dirname(sysconfig.__file__)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class _Recorded(NamedTuple):
    """What the records in a folder say.

    Attributes:
        tops: The first parts of the names that they list.
        silent: How the packages are called whose records list nothing.
    """

    tops: frozenset[str]
    silent: frozenset[str]


def _recorded(folder: Path) -> _Recorded:
    found: set[str] = set()
    silent: set[str] = set()
    for name in names_ending(folder, ".dist-info", ".egg-info"):
        if name.startswith("~"):
            continue  # what an interrupted pip left
        info = folder / name
        if record := _read(info / "RECORD"):
            lines = (line.lstrip('"') for line in record.splitlines())
            found |= {_import_name(re.split(r"[/,]", line, maxsplit=1)[0]) for line in lines}
        elif tops := _read(info / "top_level.txt") or _read(info / "installed-files.txt"):
            found |= {_import_name(line.strip().split("/")[0]) for line in tops.splitlines()}
        else:
            silent.add(_spelt(re.split(r"-\d|\.(?:dist|egg)-info", name)[0]))
    return _Recorded(frozenset(found), frozenset(silent))


def _spelt(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _is_compiled(path: Path) -> bool:
    """Whether a module is compiled, or a package has something in it that is."""
    ends = tuple(EXTENSION_SUFFIXES)
    if any(os.path.exists(f"{path}{end}") for end in ends):
        return True
    return any(name.endswith(ends) for _, _, files in os.walk(path) for name in files)


def _import_name(file: str) -> str:
    return file.partition(".")[0]


class _Editable:
    """A distribution that is installed from a checkout.

    Attributes:
        tops: The names of those that are its own; None for whatever is in the folder.
    """

    def __init__(self, folder: Path, tops: frozenset[str] | None) -> None:
        self.folder, self.tops = folder, tops

    def has(self, place: Path, top: str) -> bool:
        if self.tops is not None and top not in self.tops:
            return False
        return self.folder == place or self.folder in place.parents


def _editables(place: Path) -> Iterator[_Editable]:
    """The editable distributions whose records are in a folder of packages."""
    for name in names_ending(place, ".dist-info"):
        try:
            direct: Any = json.loads(_read(place / name / "direct_url.json") or "{}")
        except ValueError:
            continue
        if not direct.get("dir_info", {}).get("editable"):
            continue
        source = real(str(path_of(str(direct.get("url", "")))))
        source = real(str(source / str(direct.get("subdirectory", ""))))
        declared = _declared(source, _read(place / name / "top_level.txt"))
        for line in _read(place / name / "RECORD").splitlines():
            file = line.partition(",")[0].strip('"')
            if file.endswith(".pth"):
                yield from (_of_folder(f, source, declared) for f in _pth(place, place / file))
            elif file.endswith(".py"):
                # A finder: setuptools' and scikit-build's map names to files, meson's has a set of them.
                yield _Editable(source, _strings(_read(place / file)))
    # `setup.py develop`, which leaves no record.
    for link in egg_links(place):
        tops = (_read(link.modules / n / "top_level.txt") for n in names_ending(link.modules, ".egg-info"))
        yield _of_folder(link.modules, link.root, _declared(link.root, "\n".join(tops)))


def _pth(place: Path, file: Path) -> Iterator[Path]:
    """The folders that a `.pth` file puts on the path."""
    for line in _read(file).splitlines():
        entry = line.strip()
        if entry and not entry.startswith(("#", "import ", "import\t")):
            yield real(str(place / entry))


def _of_folder(folder: Path, source: Path, declared: frozenset[str]) -> _Editable:
    # Nothing but modules of the project is in its src; much else is in its root.
    return _Editable(folder, declared if folder == source else None)


def _strings(code: str) -> frozenset[str]:
    """The first parts of all strings in a finder's code, which has the names that it finds among them."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return frozenset()
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return frozenset(text.partition(".")[0] for text in texts)


def _declared(source: Path, top_level: str) -> frozenset[str]:
    """The names that a project's own wheel has, as its settings say, or else as it is called."""
    said = {line.strip() for line in top_level.splitlines() if line.strip()}
    try:
        project = tomllib.loads(_read(source / "pyproject.toml"))
    except tomllib.TOMLDecodeError:
        project = {}
    for keys in _WHERE_TOLD:
        said |= {_last(one) for one in _told(project, keys)}
    if not said:
        name = _one(project, ("project", "name")) or _one(project, ("tool", "poetry", "name"))
        said = {re.sub(r"[-_.]+", "_", str(name or source.name)).lower()}
    return frozenset(said)


# https://hatch.pypa.io/latest/config/build/ https://setuptools.pypa.io/en/latest/userguide/pyproject_config.html
# https://python-poetry.org/docs/pyproject/ https://flit.pypa.io/en/stable/pyproject_toml.html
# https://docs.astral.sh/uv/concepts/build-backend/
_WHERE_TOLD = (
    ("tool", "hatch", "build", "targets", "wheel", "packages"),
    ("tool", "hatch", "build", "targets", "wheel", "only-include"),
    ("tool", "hatch", "build", "packages"),
    ("tool", "setuptools", "packages"),
    ("tool", "setuptools", "py-modules"),
    ("tool", "poetry", "packages"),
    ("tool", "flit", "module", "name"),
    ("tool", "uv", "build-backend", "module-name"),
)


def _one(project: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    found: Any = project
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _told(project: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    found = _one(project, keys)
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, Mapping) and "include" in one:
            one = one["include"]
        if isinstance(one, str):
            # Of setuptools' dotted names the first part, of a path the last.
            yield one if "/" in one else one.partition(".")[0]


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2].removesuffix(".py")
