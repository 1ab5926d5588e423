"""The user's own modules, as files: what of them travels, what stays and why.

A package travels whole, with its data, because a task may import or read later what the program has not.
Where the modules are is found by `module_places`; what is a secret or ignored is said by `ignored`; the wheel
of them is made by `modules_wheel`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from prefect_coiled.environment.archives import archive_of, entries_of, read
from prefect_coiled.environment.ignored import (
    IGNORE_FILE,
    Ignored,
    is_environment,
    is_secret,
    leads_to_secret,
)
from prefect_coiled.environment.module_places import (
    Alias,
    Places,
    Tree,
    find,
    names_in,
)
from prefect_coiled.environment.module_search import module_name, module_suffix
from prefect_coiled.environment.modules_wheel import NAME
from prefect_coiled.environment.sizes import amount, heaviest, megabytes
from prefect_coiled.errors import OptionsError

_MOST_FILES, _MOST_BYTES = 10_000, 50_000_000
# In a folder that no __init__.py makes a package, data of more bytes than this is hardly a module's own.
_LARGE = 1_000_000


@dataclass(frozen=True)
class Modules:
    """The modules that travel.

    Attributes:
        files: Their content by path, as it lies in a folder on the workers' search path.
        editable: The same of packages that are installed editable, which machines have from their boot, and
            which may have changed since.
        left_out: Why something stays here, by its path here.
        secrets: Those of them that may be secrets.
        large: Those of them that are too large.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    editable: dict[str, bytes] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)
    secrets: tuple[Path, ...] = ()
    large: tuple[Path, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names under which they are imported."""
        return sorted({_first(path) for path in self.files})

    def with_more(self, other: Modules) -> Modules:
        """These as they are, and what others have in addition, which may lie in a package that is here."""
        files, editable = {**other.files, **self.files}, {**other.editable, **self.editable}
        return Modules(files, editable, other.left_out, other.secrets, other.large)


def gather(flow_module: str | None = None, flow_file: str | None = None) -> Modules:
    """Gather the modules of the running program that no package installed.

    Raises:
        OptionsError: They are too large, or one has the name of a module of Python's own.
    """
    return _Gathering(find(flow_module, flow_file)).done()


class _Gathering:
    """Goes through what was found; sizes are looked at before any content is read."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._paths: dict[str, Path] = {}
        self._sizes: dict[str, int] = {}
        self._archived: dict[str, bytes] = {}
        self._left_out: dict[Path, str] = {}
        self._ignored: dict[Path, Ignored] = {}
        self._tracked: dict[Path, frozenset[Path]] = {}
        self._large: list[Path] = []
        self._entered = {folder for file in places.imported for folder in file.parents}

    def done(self) -> Modules:
        for tree in self._places.trees:
            if tree.wanted:
                self._take(tree)
        self._refuse_if_large()
        for tree in self._places.trees:
            if not tree.wanted and not tree.editable:
                self._take_if_it_fits(tree)
        for alias in self._places.aliases:
            self._take_alias(alias)
        secrets = [p for p, why in self._left_out.items() if why == _SECRET]
        files: dict[str, bytes] = {}
        for name, path in self._paths.items():
            try:
                content = path.read_bytes()
            except OSError as error:
                if path in self._places.imported:
                    raise OptionsError(f"module {path}", f"it cannot be read: {error.strerror}") from error
                self._left_out[path] = f"it cannot be read: {error.strerror}"
                continue
            if not module_name(path.name) and is_secret(path.name, content):
                self._left_out[path] = _SECRET
                secrets.append(path)
                continue
            files[name] = content
        files.update(self._archived)
        editable = self._editable({_first(name) for name in files})
        return Modules(files, editable, self._left_out, tuple(secrets), tuple(self._large))

    def _editable(self, taken: set[str]) -> dict[str, bytes]:
        """What is installed editable, as far as it is small: the machines have a wheel of it."""
        found: dict[str, bytes] = {}
        trees = [t for t in self._places.trees if t.editable and t.name not in taken]
        paths = [(t, path, size) for t in trees for path, size in self._files(t)]
        if sum(size for *_, size in paths) > _MOST_BYTES or len(paths) > _MOST_FILES:
            return {}
        for tree, path, _ in paths:
            # What is compiled was compiled for the machines.
            if not path.name.endswith(tuple(EXTENSION_SUFFIXES)):
                try:
                    content = path.read_bytes()
                except OSError:
                    continue  # the machines have it in their wheel
                if module_name(path.name) or not is_secret(path.name, content):
                    found[path.relative_to(tree.root).as_posix()] = content
        return found

    def _leave_large(self, path: Path, why: str) -> None:
        self._left_out[path] = why
        self._large.append(path)

    # What a name brings

    def _take(self, tree: Tree) -> None:
        if archive_of(tree.root):
            for name, content in _of_archive(tree).items():
                if not module_name(Path(name).name) and is_secret(Path(name).name, content):
                    self._left_out[tree.root / name] = _SECRET
                    continue
                # The first on the search path is the one that is imported.
                if name not in self._paths and name not in self._archived:
                    self._archived[name], self._sizes[name] = content, len(content)
            return
        for path, size in self._files(tree):
            self._add(path.relative_to(tree.root).as_posix(), path, size)

    def _add(self, name: str, path: Path, size: int) -> None:
        if name not in self._paths and name not in self._archived:
            self._paths[name], self._sizes[name] = path, size

    def _take_if_it_fits(self, tree: Tree) -> None:
        found = list(self._files(tree))
        size = sum(size for _, size in found)
        if size + sum(self._sizes.values()) > _MOST_BYTES or len(found) + len(self._sizes) > _MOST_FILES:
            self._leave_large(tree.root / tree.name, f"{amount(len(found), size)} are too much")
            return
        for path, size in found:
            self._add(path.relative_to(tree.root).as_posix(), path, size)

    def _take_alias(self, alias: Alias) -> None:
        """Put a file where its other name is looked for."""
        file, name = alias.file, alias.name.replace(".", "/")
        if file.name == "__init__.py":
            tree = Tree(file.parent.name, file.parent.parent)
            for path, size in self._files(tree):
                self._add(f"{name}/{path.relative_to(file.parent).as_posix()}", path, size)
            return
        # A file that is loaded by its path may be named as no module can be, "my-flow.py" or "my-flow".
        end = module_suffix(file.name) or ".py"
        self._add(f"{name}/__init__{end}" if alias.package else f"{name}{end}", file, file.stat().st_size)
        for neighbour in names_in(file.parent) if alias.package else ():
            for path, size in self._files(Tree(neighbour, file.parent)):
                self._add(f"{name}/{path.relative_to(file.parent).as_posix()}", path, size)

    def _files(self, tree: Tree) -> Iterator[tuple[Path, int]]:
        """The files of a name that travel, and their sizes."""
        folder = tree.root / tree.name
        names = _listed(tree.root) if not os.path.exists(folder / "__init__.py") else []
        single = [tree.root / n for n in names if module_name(n) == tree.name]
        ignored = self._ignored.setdefault(tree.root, Ignored(tree.root, self._tracked))
        for path in single:
            if (size := self._stays(path, ignored)) is not None:
                yield path, size
        if single or not os.path.isdir(folder):
            return
        # Beside a project's packages lies what a build made of them; in a package such a folder is its own.
        made = tree.name in ("build", "dist") and not os.path.exists(folder / "__init__.py")
        if made and folder not in self._entered:
            self._left_out[folder] = "a build makes a folder of that name"
        elif self._enters(folder, ignored):
            yield from self._inside(folder, ignored)

    def _inside(self, package: Path, ignored: Ignored) -> Iterator[tuple[Path, int]]:
        regular = os.path.exists(package / "__init__.py")
        seen: set[str] = set()
        for where, names, files in os.walk(package, followlinks=True):
            folder = Path(where)
            if (true := os.path.realpath(folder)) in seen:
                names.clear()  # a link that leads back
                continue
            seen.add(true)
            names[:] = sorted(n for n in names if self._enters(folder / n, ignored))
            for name in sorted(files):
                path = folder / name
                size = self._stays(path, ignored)
                if size is None:
                    continue
                if not regular and size > _LARGE and not module_name(name):
                    self._leave_large(path, f"{megabytes(size)} of data in a folder without __init__.py")
                    continue
                yield path, size

    def _enters(self, folder: Path, ignored: Ignored) -> bool:
        if folder.name.startswith(".") or is_environment(folder) or _leads_back(folder):
            return False
        if folder in self._entered:
            return not self._says(folder, ignored.by_us(folder, folder=True))
        return not self._says(folder, ignored.by_us(folder, True) or ignored.by_git(folder, True))

    def _stays(self, path: Path, ignored: Ignored) -> int | None:
        """The size of a file that travels; None if it stays here."""
        if is_secret(path.name) or leads_to_secret(path):
            self._left_out[path] = _SECRET
            return None
        if not _is_text(path.name):
            self._left_out[path] = "its name has no form in which it could travel"
            return None
        if path.name.startswith(".") or (
            path.suffix in (".pyc", ".pyo") and os.path.exists(path.with_suffix(".py"))
        ):
            return self._size(path) if path in self._places.imported else None
        if self._says(path, ignored.by_us(path)):
            return None
        if sys.platform != "linux" and path.name.endswith(tuple(EXTENSION_SUFFIXES)):
            self._left_out[path] = f"it is compiled for {sys.platform}, and the workers run Linux"
            return None
        if path not in self._places.imported and self._says(path, ignored.by_git(path)):
            return None
        return self._size(path)

    def _size(self, path: Path) -> int | None:
        # A link to nowhere is what editors leave; a socket or a pipe holds nothing.
        try:
            return path.stat().st_size if os.path.isfile(path) else None
        except OSError:
            return None

    def _says(self, path: Path, who: str) -> bool:
        if who:
            self._left_out[path] = f"by {who}"
        return bool(who)

    def _refuse_if_large(self) -> None:
        size = sum(self._sizes.values())
        if len(self._sizes) <= _MOST_FILES and size <= _MOST_BYTES:
            return
        many = len(self._sizes) > _MOST_FILES
        heavy = heaviest({name: 1 if many else one for name, one in self._sizes.items()})
        root = next(t.root for t in self._places.trees if t.wanted and t.name == _first(heavy))
        raise OptionsError(
            f"the modules of this program: {amount(len(self._sizes), size)}",
            f"more than {_MOST_FILES:,} files or {megabytes(_MOST_BYTES)}; most of it is in {root / heavy}",
            f"Leave it out by a line {heavy!r} in {root / IGNORE_FILE}, or leave out all modules: "
            f"package_sync_ignore=[{NAME!r}].",
        )


_SECRET = "it may hold a secret"


def _first(path: str) -> str:
    return path.partition("/")[0].partition(".")[0]


def _leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in: there is more in that than belongs to a package."""
    if not folder.is_symlink():
        return False
    lies_in = Path(os.path.realpath(folder.parent))
    return Path(os.path.realpath(folder)) in (lies_in, *lies_in.parents)


def _is_text(name: str) -> bool:
    """Whether a file's name is text, in one line: others are in no wheel's list."""
    return name.isprintable()


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _of_archive(tree: Tree) -> dict[str, bytes]:
    """What an archive on the search path has of a name."""
    inside = entries_of(tree.root)
    wanted = {n: size for n, size in inside.items() if _first(n) == tree.name and _is_text(n)}
    # What was compiled of a source beside it is compiled anew.
    wanted = {n: s for n, s in wanted.items() if not (n.endswith(".pyc") and n[:-1] in inside)}
    if sum(wanted.values()) > _MOST_BYTES:
        raise OptionsError(
            f"{tree.name} in {tree.root}: {amount(len(wanted), sum(wanted.values()))}",
            f"more than {megabytes(_MOST_BYTES)}",
            f"Install it as a package, or leave out all modules: package_sync_ignore=[{NAME!r}].",
        )
    return read(tree.root, wanted)
