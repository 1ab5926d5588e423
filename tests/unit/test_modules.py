"""Which modules a program has of its own, and what of them travels."""

from __future__ import annotations

import cProfile
import importlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prefect_coiled.environment import modules
from prefect_coiled.environment.build import wheel_of
from prefect_coiled.environment.ignored import is_secret
from prefect_coiled.environment.installed import Installed
from prefect_coiled.environment.modules_wheel import write_wheel
from prefect_coiled.errors import OptionsError

ROOT = Path(__file__).parents[2]
Write = Callable[[dict[str, str]], None]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def write(project: Path) -> Write:
    def put(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return put


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A program whose script lies nowhere, with no modules but those that a test gives it."""
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    before, path, entries = set(sys.modules), sys.path, list(sys.path)
    monkeypatch.chdir(nowhere)
    monkeypatch.setattr(
        sys, "path", [p for p in sys.path if p and not Path(p).is_relative_to(ROOT / "tests")]
    )
    if str(ROOT) in sys.path:
        sys.path.remove(str(ROOT))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", f"{sys.prefix}/bin/prefect", raising=False)
    installed = Installed()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and isinstance(file, str) and not installed.owns(Path(file), name):
            monkeypatch.delitem(sys.modules, name)
    yield monkeypatch
    # `syspath_prepend` puts back the list that it found, which is not the first one. Processes that start
    # later, such as those of other tests' clusters, are given what is on it.
    monkeypatch.undo()
    path[:] = entries
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)) or name.startswith("own_"):
            del sys.modules[name]


def run(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    """Let a file be the script, as Python does."""
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.syspath_prepend(str(script.parent))


def packed() -> list[str]:
    return sorted(modules.gather().files)


def test_a_script_brings_the_modules_and_packages_beside_it_and_nothing_else(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            "flow.py": "",
            "own_helpers.py": "x = 1\n",
            "not-a-module.py": "",
            "notes.txt": "",
            "own_pkg/__init__.py": "",
            "own_pkg/inner/data.json": "{}",
            "own_pkg/inner/__pycache__/a.pyc": "",
            "own_pkg/__init__.pyc": "",
            "own_pkg/bought.pyc": "the module itself: its source is not here",
            "own_pkg/.git/config": "",
            "plain/a.py": "",
            "venv/pyvenv.cfg": "",
            "venv/__init__.py": "",
            "node_modules/__init__.py": "",
        }
    )
    run(program, project / "flow.py")
    of_package = ["own_pkg/__init__.py", "own_pkg/bought.pyc", "own_pkg/inner/data.json"]
    assert packed() == ["flow.py", "own_helpers.py", *of_package]
    assert modules.gather().files["own_helpers.py"] == b"x = 1\n"
    assert modules.gather().names == ["flow", "own_helpers", "own_pkg"]


@pytest.mark.parametrize("file", ["mod.py", "", None, 7, "/nowhere/at/all/mod.py"])
def test_an_odd_module_stops_nothing(
    project: Path, write: Write, program: pytest.MonkeyPatch, file: object
) -> None:
    write({"flow.py": ""})
    run(program, project / "flow.py")
    odd = ModuleType("own_vendored.pkg.mod")  # of a package that is not imported
    odd.__file__ = file  # type: ignore[assignment]
    program.setitem(sys.modules, "own_vendored.pkg.mod", odd)
    assert packed() == ["flow.py"]


def test_what_is_imported_travels_wherever_it_was_found_and_its_package_travels_whole(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            "a/own_one.py": "",
            "a/not_imported.py": "",
            "b/own_space/inner/used.py": "",
            "b/own_space/inner/later.py": "",
            "b/own_space/inner/rows.csv": "1\n",
            "b/pydevd_of_an_editor.py": "",
        }
    )
    program.syspath_prepend(str(project / "a"))
    program.syspath_prepend(str(project / "b"))
    importlib.import_module("own_one")
    importlib.import_module("own_space.inner.used")
    importlib.import_module("pydevd_of_an_editor")
    inner = "own_space/inner"
    assert packed() == ["own_one.py", f"{inner}/later.py", f"{inner}/rows.csv", f"{inner}/used.py"]


def test_what_code_imports_later_travels_too_from_wherever_it_will_be_found(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            "flow.py": "def task():\n    import own_first\n",
            "lib/own_first/a.py": "def f():\n    from own_second import x\n",
            "lib/own_second.py": "import json, numpy\n",
            "lib/own_third.py": "",
        }
    )
    run(program, project / "flow.py")
    program.syspath_prepend(str(project / "lib"))
    assert packed() == ["flow.py", "own_first/a.py", "own_second.py"]


@pytest.mark.parametrize("other", ["own_conf.py", "own_conf/__init__.py"])
@pytest.mark.parametrize("imports", ["import own_conf", "", "now"])
def test_of_several_of_a_name_the_one_travels_that_the_search_path_leads_to(
    project: Path, write: Write, program: pytest.MonkeyPatch, imports: str, other: str
) -> None:
    """A script puts a folder before its own, as for settings of a test or of a customer."""
    write({"flow.py": "" if imports == "now" else f"def task():\n    {imports or 'pass'}\n"})
    write({other: "x = 'beside'\n", "over/own_conf.py": "x = 'first'\n", "own_conf_of_all.py": ""})
    run(program, project / "flow.py")
    program.syspath_prepend(str(project / "over"))
    if imports == "now":
        importlib.import_module("own_conf")
    found = modules.gather().files
    assert sorted(found) == ["flow.py", "own_conf.py", "own_conf_of_all.py"]
    assert found["own_conf.py"] == b"x = 'first'\n"


def test_of_a_package_that_is_imported_nothing_of_another_one_of_its_name_travels(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"flow.py": "import own_conf\n", "own_conf/__init__.py": "", "own_conf/extra.py": ""})
    write({"over/own_conf/__init__.py": "x = 'first'\n"})
    run(program, project / "flow.py")
    program.syspath_prepend(str(project / "over"))
    importlib.import_module("own_conf")
    program.setattr(sys, "path", [p for p in sys.path if not p.endswith("over")])
    assert packed() == ["flow.py", "own_conf/__init__.py"]


@pytest.mark.parametrize("imported", [None, "own_space.one"])
@pytest.mark.parametrize("init", ["", "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"])
def test_all_portions_of_a_package_travel_wherever_they_lie(
    project: Path, write: Write, program: pytest.MonkeyPatch, init: str, imported: str | None
) -> None:
    inits = {f"{folder}/own_space/__init__.py": init for folder in "abc"} if init else {}
    if init and imported is None:
        pytest.skip("what such a package joins is known when it is imported")
    write({"flow.py": "def task():\n    from own_space.two.inner import x\n", **inits})
    write({"a/own_space/one.py": "", "b/own_space/two/inner.py": "x = 1\n", "c/own_space/data.txt": ""})
    run(program, project / "flow.py")
    for folder in "cba":
        program.syspath_prepend(str(project / folder))
    if imported:
        importlib.import_module(imported)
    found = [path for path in packed() if path.endswith(("one.py", "inner.py"))]
    assert found == ["own_space/one.py", "own_space/two/inner.py"]


def test_what_is_its_own_of_a_package_that_is_partly_installed_travels(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            "flow.py": "def task():\n    import own_team.reports.daily\n",
            "own_team/reports/daily.py": "",
            "env/site-packages/own_team/core.py": "",
            "env/site-packages/own_team_core-1.dist-info/RECORD": "own_team/core.py,,\n",
        }
    )
    run(program, project / "flow.py")
    program.setattr(sys, "path", [*sys.path, str(project / "env/site-packages")])
    importlib.import_module("own_team.core")
    assert packed() == ["flow.py", "own_team/reports/daily.py"]


def test_a_script_that_a_tool_runs_brings_what_lies_beside_it(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    """Of `python -m cProfile flow.py` the main module is cProfile's own, before Python 3.12."""
    write({"flow.py": "def task():\n    import own_near\n", "own_near.py": ""})
    run(program, project / "flow.py")
    program.setattr(sys.modules["__main__"], "__file__", cProfile.__file__)
    program.setattr(sys, "argv", [str(project / "flow.py"), "--day", "today"])
    assert packed() == ["flow.py", "own_near.py"]


@pytest.mark.parametrize("relative", [False, True])
def test_the_script_of_a_process_that_multiprocessing_started_travels_under_the_name_that_it_has(
    project: Path, write: Write, program: pytest.MonkeyPatch, relative: bool
) -> None:
    """As of a `ProcessPoolExecutor`: what the script defines is of a module that no file is named as."""
    write({"flow.py": "from .near import x\n" if relative else "import near\n", "near.py": "x = 1\n"})
    run(program, project / "flow.py")
    spawned = ModuleType("__mp_main__")
    spawned.__file__ = str(project / "flow.py")
    program.setitem(sys.modules, "__mp_main__", spawned)
    inside = ["__mp_main__/__init__.py", "__mp_main__/flow.py", "__mp_main__/near.py"]
    assert packed() == [*(inside if relative else ["__mp_main__.py"]), "flow.py", "near.py"]


def test_the_script_of_a_process_that_only_imported_multiprocessing_travels_once(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"flow.py": "import multiprocessing\n"})
    run(program, project / "flow.py")
    program.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])
    assert packed() == ["flow.py"]


def test_a_command_that_multiprocessing_started_anew_does_not_travel(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"bin/serve": "", "bin/python": ""})
    spawned = ModuleType("__mp_main__")
    spawned.__file__ = str(project / "bin/serve")
    program.setitem(sys.modules, "__mp_main__", spawned)
    assert packed() == []


def test_a_folder_of_the_name_of_python_makes_no_script_beside_it_a_command(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"flow.py": "", "own_helpers.py": "", "python/notes.txt": "", "python3": "no program"})
    run(program, project / "flow.py")
    assert packed() == ["flow.py", "own_helpers.py"]
    (project / "python3").chmod(0o755)
    assert packed() == []


def test_the_root_of_what_runs_with_m_is_the_one_above_its_package(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"flows/etl.py": "", "own_common.py": ""})
    run(program, project / "flows/etl.py")
    spec = spec_from_file_location("flows.etl", project / "flows/etl.py")
    program.setattr(sys.modules["__main__"], "__spec__", spec)
    program.syspath_prepend(str(project))
    assert "own_common.py" in packed()


def test_a_notebook_brings_what_lies_in_its_folder(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"own_helpers.py": ""})
    program.delattr(sys.modules["__main__"], "__file__")
    program.setattr(sys, "path", ["", *sys.path])
    program.chdir(project)
    assert packed() == ["own_helpers.py"]


def test_a_zip_archive_on_the_path_is_unpacked(project: Path, program: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(project / "lib.zip", "w") as archive:
        archive.writestr("own_zipped/__init__.py", "x = 1\n")
        archive.writestr("own_zipped/rows.csv", "1\n")
        archive.writestr("other.py", "")
    program.syspath_prepend(str(project / "lib.zip"))
    importlib.import_module("own_zipped")
    assert packed() == ["own_zipped/__init__.py", "own_zipped/rows.csv"]


def test_any_archive_on_the_path_and_a_folder_in_one_is_unpacked(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    # A wheel that nobody installed, and an archive whose modules lie in a folder of it.
    with zipfile.ZipFile(project / "own_wheel-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("own_wheel.py", "x = 1\n")
        archive.writestr("own_bought.pyc", "compiled, without its source")
        archive.writestr("own_wheel-1.0.dist-info/METADATA", "Name: own-wheel\nVersion: 1.0\n")
    with zipfile.ZipFile(project / "libs.bin", "w") as archive:
        archive.writestr("python/own_inside/__init__.py", "")
        archive.writestr("python/own_inside/rows.csv", "1\n")
        archive.writestr("python/own_later.py", "")
        archive.writestr("python/own_never.py", "")
        archive.writestr("own_outside.py", "")
    program.syspath_prepend(str(project / "own_wheel-1.0-py3-none-any.whl"))
    program.syspath_prepend(str(project / "libs.bin/python"))
    importlib.import_module("own_wheel")
    importlib.import_module("own_inside")
    write({"flow.py": "def task():\n    import own_later, own_bought\n"})
    run(program, project / "flow.py")
    wanted = ["flow.py", "own_inside/__init__.py", "own_inside/rows.csv", "own_later.py", "own_wheel.py"]
    assert packed() == sorted([*wanted, "own_bought.pyc"])
    assert modules.gather().files["own_inside/rows.csv"] == b"1\n"


def test_beside_a_script_is_where_its_link_leads_to(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"real/flow.py": "", "real/own_near.py": "", "bin/own_other.py": ""})
    (project / "bin/job.py").symlink_to("../real/flow.py")
    program.setattr(sys.modules["__main__"], "__file__", str(project / "bin/job.py"), raising=False)
    program.syspath_prepend(str(project / "real"))  # as Python does
    assert packed() == ["flow.py", "own_near.py"]


def test_a_module_under_another_name_than_its_file_s_travels_under_the_name_that_it_has(
    project: Path, write: Write
) -> None:
    write({"flows/queue.py": "from .near import x\n", "flows/near.py": "x = 1\n"})
    for name, source in {"__prefect_loader_1f__": "queue.py", "own_plain": "near.py"}.items():
        spec = spec_from_file_location(
            name,
            project / "flows" / source,
            submodule_search_locations=[str(project / "flows")] if source == "queue.py" else None,
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    package = "__prefect_loader_1f__"
    try:
        assert [p for p in packed() if p.startswith(package)] == [
            f"{package}/__init__.py",
            f"{package}/near.py",
            f"{package}/queue.py",
        ]
        assert "own_plain.py" in packed()
    finally:
        for name in [n for n in sys.modules if n.startswith(package)]:
            del sys.modules[name]


def test_a_file_that_no_import_could_name_travels_under_the_name_that_it_was_loaded_by(
    project: Path, write: Write
) -> None:
    """As a flow from "my-flow.py:report", or a plug-in."""
    write({"flows/my-flow.py": "x = 1\n"})
    spec = spec_from_file_location("own_loaded", project / "flows/my-flow.py")
    assert spec is not None
    sys.modules["own_loaded"] = module_from_spec(spec)
    try:
        assert [p for p in packed() if p.startswith("own_loaded")] == ["own_loaded.py"]
    finally:
        del sys.modules["own_loaded"]


def test_a_module_with_the_name_of_a_standard_one_stays_and_is_refused_where_it_took_its_place(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"flow.py": "import queue, wave\n", "queue.py": "", "types.py": "", "wave.py": ""})
    run(program, project / "flow.py")
    assert packed() == ["flow.py"]
    program.delitem(sys.modules, "wave", raising=False)
    importlib.import_module("wave")
    try:
        with pytest.raises(OptionsError, match=r"module 'wave' .*a module of Python's own.*Rename it"):
            modules.gather()
    finally:
        del sys.modules["wave"]


def test_a_module_with_the_name_of_a_package_that_the_program_uses_stays(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"flow.py": "import dask\n", "dask.py": "", "own_helpers.py": ""})
    run(program, project / "flow.py")
    assert packed() == ["flow.py", "own_helpers.py"]


def test_what_is_installed_editable_travels_as_it_is_now_beside_its_wheel(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            "env/site-packages/own_pkg-1.dist-info/direct_url.json": json.dumps(
                {"url": project.as_uri(), "dir_info": {"editable": True}}
            ),
            "env/site-packages/own_pkg-1.dist-info/RECORD": "own.pth,,\n",
            "env/site-packages/own.pth": str(project / "src"),
            "src/own_pkg/__init__.py": "",
            f"src/own_pkg/fast{EXTENSION_SUFFIXES[0]}": "",
        }
    )
    program.syspath_prepend(str(project / "env/site-packages"))
    program.syspath_prepend(str(project / "src"))
    importlib.import_module("own_pkg")
    found = modules.gather()
    assert sorted(found.files) == [], "its wheel is none of the modules"
    assert sorted(found.editable) == ["own_pkg/__init__.py"]


# What stays


def test_secrets_stay_and_are_named_and_certificates_travel(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            "own_pkg/__init__.py": "",
            "own_pkg/.env": "TOKEN=1",
            "own_pkg/prod.env": "TOKEN=1",
            "own_pkg/server.key": "",
            "own_pkg/id_rsa": "",
            "own_pkg/bundle.pem": "-----BEGIN CERTIFICATE-----\n-----BEGIN RSA PRIVATE KEY-----\n",
            "own_pkg/ca.pem": "-----BEGIN CERTIFICATE-----\n",
        }
    )
    program.syspath_prepend(str(project))
    importlib.import_module("own_pkg")
    found = modules.gather()
    assert sorted(found.files) == ["own_pkg/__init__.py", "own_pkg/ca.pem"]
    assert sorted(p.name for p in found.secrets) == [".env", "bundle.pem", "id_rsa", "prod.env", "server.key"]


def test_a_secret_stays_behind_a_link_and_in_an_archive_too(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"own_pkg/__init__.py": "", ".env": "TOKEN=1", "home/.aws/config": "x", "home/plain/data.txt": "x"})
    (project / "own_pkg/settings.txt").symlink_to(project / ".env")
    (project / "own_pkg/cloud").symlink_to(project / "home/.aws")
    (project / "own_pkg/plain").symlink_to(project / "home/plain")
    with zipfile.ZipFile(project / "libs.zip", "w") as archive:
        archive.writestr("zipped_own/__init__.py", "")
        archive.writestr("zipped_own/.env", "TOKEN=1")
        archive.writestr("zipped_own/data.txt", "x")
    program.syspath_prepend(str(project))
    program.syspath_prepend(str(project / "libs.zip"))
    importlib.import_module("own_pkg")
    importlib.import_module("zipped_own")
    found = modules.gather()
    assert sorted(found.files) == [
        "own_pkg/__init__.py",
        "own_pkg/plain/data.txt",
        "zipped_own/__init__.py",
        "zipped_own/data.txt",
    ]
    assert sorted(p.name for p in found.secrets) == [".env", "config", "settings.txt"]


def test_a_link_that_leads_back_brings_nothing_of_what_it_leads_to(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"own_pkg/__init__.py": "", "data/large.bin": "x", "other.py": ""})
    (project / "own_pkg/up").symlink_to("..")
    program.syspath_prepend(str(project))
    importlib.import_module("own_pkg")
    assert sorted(modules.gather().files) == ["own_pkg/__init__.py"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gcp.json", '{"type": "service_account", "private_key": "x"}'),
        ("adc.json", '{"type": "authorized_user", "refresh_token": "x"}'),
        ("aws.txt", "[default]\naws_secret_access_key = x"),
        ("docker.json", '{"auths": {"host": {"auth": "dXNlcjpwYXNzd29yZA=="}}}'),
        ("logins", "machine host login me password x"),
        ("notes.txt", f"ghp_{'a' * 36}"),
        ("deploy", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        ("client_secret_1.apps.json", "{}"),
        ("my-service-account-key.json", "{}"),
        ("prod.tfvars", ""),
        ("passwords.csv", ""),
        ("db_password", ""),
        ("secrets.yaml.bak", ""),
    ],
)
def test_a_file_is_known_for_a_secret_by_its_name_or_by_what_it_holds(name: str, content: str) -> None:
    assert is_secret(name, content.encode())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("secretary.txt", "of state"),
        ("schema.json", '{"refresh_token": {"type": "string"}}'),
        ("tokens.txt", "a b c"),
        ("secrets.py", ""),
        ("native.bin", "\0 -----BEGIN PRIVATE KEY-----"),
        ("keyboard.json", "{}"),
        ("settings.toml", "debug = true"),
    ],
)
def test_what_only_sounds_like_one_is_none(name: str, content: str) -> None:
    assert not is_secret(name, content.encode())


def test_a_file_whose_name_is_no_line_of_text_stays(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"own_pkg/__init__.py": "", "own_pkg/a,b.txt": "", "own_pkg/two\nlines.txt": ""})
    (Path(os.fsdecode(os.fsencode(project / "own_pkg") + b"/\xff.txt"))).touch()
    program.syspath_prepend(str(project))
    importlib.import_module("own_pkg")
    found = modules.gather()
    assert sorted(found.files) == ["own_pkg/__init__.py", "own_pkg/a,b.txt"]
    wheel = write_wheel(found.files, project)
    assert wheel is not None
    with zipfile.ZipFile(wheel) as file:
        listed = file.read(next(n for n in file.namelist() if n.endswith("/RECORD"))).decode()
    assert '"own_pkg/a,b.txt",,' in listed.splitlines()


def test_what_gitignore_says_stays_unless_the_program_imported_it_and_ours_holds_for_all(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            ".git/config": "",
            ".gitignore": "_version.py\n*.csv\nscratch/\n",
            "own_pkg/.gitignore": "!kept.csv\n",
            "own_pkg/__init__.py": "from . import _version\n",
            "own_pkg/_version.py": "",
            "own_pkg/kept.csv": "",
            "own_pkg/dropped.csv": "",
            "own_pkg/scratch/a.py": "",
            "own_pkg/weights/w.bin": "",
        }
    )
    program.syspath_prepend(str(project))
    importlib.import_module("own_pkg")
    expected = ["own_pkg/__init__.py", "own_pkg/_version.py", "own_pkg/kept.csv", "own_pkg/weights/w.bin"]
    assert packed() == expected
    write({".coiledignore": "weights/\n_version.py\n"})
    assert packed() == ["own_pkg/__init__.py", "own_pkg/kept.csv"]
    left_out = {path.name: why for path, why in modules.gather().left_out.items()}
    assert left_out["weights"] == f"by {project / '.coiledignore'}"
    assert left_out["dropped.csv"] == f"by {project / '.gitignore'}"


def test_what_git_tracks_travels_though_an_ignore_file_names_it(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            ".gitignore": "data/\n*.csv\n",
            "own_pkg/__init__.py": "",
            "own_pkg/data/kept.json": "",
            "own_pkg/data/scratch.json": "",
            "own_pkg/kept.csv": "",
            "own_pkg/scratch.csv": "",
        }
    )
    # As in a hook of another repository, which Git tells by variables.
    subprocess.run(["git", "init", "--quiet", str(project.parent / "other")], check=True)
    for command in (["init", "--quiet"], ["add", "--force", "own_pkg/data/kept.json", "own_pkg/kept.csv"]):
        subprocess.run(["git", "-C", str(project), *command], check=True)
    program.setenv("GIT_DIR", str(project.parent / "other/.git"))
    program.syspath_prepend(str(project))
    importlib.import_module("own_pkg")
    assert packed() == ["own_pkg/__init__.py", "own_pkg/data/kept.json", "own_pkg/kept.csv"]
    program.setattr("shutil.which", lambda *_: None)
    assert packed() == ["own_pkg/__init__.py"], "without Git its ignore files decide"


def test_a_folder_of_a_package_travels_though_builds_make_one_of_its_name(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            "flow.py": "def task():\n    import build, own_pkg\n",
            "build/lib/own_old.py": "",
            "own_pkg/__init__.py": "",
            "own_pkg/dist/normal.py": "",
            "own_pkg/build/steps.json": "",
        }
    )
    run(program, project / "flow.py")
    of_package = ["own_pkg/__init__.py", "own_pkg/build/steps.json", "own_pkg/dist/normal.py"]
    assert packed() == ["flow.py", *of_package]
    assert modules.gather().left_out[project / "build"] == "a build makes a folder of that name"
    write({"build/own_steps.py": ""})
    importlib.import_module("build.own_steps")
    assert packed() == ["build/lib/own_old.py", "build/own_steps.py", "flow.py", *of_package]


def test_what_a_program_has_in_addition_comes_to_what_was_sent_which_stays(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({".git/config": "", ".gitignore": "made.py\n"})
    write({"own_pkg/__init__.py": "x = 1\n", "own_pkg/made.py": ""})
    program.syspath_prepend(str(project))
    importlib.import_module("own_pkg")
    sent = modules.gather()
    assert sorted(sent.files) == ["own_pkg/__init__.py"]
    write({"own_pkg/__init__.py": "x = 2\n"})
    importlib.import_module("own_pkg.made")
    more = sent.with_more(modules.gather())
    assert more.files == {"own_pkg/__init__.py": b"x = 1\n", "own_pkg/made.py": b""}


def test_what_an_environment_in_the_project_s_own_folder_has_git_ignore_travels(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write(
        {
            "pyvenv.cfg": "",
            ".gitignore": "*\n",
            "flow.py": "",
            "own_helpers.py": "",
            "own_pkg/__init__.py": "",
        }
    )
    run(program, project / "flow.py")
    assert packed() == ["flow.py", "own_helpers.py", "own_pkg/__init__.py"]


def test_links_to_nowhere_are_passed_by_and_links_to_files_and_folders_are_followed(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"own_pkg/__init__.py": "", "elsewhere/one.py": "", "elsewhere/rows.csv": ""})
    os.symlink("someone@host.1:2", project / "own_pkg/.#one.py")
    os.symlink("/nowhere/at/all", project / "own_pkg/gone.csv")
    os.symlink(project / "elsewhere", project / "own_pkg/linked")
    os.symlink(project / "own_pkg", project / "elsewhere/round")
    os.mkfifo(project / "own_pkg/pipe")
    os.mkfifo(project / "own_pkg/pipe.py")
    os.mkfifo(project / ".gitignore")
    program.syspath_prepend(str(project))
    importlib.import_module("own_pkg")
    assert packed() == ["own_pkg/__init__.py", "own_pkg/linked/one.py", "own_pkg/linked/rows.csv"]


def test_what_is_compiled_for_another_system_stays(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    fast = f"own_fast{EXTENSION_SUFFIXES[0]}"
    write({"flow.py": "", fast: ""})
    run(program, project / "flow.py")
    assert packed() == ["flow.py", fast]
    program.setattr(sys, "platform", "darwin")
    assert packed() == ["flow.py"]
    assert "compiled for darwin" in modules.gather().left_out[project / fast]


def test_what_is_too_large_is_named_with_the_line_that_leaves_it_out(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"own_pkg/__init__.py": "", "own_pkg/data/w/a.bin": "12345", "own_pkg/data/w/b.bin": "12345"})
    program.setattr(modules, "_MOST_BYTES", 9)
    program.syspath_prepend(str(project))
    importlib.import_module("own_pkg")
    with pytest.raises(OptionsError) as refused:
        modules.gather()
    heavy, ignore_file = str(project / "own_pkg/data/w"), str(project / ".coiledignore")
    assert heavy in str(refused.value)
    assert f"a line 'own_pkg/data/w/' in {ignore_file}" in str(refused.value)
    assert "package_sync_ignore=['prefect-coiled-modules']" in str(refused.value)
    write({".coiledignore": "own_pkg/data/w/\n"})
    assert packed() == ["own_pkg/__init__.py"]


def test_a_large_neighbour_that_nothing_imports_stays_and_is_named(
    project: Path, write: Write, program: pytest.MonkeyPatch
) -> None:
    write({"flow.py": "", "own_large/__init__.py": "", "own_large/a.bin": "1" * 50, "own_small.py": ""})
    program.setattr(modules, "_MOST_BYTES", 9)
    run(program, project / "flow.py")
    assert packed() == ["flow.py", "own_small.py"]
    assert "too much" in modules.gather().left_out[project / "own_large"]


def test_the_wheel_of_modules_is_the_same_for_the_same_modules(tmp_path: Path) -> None:
    files = {"own_pkg/__init__.py": b"", "own_a.py": b"x = 1\n"}
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first = write_wheel(files, folders[0])
    second = write_wheel(dict(reversed(files.items())), folders[1])
    assert first is not None
    assert second is not None
    assert wheel_of(first) == wheel_of(second)
    assert wheel_of(first).name == modules.NAME
    assert write_wheel({}, tmp_path) is None


def test_a_link_onto_itself_and_a_folder_that_is_closed_keep_nothing_from_travelling(
    program: pytest.MonkeyPatch, project: Path, write: Write
) -> None:
    write({"job.py": "import own_helper", "own_helper.py": "", "pgdata/PG_VERSION": "16"})
    (project / "loop.py").symlink_to(project / "loop.py")
    closed, stat = project / "pgdata", os.stat

    def denied(path: Any, *args: Any, **more: Any) -> Any:
        if not isinstance(path, int) and closed in Path(os.fsdecode(path)).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **more)

    run(program, project / "job.py")
    importlib.import_module("own_helper")
    with program.context() as patch:
        patch.setattr(os, "stat", denied)
        found = modules.gather()
    assert "own_helper.py" in found.files
    assert "loop.py" not in found.files


def test_of_a_folder_and_an_archive_the_first_on_the_search_path_is_sent(
    program: pytest.MonkeyPatch, project: Path, write: Write
) -> None:
    write({"own_ns/shared.py": "WHO = 'folder'", "own_ns/one.py": ""})
    archive = project.parent / "second.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in {"own_ns/shared.py": "WHO = 'zip'", "own_ns/two.py": "", "own_ns/": ""}.items():
            file.writestr(name, text)
    program.syspath_prepend(str(archive))
    program.syspath_prepend(str(project))
    for name in ("one", "two", "shared"):
        module = importlib.import_module(f"own_ns.{name}")
    assert module.WHO == "folder"
    assert modules.gather().files["own_ns/shared.py"] == b"WHO = 'folder'"
