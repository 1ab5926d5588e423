"""Which imports of a script would fail on the machines: read of it and of the modules that travel with it."""

from __future__ import annotations

import ast
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from importlib import util
from pathlib import Path

from prefect_coiled.environment.contents import read_record
from prefect_coiled.environment.lock import Locked
from prefect_coiled.environment.module_search import module_name
from prefect_coiled.environment.modules import Modules, gather
from prefect_coiled.environment.records import Change, Environment
from prefect_coiled.errors import OptionsError


def missing_imports(script: Path, environment: Environment, locked: Locked) -> list[Change]:
    """What a script and its own modules import that no machine would find.

    An import that may fail (in a `try` that catches ImportError) is not looked at.

    Args:
        script: The file, as `python FILE` or a deployment would run it. It is read, not run.

    Raises:
        OptionsError: There is no such file, or it is no Python.
    """
    if not script.is_file():
        raise OptionsError(f"script {script}", "there is no such file")
    folder = str(script.resolve().parent)
    before = list(sys.path)
    sys.path.insert(0, folder)
    try:
        modules = gather(script.stem, str(script.resolve()))
        wanted = _wanted(script, modules)
        there = _provided(environment, locked) | set(modules.names) | set(sys.stdlib_module_names)
        missing = {name: files for name, files in wanted.items() if name not in there}
        return [_change(name, files, modules) for name, files in sorted(missing.items())]
    finally:
        sys.path[:] = before


def _wanted(script: Path, modules: Modules) -> dict[str, list[str]]:
    """The names that are imported, and by which files: the script, and those of its own that it leads to."""
    try:
        found = _imports(ast.parse(script.read_bytes()))
        wanted = {name: [script.name] for name in found}
    except (SyntaxError, ValueError) as error:
        raise OptionsError(f"script {script}", f"it is no Python: {error}") from error
    own: dict[str, list[str]] = {}
    for path in modules.files:
        if path.endswith(".py"):
            own.setdefault(path.partition("/")[0].removesuffix(".py"), []).append(path)
    ahead = list(wanted)
    while ahead:
        for path in own.pop(ahead.pop(), ()):
            try:
                found = _imports(ast.parse(modules.files[path]))
            except (SyntaxError, ValueError):
                continue
            for name in found:
                if path not in wanted.setdefault(name, []):
                    wanted[name].append(path)
                ahead.append(name)
    return wanted


def _imports(tree: ast.AST) -> list[str]:
    """The names that a module imports, each once."""
    return list(dict.fromkeys(_imported(tree)))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level and node.module:
                yield node.module.partition(".")[0]
        elif not _may_fail(node):
            yield from _imported(node)


def _may_fail(node: ast.AST) -> bool:
    """Whether imports in a statement may fail, or are for type checkers."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, ast.Try) and any(_catches(handler) for handler in node.handlers)


def _catches(handler: ast.ExceptHandler) -> bool:
    told = ast.dump(handler.type) if handler.type else "'Exception'"
    return any(name in told for name in ("ImportError", "ModuleNotFound", "'Exception'", "BaseException"))


def _provided(environment: Environment, locked: Locked) -> set[str]:
    """The names that the packages of a lock bring."""
    packages = {package.name: package for package in environment.packages}
    provided: set[str] = set()
    for wheel in (*locked.lock.wheels, locked.lock.uv):
        package = packages.get(wheel.name)
        if (built := locked.built.get(wheel.sha256)) is not None:
            with zipfile.ZipFile(built) as file:
                paths = file.namelist()
        elif package is not None and package.record:
            paths = list(read_record(Path(package.record)))
        else:
            paths = []
        provided.add(wheel.name.replace("-", "_"))
        for path in paths:
            first, _, rest = path.partition("/")
            name = first if rest else module_name(first)
            if name.isidentifier():
                provided.add(name)
    return provided


def _change(name: str, files: list[str], modules: Modules) -> Change:
    where = f"imported by {', '.join(files[:3])}{' and others' if len(files) > 3 else ''}"
    stays: Mapping[Path, str] = modules.left_out
    reason = next((why for path, why in stays.items() if module_name(path.name) == name), "")
    if reason:
        what = f"{where}; it stays here: {reason}"
    elif _is_here(name):
        what = f"{where}; nothing that the machines get has it"
    else:
        what = f"{where}; it is not installed here either"
    return Change(package=name, here="", machines="", files=tuple(files), what=what)


def _is_here(name: str) -> bool:
    try:
        return util.find_spec(name) is not None or os.path.isdir(name)
    except (ImportError, ValueError):
        return False
