"""What a keyword takes: from a value of any type, or from the text of a variable, to what it means, or not.

A kind judges a value by itself; whether values go together is for whoever plans. Values of numpy count as
Python's own. A text is never judged by its truthiness: it is read as pydantic reads it, or refused.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

_BOOL = TypeAdapter(bool)
_LONGEST = 80
_NEVER = ("none", "null", "never")


# Seconds: more is a slip of the pen, and no clock knows the time that it would be.
_MOST_SECONDS = 10 * 366 * 86400.0


class RefusedError(ValueError):
    """Of a value that is of the right kind, and wrong for a reason of its own, which is its text."""


@dataclass(frozen=True)
class Kind:
    """What a keyword takes.

    Attributes:
        words: What that is, as the end of "it has to be ...".
        take: The value as it is meant; raises `ValueError` or `TypeError` for another one. Gets no numpy.
        read: What a variable's text says, for `take` to judge.
        allowed: The values that there are, where they can be counted.
    """

    words: str
    take: Callable[[Any], Any]
    read: Callable[[str], Any] = str
    allowed: tuple[str, ...] = ()


def shown(value: object) -> str:
    """A value on one short line, whatever its `repr` does."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = _LONGEST
    return " ".join(short.repr(value).split())


def plain(value: Any) -> Any:
    """The value with Python's own numbers, texts and lists where it has numpy's."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(plain(one) for one in value)
    return {plain(k): plain(v) for k, v in value.items()} if type(value) is dict else value


def as_bool(value: Any) -> bool:
    """A yes or a no, written as Prefect's settings take it: true, 1, yes, on, t, y and their opposites.

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(value, (bool, int, float, str)):
        raise TypeError
    try:
        return _BOOL.validate_python(value.strip() if isinstance(value, str) else value)
    except ValidationError:
        raise ValueError from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json_list(text: str) -> Any:
    return _json(text) if text.startswith("[") else text


def _names(text: str) -> Any:
    return [one.strip() for one in text.split(",")] if "," in text and "[" not in text else _json_list(text)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    number = int(value)
    if number != value:
        raise ValueError
    return number


def whole(least: int = 0, most: int | None = None, *, unit: str = "") -> Kind:
    """A whole number; one such as 2.0 is one."""

    def take(value: Any) -> int:
        number = _whole(value)
        if number < least or (most is not None and number > most):
            raise ValueError
        return number

    span = f"{least} or more" if most is None else f"from {least} to {most}"
    return Kind(f"a whole number{unit and f' of {unit}'}, {span}", take, _json)


def _range(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        low, high = map(_whole, value)
        if not 1 <= low <= high:
            raise ValueError
        return low, high
    if _whole(value) < 1:
        raise ValueError
    return _whole(value)


def _text(value: Any, longest: int = 512) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError
    if len(value) > longest:
        raise RefusedError(f"it has {len(value)} characters, and may have {longest}.")
    return _without_nul(value)


def _without_nul(value: str) -> str:
    """No program takes it in a variable, a name or a path: it would end there."""
    if "\0" in value:
        raise RefusedError("it holds a NUL character, which nothing on a machine takes.")
    return str(value)


def _texts(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple, set, frozenset)):
        raise TypeError
    return tuple(map(_text, listed if isinstance(listed, (list, tuple)) else sorted(listed)))


def _sizes(value: Any) -> Any:
    return tuple(map(_text, value)) if isinstance(value, (list, tuple)) else _text(value)


def one_of(*allowed: str) -> Kind:
    """One of a few texts."""

    def take(value: Any) -> str:
        if value not in allowed or not isinstance(value, str):
            raise ValueError
        return value

    return Kind(f"one of {', '.join(allowed)}", take, allowed=allowed)


def _how_many(value: Any) -> bool | int | float:
    if isinstance(value, str):
        return as_bool(value)
    if isinstance(value, bool):
        return value
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise TypeError
    if isinstance(value, float) and value > 1:
        raise ValueError
    return value


def _how_many_in(text: str) -> Any:
    value = _json(text)
    return text if isinstance(value, str) else value


def seconds(value: Any) -> float:
    """Seconds: a number, or a time in Dask's words such as "20 minutes".

    Raises:
        ValueError: It is none, or not more than 0.
    """
    from dask.utils import parse_timedelta

    if isinstance(value, bool) or not isinstance(value, (int, float, str, timedelta)):
        raise TypeError
    try:
        number = float(parse_timedelta(value, default="s"))
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError from error
    if not math.isfinite(number) or number <= 0:
        raise ValueError
    if number > _MOST_SECONDS:
        raise RefusedError("it is more than ten years.")
    return number


def _usd(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    if value <= 0:
        raise ValueError
    return float(value)


def _seconds_or_never(value: Any) -> float | None:
    never = value is None or (isinstance(value, str) and value.strip().lower() in _NEVER)
    return None if never else seconds(value)


def _memory_limit(value: Any) -> str:
    """As text that means the same to Dask: https://docs.dask.org/en/stable/deploying-cli.html."""
    from dask.utils import parse_bytes

    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        number = float(value)
    except ValueError:
        number = float(parse_bytes(_text(value)))
        value = int(number)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    # A fraction up to 1 is one of the machine's memory, as Dask has it; more is a number of bytes.
    return str(number if 0 < number <= 1 and not isinstance(value, int) else int(number))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
        raise TypeError
    return {str(key): inner for key, inner in value.items()}


def _mapping_of_texts(value: Any) -> dict[str, str]:
    made = _mapping(value)
    if not all(isinstance(inner, str) for inner in made.values()):
        raise TypeError
    return {_without_nul(key): _without_nul(inner) for key, inner in made.items()}


def _options(value: Any) -> dict[str, Any]:
    fields = getattr(value, "model_fields_set", None)  # a `BackendOptions`: what was said of it counts
    return _mapping(value if fields is None else {name: getattr(value, name) for name in fields})


def _path(value: Any) -> str:
    return _text(os.fspath(value) if isinstance(value, os.PathLike) else value, 4096)


def _callable(value: Any) -> Any:
    if not callable(value):
        raise TypeError
    return value


def _event(value: Any) -> Any:
    if not hasattr(value, "is_set"):
        raise TypeError
    return value


FLAG = Kind("true or false", as_bool)
TEXT = Kind("a text", _text)
NAMES = Kind("a text, or a list of texts", _texts, _names)
WHOLE_RANGE = Kind("a whole number of 1 or more, or a range such as [4, 8]", _range, _json)
SIZES = Kind('a size such as "16 GiB", or a range such as ["16 GiB", "32 GiB"]', _sizes, _json_list)
GPUS = Kind("0 or 1", lambda value: int(value) if isinstance(value, bool) else _whole(value), _json)
HOW_MANY = Kind("true, false, a number of workers, or a fraction from 0.0 to 1.0", _how_many, _how_many_in)
SECONDS = Kind("seconds, more than 0, or a text such as '20 minutes'", seconds)
SECONDS_OR_NEVER = Kind("seconds, more than 0, or a text such as '20 minutes'; None means never",
                        _seconds_or_never)  # fmt: skip
USD = Kind("US dollars, more than 0", _usd, _json)
MEMORY_LIMIT = Kind('a number of bytes, a fraction up to 1.0, a size such as "4 GiB", 0 for none, or "auto"',
                    _memory_limit)  # fmt: skip
TEXTS_BY_NAME = Kind('a mapping of texts such as {"name": "value"}', _mapping_of_texts, _json)
MAPPING = Kind('a mapping such as {"name": value}', _mapping, _json)
OPTIONS = Kind('a mapping such as {"region": "us-east-1"}', _options, _json)
SCRIPT = Kind("the text of a script", lambda value: _text(value, 65_536))
PATH = Kind("the path of a file", _path)
CALLABLE = Kind("a function", _callable)
EVENT = Kind("an event of threading", _event)
ANYTHING = Kind("any object", lambda value: value)
