"""Which modules lie beside a flow, and how a process gets them, and gets them anew."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import prefect_coiled.node.modules as node
from prefect_coiled.environment import modules
from prefect_coiled.environment.build import wheel_of
from prefect_coiled.errors import OptionsError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, text in {
        "flow.py": "",
        "my_helpers.py": "x = 1\n",
        "not-a-module.py": "",
        "notes.txt": "",
        "pkg/__init__.py": "",
        "pkg/inner/data.json": "{}",
        "pkg/inner/__pycache__/a.pyc": "",
        "plain/a.py": "",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing that runs here is beside anything."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(sys, "path", ["/nowhere", *sys.path])
    return monkeypatch


def test_modules_and_packages_of_a_folder_are_packed_and_other_files_are_not(project: Path) -> None:
    packed = modules.pack([project])
    assert sorted(packed) == ["flow.py", "my_helpers.py", "pkg/__init__.py", "pkg/inner/data.json"]
    assert packed["my_helpers.py"] == b"x = 1\n"


def test_the_folders_are_those_of_the_script_and_of_the_flow(
    project: Path, main: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert modules.folders() == ()
    assert modules.folders(str(project / "flow.py")) == (project,)
    assert modules.folders(str(project / "pkg/__init__.py")) == (project,), "the one above a package"
    other = tmp_path / "other.py"
    main.setattr(sys.modules["__main__"], "__file__", str(other), raising=False)
    assert modules.folders(str(project / "flow.py")) == (project, tmp_path)
    main.setattr(sys, "path", ["", *sys.path])
    main.delattr(sys.modules["__main__"], "__file__")
    main.chdir(project)
    assert modules.folders() == (project,), "a prompt or a notebook"


def test_what_is_installed_is_no_module_beside_a_flow(main: pytest.MonkeyPatch) -> None:
    import dask

    root = Path(__file__).parents[2]
    assert modules.folders(dask.__file__) == ()
    assert modules.folders(str(root / "conftest.py")) == (), "an editable package comes as a wheel"
    assert modules.folders(str(root / "flows" / "quickstart.py")) == (root / "flows",)
    main.setattr(sys.modules["__main__"], "__file__", f"{sys.prefix}/bin/prefect", raising=False)
    assert modules.folders() == ()


def test_a_folder_that_is_hardly_one_of_modules_is_refused_with_what_to_do(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "_MOST_FILES", 3)
    with pytest.raises(OptionsError, match=r"more than 3 files.*ignore=\['prefect-coiled-modules'\]"):
        modules.pack([project])


def test_the_wheel_of_modules_is_the_same_for_the_same_modules(project: Path, tmp_path: Path) -> None:
    packed = modules.pack([project])
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first, second = (modules.write_wheel(packed, folder) for folder in folders)
    assert first is not None
    assert second is not None
    assert wheel_of(first) == wheel_of(second)
    assert wheel_of(first).name == modules.NAME
    assert modules.write_wheel({}, tmp_path) is None


@pytest.fixture
def process() -> Iterator[None]:
    """A process that has no modules yet."""
    before, path = dict(node._state), list(sys.path)
    yield
    import shutil

    if node._state["folder"]:
        shutil.rmtree(node._state["folder"], ignore_errors=True)
    node._state.update(before)
    sys.path[:] = path
    for name in ("beside_one", "beside_two"):
        sys.modules.pop(name, None)


def test_a_process_imports_what_it_got_last(process: None) -> None:
    node.install({"beside_one.py": b"x = 1\n", "beside_two.py": b"y = 1\n"}, "first")
    one = importlib.import_module("beside_one")
    assert one.x == 1
    first = node._state["folder"]
    node.install({"beside_one.py": b"x = 1\n"}, "first")
    assert node._state["folder"] == first, "what is the same is not installed again"
    node.install({"beside_one.py": b"x = 2\n"}, "second")
    assert importlib.import_module("beside_one").x == 2
    assert not Path(first).exists()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("beside_two")


def test_a_module_of_the_same_name_that_belongs_to_the_machine_stays(process: None) -> None:
    import json

    node.install({"json.py": b"x = 1\n"}, "json")
    assert sys.modules["json"] is json
