"""The patterns in botocore's models are Java's; this makes Python's of them."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

__all__ = ["matches"]

# https://docs.oracle.com/javase/8/docs/api/java/util/regex/Pattern.html
_NAMED = {
    "Alpha": "a-zA-Z",
    "Digit": "0-9",
    "Alnum": "a-zA-Z0-9",
    "Upper": "A-Z",
    "Lower": "a-z",
    "Punct": r"!-/:-@\[-`{-~",
    "Graph": "!-~",
    "Print": " -~",
    "Blank": r" \t",
    "Space": r" \t\n\x0b\f\r",
    "ASCII": r"\x00-\x7f",
}
_PROPERTY = re.compile(r"\\p\{(?:Is)?(\w+)\}|\\p([LMNPSZC])")


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text matches; True where Python cannot read the pattern.

    Args:
        pattern: As in a model.
        text: The text.
    """
    compiled = _compiled(pattern)
    return compiled is None or compiled.fullmatch(text) is not None


@functools.lru_cache(maxsize=2048)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        # In Java \w, \d and \s are ASCII's.
        return re.compile(_PROPERTY.sub(_chars, _bracketed(pattern)), re.ASCII)
    except (re.error, KeyError):
        return None


def _bracketed(pattern: str) -> str:
    """A property outside of a class gets a class of its own."""
    made, inside, at = [], False, 0
    while at < len(pattern):
        match = _PROPERTY.match(pattern, at)
        if match:
            made.append(match[0] if inside else f"[{match[0]}]")
            at = match.end()
            continue
        step = 2 if pattern[at] == "\\" else 1
        if step == 1:
            inside = inside or pattern[at] == "["
            inside = inside and pattern[at] != "]"
        made.append(pattern[at : at + step])
        at += step
    return "".join(made)


def _chars(match: re.Match[str]) -> str:
    name = match[1] or match[2]
    return _NAMED[name] if name in _NAMED else _category(name)


@functools.lru_cache(maxsize=64)
def _category(name: str) -> str:
    """All characters of a general category, as the inside of a class."""
    if len(name) > 2 or name[0] not in "LMNPSZC":
        raise KeyError(name)
    ranges: list[list[int]] = []
    for number in range(sys.maxunicode + 1):
        if unicodedata.category(chr(number)).startswith(name):
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
