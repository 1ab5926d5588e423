"""Of cloudpickle, the table of how values of a type are written. Seen in cloudpickle 3.1.

Some values are written by their name alone: a function behind `functools.lru_cache`, and types that
`typing` makes of a name. A worker of a `LocalCluster` has the main script, and finds them there by it; no
machine has. So what is of the main script, or not to be found under its name, goes by value here, as
functions and classes do by cloudpickle itself. A cache begins empty there.
"""

from __future__ import annotations

import functools
import sys
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import typing_extensions


def write_by_value() -> None:
    """Have cloudpickle write by value, in this process, what a name does not lead to elsewhere."""
    table = cloudpickle.Pickler.dispatch_table
    for kind, parts in _PARTS.items():
        table[kind] = functools.partial(_reduced, parts)


def _reduced(parts: Callable[[Any], tuple[Any, ...]], value: Any) -> Any:
    named = value.__reduce__()
    if isinstance(named, str) and _leads_to(value, named):
        return named
    return _made, (type(value), *parts(value), value.__module__)


def _leads_to(value: Any, name: str) -> bool:
    """Whether another process finds a value by its module and its name."""
    module = value.__module__
    if module == "__main__" or module in cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _made(kind: type, arguments: tuple[Any, ...], keywords: dict[str, Any], module: str) -> Any:
    """The value anew, in the process that reads it, which may write it again."""
    write_by_value()
    if kind is _CACHE:
        return functools.lru_cache(**keywords)(*arguments)
    made = kind(*arguments, **keywords)
    with suppress(AttributeError):  # an alias has none that may be set
        made.__module__ = module
    return made


def _of_cache(value: Any) -> tuple[Any, ...]:
    return (value.__wrapped__,), value.cache_parameters()


def _of_new_type(value: Any) -> tuple[Any, ...]:
    return (value.__qualname__, value.__supertype__), {}


def _of_parameters(value: Any) -> tuple[Any, ...]:
    variance = {"covariant": value.__covariant__, "contravariant": value.__contravariant__}
    return (value.__name__,), {"bound": value.__bound__, **variance}


def _of_name(value: Any) -> tuple[Any, ...]:
    return (value.__name__,), {}


def _of_alias(value: Any) -> tuple[Any, ...]:
    return (value.__name__, value.__value__), {"type_params": value.__type_params__}


_CACHE = type(functools.lru_cache(_of_name))
_PARTS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    _CACHE: _of_cache,
    typing.NewType: _of_new_type,
    typing.ParamSpec: _of_parameters,
}
if sys.version_info >= (3, 11):
    _PARTS[typing.TypeVarTuple] = _of_name
for _place in (typing, typing_extensions):  # Python 3.12's own, and what stands for it before
    if (_alias := getattr(_place, "TypeAliasType", None)) is not None:
        _PARTS[_alias] = _of_alias
