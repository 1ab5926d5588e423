"""How code is named to a worker, instead of being sent to it: a user's modules are imported there.

Pickle names a function by its module and its name, and cloudpickle sends what it does not find under that
name: what a decorator took the place of (the function of every `@task`), and what was made inside of another
function. Such a copy has a copy of all that it uses, its module's counters and classes too, and cannot have a
lock. Here both are tied to the module as the worker imports it. By value goes what no worker can import: the
main script, cells of a notebook, and what the user told cloudpickle to send so.

Imports neither Dask nor Prefect.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from prefect_coiled.internals.cloudpickle import write_by_value

write_by_value()
_MAIN = frozenset({"__main__", "__mp_main__"})
# What decorators call the function that they took the place of: Prefect's, functools'.
_INNER = ("fn", "__wrapped__")
_DEEP = 10


class Pickler(cloudpickle.Pickler):
    """cloudpickle's, which names more of what a worker can import."""

    def reducer_override(self, value: Any) -> Any:
        """How a value that is not plain data is written."""
        reduced = super().reducer_override(value)
        if not isinstance(value, FunctionType) or reduced is NotImplemented:
            return reduced
        module = _importable(value)
        if module is None:
            return reduced
        steps = _steps_to(value, module)
        if steps is not None:
            return _named, (module.__name__, value.__qualname__, steps)
        return _on_module(reduced, value, module.__name__)


def _importable(function: FunctionType) -> ModuleType | None:
    """The module of a function, where a worker imports it."""
    name = function.__module__
    module = sys.modules.get(name) if isinstance(name, str) and name not in _MAIN else None
    if not isinstance(module, ModuleType) or module.__dict__ is not function.__globals__:
        return None
    if not getattr(module, "__file__", None):
        return None
    by_value = cloudpickle.list_registry_pickle_by_value()
    parts = name.split(".")
    if any(".".join(parts[:n]) in by_value for n in range(1, len(parts) + 1)):
        return None
    return module


def _steps_to(function: FunctionType, module: ModuleType) -> tuple[str, ...] | None:
    """How to get at a function from what its module has under its name; None if that does not lead to it."""
    found: Any = module
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return _path(found, function, ())


def _path(found: Any, function: FunctionType, steps: tuple[str, ...]) -> tuple[str, ...] | None:
    if found is function:
        return steps
    if found is None or len(steps) == _DEEP:
        return None
    for step, inner in _inner(found):
        if (path := _path(inner, function, (*steps, step))) is not None:
            return path
    return None


def _inner(found: Any) -> Iterator[tuple[str, Any]]:
    own = getattr(found, "__dict__", {})
    return ((step, own[step]) for step in _INNER if step in own)


def _named(module: str, name: str, steps: tuple[str, ...]) -> Any:
    """On the worker: what `_steps_to` found."""
    found: Any = importlib.import_module(module)
    for part in (*name.split("."), *steps):
        found = getattr(found, part)
    return found


class _Globals:
    """Stands for what a module has: on the worker, what that module has there."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return _globals_of, (self.module,)


def _globals_of(module: str) -> dict[str, Any]:
    return importlib.import_module(module).__dict__


def _on_module(reduced: Any, function: FunctionType, module: str) -> Any:
    """Cloudpickle's way to write a function by value, without the globals that it uses."""
    # (make, (code, globals, name, defaults, closure), (dict, slots), None, None, set state)
    make, arguments, (own, slots), *rest = reduced
    if not (len(arguments) > 1 and isinstance(arguments[0], CodeType) and isinstance(arguments[1], dict)):
        raise RuntimeError(f"this version of cloudpickle writes functions in another way: {arguments!r:.200}")
    return make, (arguments[0], _Globals(module), *arguments[2:]), (own, {**slots, "__globals__": {}}), *rest
