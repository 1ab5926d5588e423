"""Policies and a request: allowed or not.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html: an explicit deny
wins, then one allow is enough, and without any it is denied.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Request", "Verdict", "decide", "tag_keys"]

Context = Mapping[str, "str | Sequence[str]"]


@dataclass(frozen=True)
class Request:
    """One thing that a call asks for.

    Attributes:
        action: Such as "ec2:RunInstances".
        resource: The ARN; one that does not exist yet ends in "/*".
        context: Condition keys in lower case, and their values.
    """

    action: str
    resource: str
    context: Context = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The outcome: whether it is allowed, and why not."""

    allowed: bool
    reason: str = ""
    explicit: bool = False


def tag_keys(prefix: str, tags: Mapping[str, Any]) -> dict[str, str]:
    """The condition keys of tags. Of two that differ by case alone, a condition matches neither.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html

    Args:
        prefix: Such as "aws:requesttag".
    """
    often = Counter(key.lower() for key in tags)
    return {f"{prefix}/{k.lower()}": str(v) for k, v in tags.items() if often[k.lower()] == 1}


def decide(
    documents: Iterable[Mapping[str, Any]], request: Request, boundary: Mapping[str, Any] | None = None
) -> Verdict:
    """Judge a request by identity policies, and by a permissions boundary.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html: what both allow.

    Args:
        documents: The policies.
        request: What is asked for.
        boundary: The boundary of who asks.
    """
    found = _decide(documents, request)
    if boundary is None or found.explicit:
        return found
    bound = _decide([boundary], request)
    if bound.explicit:
        return Verdict(False, "with an explicit deny in a permissions boundary", True)
    if not bound.allowed:
        return Verdict(False, f"because no permissions boundary allows the {request.action} action")
    return found


def _decide(documents: Iterable[Mapping[str, Any]], request: Request) -> Verdict:
    allowed = False
    for document in documents:
        for statement in _listed(document["Statement"]):
            if not _applies(statement, request):
                continue
            if statement["Effect"] == "Deny":
                return Verdict(False, "with an explicit deny in an identity-based policy", True)
            allowed = True
    if allowed:
        return Verdict(True)
    return Verdict(False, f"because no identity-based policy allows the {request.action} action")


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    def hit(name: str, value: str, fold: bool) -> bool:
        patterns = statement.get(name, statement.get(f"Not{name}", "*"))
        found = any(_like(_filled(p, request.context), value, fold) for p in _listed(patterns))
        return found != (f"Not{name}" in statement)

    return (
        hit("Action", request.action, True)
        and hit("Resource", request.resource, False)
        and all(
            _holds(operator, key, wanted, request.context)
            for operator, block in (statement.get("Condition") or {}).items()
            for key, wanted in block.items()
        )
    )


def _holds(operator: str, key: str, wanted: Any, context: Context) -> bool:
    quantifier, _, name = operator.rpartition(":")
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    values = [_text(v) for v in _listed(wanted)]
    given = context.get(key.lower())
    if name == "Null":
        return (given is None) == (values[0] == "true")
    negated = "Not" in name
    if given is None:
        return if_exists or quantifier == "ForAllValues" or (negated and quantifier != "ForAnyValue")
    compare = _COMPARE.get(name.replace("Not", ""))
    if compare is None:
        raise NotImplementedError(f"the condition operator {operator}")
    have = [given] if isinstance(given, str) else list(given)
    results = [any(compare(_filled(v, context), one) for v in values) != negated for one in have]
    return any(results) if quantifier == "ForAnyValue" else all(results)


def _same(pattern: str | None, value: str) -> bool:
    return pattern == value


def _folded(pattern: str | None, value: str) -> bool:
    return pattern is not None and pattern.lower() == value.lower()


def _number(compare: Callable[[float, float], bool]) -> Callable[[str | None, str], bool]:
    return lambda pattern, value: pattern is not None and compare(float(value), float(pattern))


_COMPARE: dict[str, Callable[[str | None, str], bool]] = {
    "StringEquals": _same,
    "StringEqualsIgnoreCase": _folded,
    "StringLike": lambda pattern, value: _like(pattern, value, False),
    "ArnEquals": lambda pattern, value: _like(pattern, value, False),
    "ArnLike": lambda pattern, value: _like(pattern, value, False),
    "Bool": _folded,
    "NumericEquals": _number(lambda a, b: a == b),
    "NumericLessThan": _number(lambda a, b: a < b),
    "NumericLessThanEquals": _number(lambda a, b: a <= b),
    "NumericGreaterThan": _number(lambda a, b: a > b),
    "NumericGreaterThanEquals": _number(lambda a, b: a >= b),
}


def _filled(pattern: str, context: Context) -> str | None:
    """A pattern with its policy variables filled in; None if one of them has no value."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        found = context.get(match[1].lower())
        missing = missing or not isinstance(found, str)
        return str(found)

    filled = re.sub(r"\$\{([^}*?$]+)\}", value, pattern)
    return None if missing else filled


def _like(pattern: str | None, value: str, fold: bool) -> bool:
    return pattern is not None and _expression(pattern, fold).fullmatch(value) is not None


@functools.lru_cache(maxsize=4096)
def _expression(pattern: str, fold: bool) -> re.Pattern[str]:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if fold else 0))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
