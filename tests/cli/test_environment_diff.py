"""`prefect-coiled environment diff`: what machines would have otherwise, which imports would fail there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small environment of a user: this package without what it needs, and one from an index."""
    folder = tmp_path_factory.mktemp("user")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    install = [*uv, "pip", "install", "-q", "--link-mode", "copy", "--python", str(python)]
    subprocess.run([*install, "--no-deps", "six==1.17.0", "-e", str(ROOT)], check=True)
    # What runs the command is this suite's own; it is not on the list.
    site = next((folder / "venv/lib").glob("python*")) / "site-packages"
    (site / "suite.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    return folder


@pytest.fixture
def diff(user: Path, tmp_path: Path) -> Any:
    """Run the command in the user's environment, with only its own packages listed."""
    (site,) = (user / "venv/lib").glob("python*/site-packages")
    code = (
        "import sys\n"
        "from importlib import metadata\n"
        "listed = metadata.distributions\n"
        f"metadata.distributions = lambda **k: listed(path=[{str(site)!r}])\n"
        "from prefect_coiled.cli import app\n"
        "app(['environment', 'diff', *sys.argv[1:]])\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [str(user / "venv/bin/python"), "-c", code, *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)

    return run


def test_the_environment_of_the_demo_has_no_difference(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("prefect-coiled")), "environment", "diff"]
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^0 differences in \d{2,} packages", done.stdout)


def test_an_environment_that_is_as_it_was_installed_has_no_difference(diff: Any) -> None:
    done = diff()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differences in 2 packages" in done.stdout


def test_one_changed_file_of_a_package_is_found_whatever_its_time_says(diff: Any, user: Path) -> None:
    (six,) = user.glob("venv/lib/python*/site-packages/six.py")
    before, times = six.read_text(), six.stat()
    assert diff("--json").stdout.strip() == "[]"
    six.write_text(before.replace("1.17.0", "1.17.9"))
    os.utime(six, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        done = diff("--json")
    finally:
        six.write_text(before)
    assert done.returncode == 1
    (change,) = json.loads(done.stdout)
    assert (change["package"], change["files"], change["machines"]) == ("six", ["six.py"], "as here")


def test_imports_of_a_script_that_would_fail_on_the_machines_are_named(diff: Any, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    script = tmp_path / "project/flow.py"
    (tmp_path / "project/beside.py").write_text("import colorama_of_nobody\nimport six\n")
    script.write_text(
        "import json\nimport six\nimport beside\nimport prefect_coiled\n"
        "try:\n    import ujson_of_nobody\nexcept ImportError:\n    pass\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import types_of_nobody\n"
        "def late():\n    import numpy_of_nobody.linalg\n"
    )
    done = diff(str(script), "--json")
    assert done.returncode == 1, done.stderr
    assert {c["package"]: c["files"] for c in json.loads(done.stdout)} == {
        "colorama_of_nobody": ["beside.py"],
        "numpy_of_nobody": ["flow.py"],
    }
    shutil.rmtree(tmp_path / "project")


def test_what_is_left_out_is_a_difference_and_its_imports_are_named(diff: Any, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("import six\n")
    done = diff(str(tmp_path / "flow.py"), "--ignore", "six", "--json")
    told = [(c["package"], c["what"]) for c in json.loads(done.stdout)]
    assert told == [
        ("six", "left out: package_sync_ignore"),
        ("six", "imported by flow.py; nothing that the machines get has it"),
    ]


@pytest.mark.parametrize(("text", "said"), [(None, "no such file"), ("def (", "it is no Python")])
def test_a_script_that_is_none_is_told(diff: Any, tmp_path: Path, text: str | None, said: str) -> None:
    script = tmp_path / "flow.py"
    if text is not None:
        script.write_text(text)
    done = diff(str(script))
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())
