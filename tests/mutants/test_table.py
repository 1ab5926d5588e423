"""Each row of the table can be carried out: its text is there once, and so are its tests.

make mutants    # carries them out, and sees that each is caught
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from .__main__ import PACKAGE, ROOT, applied, verdict
from .table import MUTANTS, Mutant


@cache
def functions(path: Path) -> frozenset[str]:
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    )


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_can_be_sown_and_its_tests_are_there(mutant: Mutant) -> None:
    changed = applied(mutant, (ROOT / PACKAGE / mutant.file).read_text())
    if mutant.file.endswith(".py"):
        ast.parse(changed)
    assert mutant.tests
    for test in mutant.tests:
        path, *names = test.partition("[")[0].split("::")  # of some, one case alone
        assert set(names) <= functions(ROOT / "tests" / path), test


def test_no_two_faults_have_one_name_and_they_are_all_over_the_package() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    assert len({mutant.file.partition("/")[0] for mutant in MUTANTS}) >= 8


def test_what_is_not_there_once_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / PACKAGE / "here.py"
    path.parent.mkdir()
    path.write_text("a = 1\na = 1\n")
    for text in ("a = 1", "b = 1"):
        said = verdict(tmp_path, Mutant("x", "here.py", text, "a = 2", ("unit",)))
        assert said.startswith("not to be applied any more: its text is found ")
    assert path.read_text() == "a = 1\na = 1\n"


def test_a_fault_that_no_test_sees_survives_and_one_that_is_seen_is_caught(tmp_path: Path) -> None:
    for name, text in (
        (f"{PACKAGE}/__init__.py", ""),
        (f"{PACKAGE}/here.py", "ONE, TWO = 1, 2\n"),
        (
            "tests/test_here.py",
            f"from {PACKAGE} import here\n\n\ndef test_one():\n    assert here.ONE == 1\n",
        ),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for text, outcome in (("1, 2", "caught"), ("ONE, TWO = 1, 2", "SURVIVED")):
        instead = text.replace("1, 2", "2, 2") if outcome == "caught" else "ONE, TWO = 1, 3"
        said = verdict(tmp_path, Mutant("x", "here.py", text, instead, ("test_here.py",)))
        assert said.partition(" by ")[0] == outcome, said
    assert (tmp_path / PACKAGE / "here.py").read_text() == "ONE, TWO = 1, 2\n"
