"""No text from outside makes a regular expression slow, or passes one by a line end or foreign digits."""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import pytest

import prefect_coiled
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.iam_setup import steps
from prefect_coiled.plan.policies import iam_policies

ROOT = Path(prefect_coiled.__file__).parent
SIZE, SECONDS = 100_000, 0.1
CALLS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
# What the user alone writes, such as files of blocks and of requirements; the library's own words; and what
# is short: names of files (255 bytes), references of images (512 characters, checked before).
OWN = {
    "blocks/documents.py",
    "cluster/cluster.py",
    "environment/ignored.py",
    "environment/project_settings.py",
    "environment/projects.py",
    "environment/requirement_files.py",
    "plan/containers.py",
    "sandbox/rules/ec2_lists.py",
}


class Pattern(NamedTuple):
    """A regular expression of the library's."""

    file: str
    line: int
    call: str
    text: str | bytes
    flags: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def value_of(node: ast.expr, names: dict[str, Any]) -> Any:
    """A constant text, or one that is put together of such; None for another."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [value_of(node.left, names), value_of(node.right, names)]
        return "".join(p if isinstance(p, str) else "x" for p in parts)
    if isinstance(node, ast.JoinedStr):
        parts = [value_of(p.value if isinstance(p, ast.FormattedValue) else p, names) for p in node.values]
        return "".join(p if isinstance(p, str) else "x" for p in parts)
    return None


def flags_of(nodes: list[ast.expr]) -> int:
    found = 0
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(getattr(re, part.attr, None), re.RegexFlag):
                found |= getattr(re, part.attr)
    return found


def patterns() -> Iterator[Pattern]:
    """All of them, also those of tables that are not written as calls."""
    for path in sorted(ROOT.rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text())
        names = {
            node.targets[0].id: value_of(node.value, {})
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            of, call = node.func.value, node.func.attr
            if not (isinstance(of, ast.Name) and of.id == "re" and call in CALLS):
                continue
            text = value_of(node.args[0], names)
            if isinstance(text, (str, bytes)):
                more = [*node.args[2:], *(k.value for k in node.keywords if k.arg == "flags")]
                flags = flags_of(more if call != "compile" else node.args[1:])
                yield Pattern(file, node.lineno, used_as(node, tree) or call, text, flags)


def used_as(node: ast.Call, tree: ast.Module) -> str:
    """How a compiled pattern with a name is used: the way that looks at most of a text."""
    name = next(
        (
            s.targets[0].id
            for s in tree.body
            if isinstance(s, ast.Assign) and s.value is node and isinstance(s.targets[0], ast.Name)
        ),
        "",
    )
    ways = {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == name
    }
    return next((way for way in ("sub", "findall", "search", "match", "fullmatch") if way in ways), "")


ALL = list(patterns())


def sample(parsed: Any) -> str:
    """The shortest text, or nearly so, that a part of a pattern takes."""
    found = ""
    for kind, value in parsed:
        name = str(kind)
        if name in ("LITERAL",):
            found += chr(value)
        elif name == "NOT_LITERAL":
            found += "b" if value == ord("a") else "a"
        elif name == "ANY":
            found += "a"
        elif name == "IN":
            found += member(value)
        elif name == "BRANCH":
            found += sample(value[1][0])
        elif name == "SUBPATTERN":
            found += sample(value[3])
        elif name == "ATOMIC_GROUP":
            found += sample(value)
        elif "REPEAT" in name:
            found += sample(value[2]) * max(value[0], 1)
    return found


def member(items: Any) -> str:
    """A character of a set."""
    negated = any(kind is _constants.NEGATE for kind, _ in items)
    if negated:
        text = "".join(chr(v) for k, v in items if k is _constants.LITERAL)
        return next(c for c in "a0_-xyz" if c not in text)
    kind, value = items[0]
    if kind is _constants.LITERAL:
        return chr(value)
    if kind is _constants.RANGE:
        return chr(value[0])
    return {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " "}.get(str(value), "a")


def pumps(parsed: Any) -> Iterator[str]:
    """What is repeated to make it slow: each part of it, and each beginning."""
    parts = list(parsed)
    for n in range(len(parts)):
        yield sample(parts[: n + 1])
        yield sample(parts[n : n + 1])
        yield sample(parts[n:])
        kind, value = parts[n]
        if str(kind) == "SUBPATTERN":
            yield from pumps(value[3])
        elif str(kind) == "BRANCH":
            for branch in value[1]:
                yield from pumps(branch)
        elif "REPEAT" in str(kind):
            yield from pumps(value[2])


def attacks(pattern: Pattern) -> set[str]:
    text = pattern.text if isinstance(pattern.text, str) else pattern.text.decode("latin-1")
    parsed = _parser.parse(text, pattern.flags)
    first = sample(parsed)
    found = {p for p in pumps(parsed) if p} | {"a", " ", "1", "a1", "a.", "/", "\n"}
    ends = ("", "\0!")
    return {
        (before + pump * (SIZE // len(pump)) + end)
        for pump in found
        for before in ("", first)
        for end in ends
    }


def test_the_patterns_are_found() -> None:
    assert len(ALL) > 120
    assert {"environment/indexes.py", "plan/aws_errors.py", "events/story.py"} <= {p.file for p in ALL}


@pytest.mark.parametrize("file", sorted({p.file for p in ALL} - OWN))
def test_no_text_makes_a_pattern_slow(file: str) -> None:
    for pattern in (p for p in ALL if p.file == file):
        compiled: Any = re.compile(pattern.text, pattern.flags)  # type: ignore[type-var]
        how = getattr(compiled, {"match": "match", "fullmatch": "fullmatch"}.get(pattern.call, "search"))
        if pattern.call in ("sub", "split", "findall", "finditer"):
            how = compiled.findall
        for attack in attacks(pattern):
            given = attack.encode("latin-1", "replace") if isinstance(pattern.text, bytes) else attack
            # The best of three: the machine may be busy.
            if not any(is_quick(how, given) for _ in range(3)):
                pytest.fail(f"{pattern} is slow for {attack[:40]!r}...: {pattern.text!r}")


class SlowError(Exception):
    """It takes too long."""


def is_quick(how: Callable[[Any], Any], given: Any) -> bool:
    def over(*args: object) -> None:
        raise SlowError

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        how(given)
    except SlowError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return True


@pytest.mark.parametrize("pattern", ALL, ids=str)
def test_no_pattern_takes_a_line_end_for_the_end(pattern: Pattern) -> None:
    if pattern.flags & re.MULTILINE:
        return
    text = pattern.text if isinstance(pattern.text, str) else pattern.text.decode("latin-1")
    parsed = _parser.parse(text, pattern.flags)
    ends = parsed.state.flags & re.MULTILINE or "AT_END)" not in str(parsed)
    assert ends, "`$` is also before a line end; write `\\Z`"


@pytest.mark.parametrize(
    "check",
    [
        lambda text: iam_policies("team", aws_account_id=text),
        lambda text: iam_policies("team", kms_key=f"arn:aws:kms:us-east-1:{text}:key/1"),
        lambda text: iam_policies("team", role_arn=f"arn:aws:iam::{text}:role/x"),
        lambda text: iam_policies("team", permissions_boundary=f"arn:aws:iam::{text}:policy/x"),
        lambda text: steps({}, "team", "user", "x", aws_account_id=text),
    ],
)
def test_a_number_of_an_aws_account_has_plain_digits_and_no_line_end(check: Callable[[str], Any]) -> None:
    check("123456789012")
    for wrong in ("123456789012\n", "\u0661" * 12, "12345678901\u0662", " 123456789012"):
        with pytest.raises(OptionsError):
            check(wrong)
