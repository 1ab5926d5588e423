"""Which modules of the running program no package installed, and where each was found.

    what it imported, what lies beside its script and its flow, and what the code of these names

The first are known from `sys.modules`, wherever the search path led: the script's folder, the working
directory, PYTHONPATH, a `.pth` file of one's own, what the program put on `sys.path`. The last two are for
what a task imports later. Nothing is imported or run for this, and no content is read but Python's.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from prefect_coiled.environment.archives import archive_of
from prefect_coiled.environment.installed import Installed
from prefect_coiled.environment.module_search import has_portion, is_whole, module_name, search
from prefect_coiled.environment.sites import search_path
from prefect_coiled.errors import OptionsError

_STANDARD = frozenset(sys.stdlib_module_names) | frozenset(sys.builtin_module_names)
# Without these no worker works; whoever has a file of that name beside a script means them.
_WORKER = frozenset({"dask", "distributed", "prefect", "prefect_dask", "prefect_coiled"})
# What may be an import, and its names: https://docs.python.org/3/reference/simple_stmts.html#import
# Whatever is not ASCII may be of a name: nothing that parts two names is.
_IMPORT = re.compile(r"\b(?:import|from)\b((?:[^\r\n;#\\]|\\\r?\n?)*)")
_NAME = re.compile(r"[0-9A-Z_a-z\u0080-\U0010ffff]+")
# How a file is written, in one of its first two lines: https://peps.python.org/pep-0263
_CODING = re.compile(r"\A(?:[^\n]*\n)?[^\n]*coding[:=]")
# What an editor puts into a program that it starts, from a folder of its own.
_DEBUGGER = re.compile(r"^(_?pydev|_?debugpy|ptvsd|_?pycharm|_jb_)")
# The main script as a process has it that `multiprocessing` started: what is of it has that module's name.
_SPAWNED = "__mp_main__"
_MAIN = frozenset({"__main__", _SPAWNED})


@dataclass(frozen=True)
class Tree:
    """One name to import, and where it is.

    Attributes:
        root: The folder (or zip archive) on the search path that it was found in.
        wanted: Whether the program imported it, or code of it names it; else it only lies there.
        editable: Whether it is of a package that is installed editable: machines have it as it was at their
            boot.
    """

    name: str
    root: Path
    wanted: bool = True
    editable: bool = False


@dataclass(frozen=True)
class Alias:
    """A module that the program has under a name that its file does not have.

    Prefect loads a flow's file so, where the file's own name is taken: the workers find it by that name too.

    Attributes:
        name: The name in `sys.modules`.
        package: Whether it imports its neighbours relatively (`from .near import x`), which Prefect's loader
            makes work for a plain file.
    """

    name: str
    file: Path
    package: bool = False


@dataclass(frozen=True)
class Places:
    """What was found.

    Attributes:
        trees: The names, in the order of the search path; a name may be in several folders.
        aliases: What has another name than its file.
        imported: The files of all modules that are imported.
    """

    trees: tuple[Tree, ...]
    aliases: tuple[Alias, ...]
    imported: frozenset[Path]


def find(flow_module: str | None = None, flow_file: str | None = None) -> Places:
    """Find the modules of the running program.

    Raises:
        OptionsError: One that is imported has the name of a module of Python's own.
    """
    installed = Installed()
    trees: dict[tuple[str, Path], Tree] = {}
    aliases: list[Alias] = []
    imported: set[Path] = set()
    theirs: set[str] = set()  # names that lead to something installed in this process
    for name, module in list(sys.modules.items()):
        file = _file_of(module)
        top = name.partition(".")[0]
        if name == "__main__" or file is None or _DEBUGGER.match(top):
            continue
        # Elsewhere `multiprocessing` has that name for the main module, whose own name is another one.
        if name == _SPAWNED and (module.__name__ != _SPAWNED or _is_command(file)):
            continue
        if installed.owns(file, name):
            if not _is_in_portions(top):
                theirs.add(top)
            editable = top not in _WORKER and installed.is_editable(file, name)
            if editable and (root := _root(file, name)) is not None:
                root = Path(os.path.realpath(root))
                trees.setdefault((top, root), Tree(top, root, wanted=False, editable=True))
            continue
        root = _root(file, name)
        joined = "__path__" in module.__dict__ or name == _SPAWNED
        package = file.stem != "__init__" and joined and _imports(file).relative
        if root is None or package:
            imported.add(file)
            aliases.append(Alias(name, file, package))
        if root is None:
            continue
        if top in _STANDARD:
            raise _taken(top, file)
        inside, root = file.relative_to(root), Path(os.path.realpath(root))
        imported.add(root / inside)
        trees.setdefault((top, root), Tree(top, root))
    script = _script(installed)
    starts = [p for p in (Path(flow_file) if flow_file else None, script) if p is not None]
    beside = list(_beside(installed, script, flow_module, flow_file))
    roots = _in_order(beside, list(_loose_path(installed)))
    avoided = _STANDARD | _WORKER | theirs
    for name in dict.fromkeys(name for folder in beside for name in names_in(folder)):
        if name not in avoided:
            for root in search(name, roots, partial(_is_installed, installed, name)):
                trees.setdefault((name, root), Tree(name, root, wanted=False))
    _add_named(trees, [*starts, *(a.file for a in aliases)], roots, installed, avoided)
    # What is imported counts, also where the search path leads elsewhere by now.
    known = {tree.name for tree in trees.values() if tree.wanted}
    for key in [k for k, tree in trees.items() if not (tree.wanted or tree.editable) and tree.name in known]:
        del trees[key]
    order = {root: n for n, root in enumerate(roots)}
    ordered = sorted(trees.values(), key=lambda t: (order.get(t.root, len(order)), str(t.root), t.name))
    return Places(tuple(ordered), tuple(sorted(aliases, key=lambda a: a.name)), frozenset(imported))


def has_own(names: Iterable[str]) -> bool:
    """Whether one of some imported modules is the program's own, rather than of a package."""
    files = {name: _file_of(sys.modules.get(name)) for name in names if name not in _MAIN}
    found = {name: file for name, file in files.items() if file is not None}
    if not found:
        return False
    installed = Installed()
    return any(not installed.owns(file, name) for name, file in found.items())


def _taken(name: str, file: Path) -> OptionsError:
    return OptionsError(
        f"module {name!r} ({file})",
        "it has the name of a module of Python's own, which the workers use themselves",
        "Rename it.",
    )


def _file_of(module: Any) -> Path | None:
    """A module's file, where it has one that is here."""
    if not isinstance(module, ModuleType):
        return None  # what stands in for a module, and may do anything when it is asked
    file = module.__dict__.get("__file__")
    if not isinstance(file, str) or not os.path.isabs(file):
        return None
    return Path(file) if os.path.exists(file) or archive_of(Path(file)) else None


def _root(file: Path, name: str) -> Path | None:
    """Where the search that found a file by its name began; None if the file has another name."""
    parts = name.split(".")
    own = module_name(file.name)
    if own == "__init__" and parts[-1] != "__init__":
        parts.append("__init__")
    where = [*file.parts[-len(parts) : -1], own]
    return file.parents[len(parts) - 1] if where == parts else None


def _script(installed: Installed) -> Path | None:
    """The file that runs as the main module, also where a tool runs it, such as `python -m cProfile`."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    # A cell of a notebook names a file in a folder that is not there.
    script = Path(os.path.abspath(file)) if isinstance(file, str) and os.path.isfile(file) else None
    if script is None or not installed.owns(script, script.stem):
        return script
    # Such a tool leaves the arguments as the script would have them.
    run = sys.argv[0] if sys.argv else ""
    if not run.endswith(".py") or not os.path.isfile(run):
        return script
    true = Path(os.path.abspath(run))
    return script if installed.owns(true, true.stem) else true


def _beside(
    installed: Installed, script: Path | None, flow_module: str | None, flow_file: str | None
) -> Iterator[Path]:
    """The folders whose modules lie beside the script and beside the flow."""
    found: list[Path] = []
    if flow_file and flow_module not in _MAIN:
        file = Path(os.path.abspath(flow_file))
        if os.path.isfile(file) and not installed.owns(file, flow_module or module_name(file.name)):
            found += [(flow_module and _root(file, flow_module)) or file.parent, _above(file)]
    if script is not None:
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        module = getattr(spec, "name", None)  # of `python -m`
        if not installed.owns(script, module or script.stem) and not _is_command(script):
            # Of a link Python looks where that leads to.
            true = Path(os.path.realpath(script))
            found += [(module and _root(script, module)) or true.parent, _above(true)]
    elif hasattr(sys, "ps1") or "IPython" in sys.modules or sys.path[:1] == [""]:
        found += map(Path, search_path([""]))  # a notebook or a prompt
    kept = (Path(os.path.realpath(f)) for f in found)
    yield from dict.fromkeys(f for f in kept if os.path.isdir(f) and not installed.is_place(f))


def _in_order(beside: list[Path], path: list[Path]) -> list[Path]:
    """The order in which names are looked for: that of the search path.

    Before it what lies beside a flow that Prefect loaded, which takes its folder from the path again; behind
    it what lies above a script.
    """
    first = beside[: next((n for n, folder in enumerate(beside) if folder in path), len(beside))]
    return list(dict.fromkeys([*first, *path, *beside]))


def _is_installed(installed: Installed, name: str, path: Path) -> bool:
    return installed.owns(path, name)


def _is_in_portions(name: str) -> bool:
    """Whether an imported package has no `__init__`: other folders may have more of it."""
    module = sys.modules.get(name)
    return getattr(module, "__file__", None) is None and hasattr(module, "__path__")


def _above(file: Path) -> Path:
    """Of a file in a package, the folder above the package."""
    folder = file.parent
    while os.path.exists(folder / "__init__.py"):
        folder = folder.parent
    return folder


def _is_command(script: Path) -> bool:
    """Whether it is a command that a package installed, such as `prefect`."""
    folder = Path(os.path.realpath(script)).parent
    pythons = (folder / name for name in ("python", "python3", "python.exe"))
    return any(os.path.isfile(p) and os.access(p, os.X_OK) for p in pythons) or (
        folder.name in ("bin", "Scripts") and not script.suffix
    )


def _loose_path(installed: Installed) -> Iterator[Path]:
    """The folders and archives on the search path that are neither Python's own nor of packages."""
    for entry in search_path():
        folder = Path(os.path.realpath(entry))
        if (os.path.isdir(folder) or archive_of(folder)) and not installed.is_place(folder):
            yield folder


def names_in(folder: Path) -> Iterator[str]:
    """The modules and packages that lie in a folder."""
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        # Not `entry.is_file`, which raises for a link onto itself, or into a folder that may not be read.
        if os.path.isfile(entry.path):
            if not entry.name.endswith(".pyc") and (name := module_name(entry.name)):
                yield name
        elif entry.name.isidentifier() and os.path.exists(os.path.join(entry.path, "__init__.py")):
            yield entry.name


def _add_named(
    trees: dict[tuple[str, Path], Tree],
    starts: Iterable[Path],
    roots: list[Path],
    installed: Installed,
    avoided: frozenset[str],
) -> None:
    """Add what code imports by name, wherever in it: a function's import is run on a worker only."""
    todo = list(starts)
    for tree in trees.values():
        if tree.wanted:
            todo += _code_of(tree)
    seen: set[Path] = set()
    places: dict[str, list[Path]] = {}
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _mentioned(file) - avoided:
            if name not in places:
                places[name] = _roots_of(name, trees, roots, installed)
            for root in places[name]:
                known = trees.get((name, root))
                # Code is parsed where that may lead to something new: of large projects it takes seconds.
                if (known is None or not known.wanted) and name in _imports(file).names:
                    trees[name, root] = Tree(name, root)
                    todo += _code_of(trees[name, root])
                    places.pop(name, None)


def _roots_of(
    name: str, trees: dict[tuple[str, Path], Tree], roots: list[Path], installed: Installed
) -> list[Path]:
    """Where code that imports a name finds it, and all portions of a package that is imported."""
    whole = any(t.name == name and t.wanted and is_whole(t.root, name) for t in trees.values())
    found = [] if whole else list(search(name, roots, partial(_is_installed, installed, name)))
    for entry in getattr(sys.modules.get(name), "__path__", ()):
        folder = Path(os.path.realpath(entry))
        root = folder.parent
        if folder.name == name and has_portion(root, name) and not installed.owns(folder / "any.py", name):
            found.append(root)
    return found


def _code_of(tree: Tree) -> list[Path]:
    """The Python files of a tree, as far as they are few."""
    file = tree.root / f"{tree.name}.py"
    if os.path.isfile(file):
        return [file]
    found: list[Path] = []
    for folder, names, files in os.walk(tree.root / tree.name):
        names[:] = [n for n in names if n.isidentifier() and n not in ("__pycache__", "node_modules")]
        found += (Path(folder, f) for f in files if f.endswith(".py"))
        if len(found) > _MOST_READ:
            break
    return found


_MOST_READ = 1000


@dataclass(frozen=True)
class _Imports:
    """What a file's code imports: the first parts of absolute names, and whether anything relatively."""

    names: frozenset[str] = frozenset()
    relative: bool = False


def _imports(file: Path) -> _Imports:
    version = _version(file)
    return _Imports() if version is None else _imports_of(file, *version)


def _mentioned(file: Path) -> frozenset[str]:
    """All names that a file may import, and more: what stands after the words, be it in a text."""
    version = _version(file)
    return frozenset() if version is None else _mentioned_in(file, *version)


def _version(file: Path) -> tuple[int, int] | None:
    """When a file was changed, and its size; None of what cannot be read."""
    try:
        found = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None  # a pipe, say, of which nothing comes
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4096)
def _mentioned_in(file: Path, changed: int, size: int) -> frozenset[str]:
    try:
        text = file.read_bytes().decode()
    except OSError:
        return frozenset()
    except UnicodeDecodeError:  # it may say how it is written
        return _imports_of(file, changed, size).names
    if not text.isascii() and _CODING.match(text):
        return _imports_of(file, changed, size).names
    found = {name for rest in _IMPORT.findall(text) for name in _NAME.findall(rest)}
    return frozenset(n if n.isascii() else unicodedata.normalize("NFKC", n) for n in found)


@lru_cache(maxsize=4096)
def _imports_of(file: Path, changed: int, size: int) -> _Imports:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return _Imports()
    found: set[str] = set()
    relative = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            relative = True
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return _Imports(frozenset(found), relative)
