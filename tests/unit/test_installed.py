"""Which modules belong to installed packages: records, editable checkouts by their backends, strays."""

from __future__ import annotations

import json
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import dask
import pytest

import prefect_coiled.records
from prefect_coiled.environment.capture import capture
from prefect_coiled.environment.installed import Installed
from prefect_coiled.environment.module_places import find
from prefect_coiled.environment.projects import start_folder
from prefect_coiled.errors import OptionsError
from prefect_coiled.node.packages import imported_from


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "env/site-packages"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "src").mkdir(parents=True)
    return folder


def editable(site: Path, checkout: Path, files: dict[str, str], project: str = "") -> Installed:
    """What pip leaves of an editable install, with a backend's own files."""
    (checkout / "pyproject.toml").write_text(f'[project]\nname = "My-Pkg"\n{project}')
    info = site / "my_pkg-1.dist-info"
    info.mkdir()
    url = {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(url))
    for name, text in files.items():
        (site / name).write_text(text)
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in (*files, f"{info.name}/RECORD")))
    return Installed([str(site)])


def test_python_s_own_and_what_is_installed_belongs_to_it() -> None:
    installed = Installed()
    for module in (json, dask, prefect_coiled.records):
        assert installed.owns(Path(str(module.__file__)), module.__name__)
    root = Path(__file__).parents[2]
    assert not installed.owns(root / "flows/quickstart.py", "quickstart")
    assert not installed.owns(root / "tests/unit/test_installed.py", "tests.unit.test_installed")


def test_a_project_below_python_s_prefix_is_not_python_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Installed().owns(Path(sys.prefix) / "src/app/own.py", "own")


def test_a_checkout_s_own_package_is_installed_and_helpers_in_its_root_are_not(
    site: Path, checkout: Path
) -> None:
    installed = editable(site, checkout, {"_my_pkg.pth": str(checkout)})
    assert installed.owns(checkout / "my_pkg/a.py", "my_pkg.a")
    assert not installed.owns(checkout / "helpers.py", "helpers")
    assert not installed.owns(checkout / "flows/etl.py", "flows.etl")


def test_all_of_a_checkout_s_src_is_installed_and_its_root_is_not(site: Path, checkout: Path) -> None:
    installed = editable(site, checkout, {"_my_pkg.pth": str(checkout / "src")})
    assert installed.owns(checkout / "src/whatever/a.py", "whatever.a")
    assert not installed.owns(checkout / "helpers.py", "helpers")


@pytest.mark.parametrize(
    "project",
    [
        '[tool.hatch.build.targets.wheel]\npackages = ["lib/other"]\n',
        '[tool.setuptools]\npackages = ["other.sub"]\n',
        '[tool.setuptools]\npy-modules = ["other"]\n',
        '[tool.poetry]\npackages = [{include = "other"}]\n',
        '[tool.flit.module]\nname = "other"\n',
        '[tool.uv.build-backend]\nmodule-name = ["other"]\n',
    ],
)
def test_what_a_project_s_settings_name_is_its_own(site: Path, checkout: Path, project: str) -> None:
    installed = editable(site, checkout, {"_my_pkg.pth": str(checkout)}, project)
    assert installed.owns(checkout / "other/a.py", "other.a")
    assert not installed.owns(checkout / "my_pkg.py", "my_pkg")


@pytest.mark.parametrize(
    "finder",
    [
        "MAPPING: dict[str, str] = {'other': '/x/other'}\n",
        "from editables import x\nF.map_module('other', '/x/other/__init__.py')\n",
        "install({'other.core': '/x/core.py'}, {}, None)\n",
    ],
    ids=["setuptools", "editables", "scikit-build-core"],
)
def test_what_a_finder_names_is_installed(site: Path, checkout: Path, finder: str) -> None:
    files = {"__editable__.my_pkg.pth": "import my_finder\n", "my_finder.py": finder}
    installed = editable(site, checkout, files)
    assert installed.owns(checkout / "other/a.py", "other.a")
    assert not installed.owns(checkout / "helpers.py", "helpers")


def test_a_folder_that_somebody_s_own_pth_file_names_is_not_installed(site: Path, checkout: Path) -> None:
    (site / "mine.pth").write_text(str(checkout))
    assert not Installed([str(site), str(checkout)]).owns(checkout / "own.py", "own")


def test_a_development_install_is_told_by_its_link(site: Path, checkout: Path) -> None:
    (site / "my-pkg.egg-link").write_text(f"{checkout}\n.\n")
    (checkout / "my_pkg.egg-info").mkdir()
    (checkout / "my_pkg.egg-info/top_level.txt").write_text("other\n")
    installed = Installed([str(site), str(checkout)])
    assert installed.owns(checkout / "other/a.py", "other.a")
    assert not installed.owns(checkout / "helpers.py", "helpers")


def test_an_egg_info_alone_installs_nothing(site: Path, checkout: Path) -> None:
    (checkout / "my_pkg.egg-info").mkdir()
    (checkout / "my_pkg.egg-info/top_level.txt").write_text("other\n")
    assert not Installed([str(site), str(checkout)]).owns(checkout / "other/a.py", "other.a")


def test_what_was_copied_beside_packages_belongs_to_none(site: Path) -> None:
    info = site / "known-1.dist-info"
    info.mkdir()
    (info / "RECORD").write_text('known/__init__.py,,\n"a,b.py",,\nknown-1.dist-info/RECORD,,\n')
    installed = Installed([str(site)])
    assert installed.owns(site / "known/__init__.py", "known")
    assert installed.owns(site / "_virtualenv.py", "_virtualenv")
    assert installed.owns(site / "known/_vendored/other.py", "other"), "what it brings along is its own"
    assert not installed.owns(site / "copied.py", "copied")


def test_of_packages_whose_records_say_nothing_what_has_their_name_or_is_compiled_is_theirs(
    site: Path,
) -> None:
    # As conda's packages of which Python knows nothing, beside one that distutils installed years ago.
    (site / "Py-Thing-1.0.egg-info").write_text("Name: Py-Thing\n")
    (site / "compiled").mkdir()
    (site / f"compiled/part{EXTENSION_SUFFIXES[0]}").touch()
    installed = Installed([str(site)])
    assert installed.owns(site / "py_thing/__init__.py", "py_thing")
    assert installed.owns(site / "compiled/__init__.py", "compiled")
    assert installed.owns(site / "sitecustomize.py", "sitecustomize")
    assert not installed.owns(site / "copied.py", "copied")


@pytest.fixture
def conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of packages of an environment of conda's, which has one that Python has no record of."""
    folder = tmp_path / "conda/lib/python3.11/site-packages"
    (folder / "bound").mkdir(parents=True)
    (tmp_path / "conda/conda-meta").mkdir()
    (tmp_path / "conda/conda-meta/broken-1.json").write_text("[")
    files = [f"lib/python3.11/site-packages/{file}" for file in ("bound/__init__.py", "bound_too.py")]
    record = {"name": "bindings", "files": ["lib/libbound.so", *files]}
    (tmp_path / "conda/conda-meta/bindings-1-0.json").write_text(json.dumps(record))
    (folder / "bound/__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    return folder


def test_what_conda_put_among_packages_is_no_module_of_the_user_s(conda: Path) -> None:
    installed = Installed([str(conda)])
    assert installed.owns(conda / "bound/__init__.py", "bound")
    assert installed.owns(conda / "bound_too.py", "bound_too")
    assert not installed.owns(conda / "copied.py", "copied")


def test_what_only_conda_knows_is_named_if_it_is_imported(
    conda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "bindings" not in capture().left_out
    module = ModuleType("bound")
    module.__file__ = str(conda / "bound/__init__.py")
    monkeypatch.setitem(sys.modules, "bound", module)
    assert capture().left_out["bindings"] == "only conda knows it; machines cannot import bound"
    assert capture(ignore=["bind*"], strict=True).left_out["bindings"] == "package_sync_ignore"
    with pytest.raises(OptionsError, match=r"lack what is imported here: bound.*ignore=\['bindings'\]"):
        capture(strict=True)


def test_a_target_folder_of_pip_is_one_of_packages(tmp_path: Path) -> None:
    folder = tmp_path / "vendored"
    (folder / "known-1.dist-info").mkdir(parents=True)
    (folder / "known-1.dist-info/RECORD").write_text("known.py,,\n")
    installed = Installed([str(folder)])
    assert installed.owns(folder / "known.py", "known")
    assert not installed.owns(folder / "own.py", "own")


def test_packages_below_an_overlay_that_a_line_of_code_puts_on_the_path_are_installed(tmp_path: Path) -> None:
    # As `uv run --with` does.
    base, overlay = (tmp_path / name / "lib/python3/site-packages" for name in ("base", "overlay"))
    for place, name in ((base, "one"), (overlay, "two")):
        (place / f"{name}-1.dist-info").mkdir(parents=True)
        (place / f"{name}-1.dist-info/RECORD").write_text(f"{name}.py,,\n")
    (overlay / "_overlay.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n")
    installed = Installed([str(overlay), str(base)])
    assert installed.owns(base / "one.py", "one")
    assert installed.owns(overlay / "two.py", "two")


def test_a_module_that_a_finder_alone_knows_is_found_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of meson-python's editable installs: the package's folder is none."""
    files = {
        "hooked_own": "__init__.py",
        "hooked_own.deep": "deep/__init__.py",
        "hooked_own.deep.a": "deep/a.py",
    }
    root = tmp_path / "src/hooked_own"
    for file in files.values():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            if name not in files:
                return None
            return spec_from_file_location(
                name, root / files[name], submodule_search_locations=["/no/folder/hooked_own"]
            )

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    for file in files.values():
        assert imported_from(f"hooked_own/{file}") == root / file
    assert imported_from("hooked_own/absent.py") is None


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = find().aliases
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OptionsError, match="working directory"):
        start_folder({}, None)
    monkeypatch.setattr(sys, "path", ["", tmp_path, *sys.path])
    assert Installed().owns(Path(dask.__file__), "dask")
    assert find().aliases == before
