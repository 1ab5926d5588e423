"""What an error says: what failed, why, and what to do next, each a sentence."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

from prefect_coiled.errors import OptionsError, sentences

ROOT = Path(__file__).parents[2]


def test_each_part_of_what_is_told_is_a_sentence_of_its_own() -> None:
    for why in (
        "it is not there",
        "it is not there.",
        "it is not there;",
        "it is not there: ",
        "is it there?",
    ):
        text = str(OptionsError("the file", why, "Make it."))
        assert re.fullmatch(r"the file: \w[\w ]+[.?] Make it\.", text), text
    assert sentences("", "One", " ", "Two: ", "run `this`") == "One. Two. run `this`"


def test_no_cause_and_no_next_step_is_put_beside_another_text_without_a_stop() -> None:
    glued = []
    for path in (ROOT / "prefect_coiled").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for part, after in pairwise(parts):
                told = isinstance(part, ast.FormattedValue) and ast.unparse(part.value)
                if not told or not re.search(r"\.(why|next_step)\b|^str\(error\)", told):
                    continue
                text = after.value if isinstance(after, ast.Constant) else " "
                if re.match(r" (?!\()", str(text)):
                    glued.append(f"{path.name}:{node.lineno}")
    assert not glued, "use errors.sentences"
