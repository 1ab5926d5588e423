"""The names that code may import are found without parsing it: all of them, whatever it looks like."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from prefect_coiled.environment import module_places

STRANGE = '''
import a1, a2.b as a3, \\
    a4
from a5 \\
    import (x,
            y)
from.a6 import z
if True: import a7; from a8.b import c
def f():
\tfrom a9 import (  # why
\t    d)
\ttry: import ünter
\texcept ImportError: raise ValueError from None
"""
import from_a_text
"""
if "x" == "from": import b1
def g():
	if (yield from g()): import b2
# moved from C:\\old\\
import b3, nai\u0308ve
import हिन्दी, ℘x
'''


def test_every_import_is_among_what_is_mentioned(tmp_path: Path) -> None:
    file = tmp_path / "strange.py"
    file.write_text(STRANGE, encoding="utf-8")
    exact = module_places._imports(file).names
    assert exact == {"a1", "a2", "a4", "a5", "a7", "a8", "a9", "ünter"} | {
        *("b1", "b2", "b3", "na\u00efve", "हिन्दी", "℘x")
    }
    assert exact <= module_places._mentioned(file)
    file = tmp_path / "latin.py"
    file.write_bytes("# coding: latin-1\nimport \xfcber\n".encode("latin-1"))
    assert module_places._mentioned(file) == {"über"}
    file.write_bytes("# coding: latin-1\nimport \xc3\xa4\n".encode("latin-1"))
    assert module_places._mentioned(file) == module_places._imports(file).names


def test_what_python_itself_imports_is_mentioned() -> None:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    assert len(files) > 100
    for file in files:
        assert module_places._imports(file).names <= module_places._mentioned(file), file


def test_code_that_imports_nothing_new_is_not_parsed_and_a_local_name_in_a_text_is_no_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mentions_package"
    package.mkdir()
    (package / "__init__.py").write_text("import os, json\nfrom . import inner\n")
    (package / "inner.py").write_text('"""As in:\n\n    import mentions_shown\n"""\n')
    (package / "lazy.py").write_text("def f():\n    import mentions_meant\n")
    for name in ("mentions_shown", "mentions_meant"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("mentions_package")
    parsed: set[str] = set()
    parse = module_places._imports_of

    def noted(file: Path, *version: int) -> module_places._Imports:
        if tmp_path in file.parents:
            parsed.add(file.name)
        return parse(file, *version)

    monkeypatch.setattr(module_places, "_imports_of", noted)
    try:
        wanted = {tree.name for tree in module_places.find().trees if tree.wanted}
    finally:
        for name in [n for n in sys.modules if n.startswith("mentions_")]:
            del sys.modules[name]
    assert {"mentions_package", "mentions_meant"} <= wanted
    assert "mentions_shown" not in wanted
    assert parsed == {"inner.py", "lazy.py"}
