"""The user's own modules, as files: what of them travels, what stays and why, and a wheel of them.

A package travels whole, with its data, because a task may import or read later what the program has not.
Where the modules are is found by `module_places`; what is a secret or ignored is said by `ignored`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

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
    module_name,
    module_suffix,
    names_in,
)
from prefect_coiled.errors import OptionsError

__all__ = ["NAME", "Modules", "fingerprint", "gather", "write_wheel"]

NAME = "prefect-coiled-modules"
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
        """These as they are, and what others have under other names."""

        def added(own: dict[str, bytes], others: dict[str, bytes]) -> dict[str, bytes]:
            known = {_first(path) for path in own}
            return {**own, **{path: content for path, content in others.items() if _first(path) not in known}}

        files, editable = added(self.files, other.files), added(self.editable, other.editable)
        return Modules(files, editable, other.left_out, other.secrets, other.large)


def gather(flow_module: str | None = None, flow_file: str | None = None) -> Modules:
    """Gather the modules of the running program that no package installed.

    Args:
        flow_module: The name of the module of the running flow, if one runs.
        flow_file: Its file.

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
        if tree.root.is_file():
            for name, content in _of_archive(tree).items():
                if not module_name(Path(name).name) and is_secret(Path(name).name, content):
                    self._left_out[tree.root / name] = _SECRET
                    continue
                self._archived[name], self._sizes[name] = content, len(content)
            return
        for path, size in self._files(tree):
            self._add(path.relative_to(tree.root).as_posix(), path, size)

    def _add(self, name: str, path: Path, size: int) -> None:
        # The first on the search path is the one that is imported.
        if name not in self._paths:
            self._paths[name], self._sizes[name] = path, size

    def _take_if_it_fits(self, tree: Tree) -> None:
        found = list(self._files(tree))
        size = sum(size for _, size in found)
        if size + sum(self._sizes.values()) > _MOST_BYTES or len(found) + len(self._sizes) > _MOST_FILES:
            self._leave_large(tree.root / tree.name, f"{_amount(len(found), size)} are too much")
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
        names = _listed(tree.root) if not folder.is_dir() or _is_shadowed(folder) else []
        single = [tree.root / n for n in names if module_name(n) == tree.name]
        ignored = self._ignored.setdefault(tree.root, Ignored(tree.root))
        for path in single:
            if (size := self._stays(path, ignored)) is not None:
                yield path, size
        if not single and folder.is_dir() and self._enters(folder, ignored):
            yield from self._inside(folder, ignored)

    def _inside(self, package: Path, ignored: Ignored) -> Iterator[tuple[Path, int]]:
        regular = (package / "__init__.py").exists()
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
                    self._leave_large(path, f"{_mb(size)} of data in a folder without __init__.py")
                    continue
                yield path, size

    def _enters(self, folder: Path, ignored: Ignored) -> bool:
        if folder.name.startswith(".") or is_environment(folder) or _leads_back(folder):
            return False
        if folder.name in ("build", "dist") and not (folder / "__init__.py").exists():
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
        if path.name.startswith(".") or path.suffix in (".pyc", ".pyo"):
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
            return path.stat().st_size if path.is_file() else None
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
        weights: Counter[str] = Counter()
        for name, one in self._sizes.items():
            weights[name] += 1 if many else one
            for parent in Path(name).parents[:-1]:
                weights[f"{parent.as_posix()}/"] += 1 if many else one
        heavy = _heaviest(weights)
        root = next(t.root for t in self._places.trees if t.wanted and t.name == _first(heavy))
        raise OptionsError(
            f"the modules of this program: {_amount(len(self._sizes), size)}",
            f"more than {_MOST_FILES:,} files or {_mb(_MOST_BYTES)}; most of it is in {root / heavy}",
            f"Leave it out by a line {heavy!r} in {root / IGNORE_FILE}, or leave out all modules: "
            f"package_sync_ignore=[{NAME!r}].",
        )


_SECRET = "it may hold a secret"


def _heaviest(weights: Counter[str]) -> str:
    """The innermost folder or file that most of it is in."""
    heavy, inside = "", [name for name in weights if "/" not in name.rstrip("/")]
    while inside:
        heaviest = max(inside, key=lambda name: weights[name])
        if heavy and weights[heaviest] * 2 <= weights[heavy]:
            break
        heavy = heaviest
        inside = [n for n in weights if n != heavy and n.startswith(heavy) and _is_in(n, heavy)]
    return heavy


def _is_in(name: str, folder: str) -> bool:
    return folder.endswith("/") and "/" not in name[len(folder) :].rstrip("/")


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


def _is_shadowed(folder: Path) -> bool:
    """Whether a folder is not what its name imports: a module file beside it goes before a bare folder."""
    return not (folder / "__init__.py").exists()


def _of_archive(tree: Tree) -> dict[str, bytes]:
    """What a zip archive on the search path has of a name."""
    with zipfile.ZipFile(tree.root) as archive:
        inside = (e for e in archive.infolist() if _first(e.filename) == tree.name)
        wanted = [e for e in inside if not e.filename.endswith(("/", ".pyc")) and _is_text(e.filename)]
        if (size := sum(e.file_size for e in wanted)) > _MOST_BYTES:
            raise OptionsError(
                f"{tree.name} in {tree.root}: {_amount(len(wanted), size)}",
                f"more than {_mb(_MOST_BYTES)}",
                f"Install it as a package, or leave out all modules: package_sync_ignore=[{NAME!r}].",
            )
        return {e.filename: archive.read(e) for e in wanted}


def _mb(size: int) -> str:
    return f"{size / 1_000_000:,.0f} MB"


def _amount(files: int, size: int) -> str:
    return f"{files:,} file{'s' if files != 1 else ''} of {_mb(size)}"


def write_wheel(files: dict[str, bytes], folder: Path) -> Path | None:
    """A wheel of the files, whose version is their hash; None where there are none."""
    if not files:
        return None
    version = f"0+{fingerprint(files)}"
    name = NAME.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    described = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: prefect-coiled\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    everything = {**files, **described}
    told = io.StringIO()
    csv.writer(told, lineterminator="\n").writerows(
        (n, "", "") for n in [*sorted(everything), f"{info}/RECORD"]
    )
    path = folder / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(zipped({**everything, f"{info}/RECORD": told.getvalue().encode()}))
    return path


def fingerprint(files: dict[str, bytes]) -> str:
    """A short hash of files: the same files have the same one."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()[:12]


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive of files, the same for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (2020, 2, 2, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()
