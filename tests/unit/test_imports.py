"""Imports that no machine would find, read of a script and of the modules that travel with it."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from prefect_coiled.environment import Environment, Lock, Locked, Package, Wheel
from prefect_coiled.environment.imports import missing_imports
from prefect_coiled.errors import OptionsError
from tests.unit.as_installed import installed


@pytest.fixture
def of(tmp_path: Path) -> object:
    """What a script would miss on machines that get one package and no more."""
    site = tmp_path / "lib/python3.11/site-packages"
    files = {"one/__init__.py": "", f"_compiled{EXTENSION_SUFFIXES[0]}": "", "two.py": ""}
    record = installed(site, "py-one", "1", files)
    package = Package(name="py-one", version="1", record=str(record))
    wheels = [
        Wheel(name=name, version="1", file=f"{name}-1-py3-none-any.whl", sha256=digit * 64)
        for name, digit in (("py-one", "1"), ("uv", "2"))
    ]
    lock = Lock(python="3.11.9", architecture="x86_64", wheels=tuple(wheels[:1]), uv=wheels[1])
    environment = Environment(python="3.11.9", platform="linux-x86_64", packages=(package,))

    def missing(text: str, **beside: str) -> dict[str, tuple[str, ...]]:
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        for name, content in {**beside, "flow": text}.items():
            (folder / f"{name}.py").write_text(content)
        before = list(sys.path)
        found = missing_imports(folder / "flow.py", environment, Locked(lock))
        assert sys.path == before
        return {change.package: change.files for change in found}

    return missing


def test_what_python_has_what_packages_bring_and_what_travels_is_there(of) -> None:
    assert (
        of("import os.path, one.deep\nfrom two import x\nimport beside, uv, _compiled", beside="import json")
        == {}
    )


def test_what_nothing_brings_is_named_with_who_imports_it(of) -> None:
    found = of("import beside\ndef f():\n    from absent_a.b import c", beside="import absent_b, absent_a")
    assert found == {"absent_a": ("flow.py", "beside.py"), "absent_b": ("beside.py",)}


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    import absent\nexcept ImportError:\n    absent = None",
        "try:\n    import absent\nexcept (ValueError, ModuleNotFoundError):\n    pass",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import absent",
        "from . import absent",
    ],
)
def test_imports_that_may_fail_are_passed_by(of, text: str) -> None:
    assert of(text) == {}


def test_a_script_that_is_no_python_is_told(of, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="it is no Python"):
        of("def (")
