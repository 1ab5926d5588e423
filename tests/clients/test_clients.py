"""Environments made by the tools that people use: what machines would get of each is what is installed there.

Each test makes a project with its tool and has a script in it do what a cluster does before its launch. Needs
a package index; a tool or a Python that is not here, or does not work here, is skipped, and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uv

ROOT = Path(__file__).resolve().parents[2]
# Not `python -m uv`, which tells what it starts that this suite's environment is active.
UV = [uv.find_uv_bin()]
SCRIPT = """
import json
from prefect_coiled.environment import capture, lock
from prefect_coiled.environment.compare import against_lock
from prefect_coiled.environment.target import Target
import six

environment = capture()
locked = lock(environment, Target(environment.python))
try:
    told = {
        "python": environment.python,
        "packages": {w.name: w.version for w in locked.lock.wheels},
        "changes": [f"{c.package}: {c.what}" for c in against_lock(environment, locked)],
        "six": six.__version__,
    }
finally:
    locked.discard()
print("TOLD", json.dumps(told))
"""


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A wheel of this library, as an index would give it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*UV, "build", "-q", "--wheel", "--out-dir", folder, ROOT], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    return str(wheel)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run a command in the project; gives what it printed."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environ = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    environ |= {"POETRY_VIRTUALENVS_IN_PROJECT": "1", "PDM_CHECK_UPDATE": "0", "PYTHONUNBUFFERED": "1"}

    def runs(*command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    return runs


def told(printed: str) -> dict[str, Any]:
    """What the script said."""
    (line,) = [line for line in printed.splitlines() if line.startswith("TOLD ")]
    found: dict[str, Any] = json.loads(line.removeprefix("TOLD "))
    return found


def check(printed: str, *left: str) -> dict[str, Any]:
    """All packages are locked as they are here, but for those that are said."""
    found = told(printed)
    assert found["packages"]["six"] == found["six"]
    assert {"dask", "distributed", "prefect-dask-ec2"} <= set(found["packages"])
    assert [c for c in found["changes"] if not c.startswith(left)] == [], found["changes"]
    return found


def pyproject(folder: Path, package: str, extra: str = "") -> None:
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "of-a-user"\nversion = "0.1"\nrequires-python = ">=3.10,<3.15"\n'
        f'dependencies = ["six>=1.16", "prefect-dask-ec2 @ {Path(package).as_uri()}"]\n{extra}'
    )


def python_of(version: str) -> str:
    """An interpreter of this version, if one is here."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    if own := sorted(pyenv.glob(f"{version}.*/bin/python")):
        return str(own[-1])
    found = subprocess.run(
        [*UV, "python", "find", "--no-project", "--no-python-downloads", version],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.skip(f"no Python {version} is here")
    return found.stdout.strip()


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_uv_pip_with_each_python(run: Any, package: str, tmp_path: Path, version: str) -> None:
    python = python_of(version)
    run(*UV, "venv", "-q", "--python", python, ".venv")
    run(*UV, "pip", "install", "-q", "--python", ".venv/bin/python", package, "six")
    assert check(run(".venv/bin/python", "script.py"))["python"].startswith(version)


def test_venv_and_pip(run: Any, package: str, tmp_path: Path) -> None:
    pyproject(tmp_path, package)
    # pip alone tries one boto3 after the other for minutes, so it is told what uv finds.
    run(*UV, "pip", "compile", "-q", "--no-header", "--no-annotate", "pyproject.toml", "-o", "found.txt")
    run(sys.executable, "-m", "venv", ".venv")
    install = (".venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(*install, "-r", "found.txt")
    assert "pip" in check(run(".venv/bin/python", "script.py"))["packages"]


def test_uv_project(run: Any, package: str, tmp_path: Path) -> None:
    pyproject(tmp_path, package)
    run(*UV, "sync", "-q", "--python", sys.executable)
    check(run(*UV, "run", "-q", "script.py"))


def test_uv_project_with_a_package_of_its_own(run: Any, package: str, tmp_path: Path) -> None:
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    build += "[tool.hatch.metadata]\nallow-direct-references = true\n"
    pyproject(tmp_path, package, build)
    (tmp_path / "of_a_user").mkdir()
    (tmp_path / "of_a_user/__init__.py").write_text("")
    run(*UV, "sync", "-q", "--python", sys.executable)
    assert "of-a-user" in check(run(*UV, "run", "-q", "script.py"))["packages"]


def test_uv_run_with_a_package_over_an_environment(run: Any, package: str, tmp_path: Path) -> None:
    pyproject(tmp_path, package)
    run(*UV, "sync", "-q", "--python", sys.executable)
    printed = run(*UV, "run", "-q", "--with", "six==1.16.0", "--with", "toolz==0.12.1", "script.py")
    found = check(printed)
    assert (found["six"], found["packages"]["toolz"]) == ("1.16.0", "0.12.1")


def test_a_script_with_its_requirements_inside(run: Any, package: str, tmp_path: Path) -> None:
    needs = ["six==1.16.0", f"prefect-dask-ec2 @ {Path(package).as_uri()}"]
    head = f"# /// script\n# dependencies = {json.dumps(needs)}\n# ///\n"
    (tmp_path / "script.py").write_text(head + SCRIPT)
    assert check(run(*UV, "run", "-q", "--script", "script.py"))["six"] == "1.16.0"


def test_uvx(run: Any, package: str) -> None:
    check(run(*UV, "tool", "run", "-q", "--from", package, "--with", "six", "python", "script.py"))


@pytest.mark.parametrize(
    ("tool", "install"),
    [("poetry", ("install", "--no-interaction")), ("pdm", ("install", "--no-self"))],
)
def test_poetry_and_pdm(run: Any, package: str, tmp_path: Path, tool: str, install: tuple[str, ...]) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "of-a-user"\nversion = "0.1"\nrequires-python = ">=3.10,<3.15"\n'
        'dependencies = ["six>=1.16"]\n[tool.poetry]\npackage-mode = false\n'
        # The simple interface, which mirrors have as well.
        '[[tool.poetry.source]]\nname = "simple"\nurl = "https://pypi.org/simple/"\npriority = "primary"\n'
    )
    try:
        run(*UV, "tool", "run", "-q", tool, *install)
    except AssertionError as error:
        pytest.skip(f"{tool} cannot install six here: {str(error).strip().splitlines()[-1][:200]}")
    run(*UV, "pip", "install", "-q", "--python", ".venv/bin/python", package)
    check(run(".venv/bin/python", "script.py"))


def test_the_packages_of_the_system_below(run: Any, package: str) -> None:
    system = shutil.which("python3", path="/usr/bin")
    if system is None or not Path("/usr/lib/python3/dist-packages").is_dir():
        pytest.skip("no Python of the system is here")
    run(*UV, "venv", "-q", "--python", system, "--system-site-packages", ".venv")
    run(*UV, "pip", "install", "-q", "--python", ".venv/bin/python", package, "six")
    found = told(run(".venv/bin/python", "script.py"))
    assert found["packages"]["six"] == found["six"]
    # What the system alone has is left out by name or is the same release with the system's own changes.
    told_apart = ("left out", "released", "do not get it")
    assert [c for c in found["changes"] if not any(word in c for word in told_apart)] == []


def test_a_notebooks_kernel(run: Any, package: str, tmp_path: Path) -> None:
    run(*UV, "venv", "-q", "--python", sys.executable, ".venv")
    run(*UV, "pip", "install", "-q", "--python", ".venv/bin/python", package, "six", "ipykernel", "nbclient")
    cell = {
        "cell_type": "code",
        "id": "a",
        "metadata": {},
        "source": SCRIPT,
        "outputs": [],
        "execution_count": None,
    }
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}
    (tmp_path / "book.ipynb").write_text(json.dumps(book))
    code = (
        "import nbclient, nbformat\n"
        "book = nbformat.read('book.ipynb', 4)\n"
        "nbclient.execute(book, timeout=300)\n"
        "print(book.cells[0].outputs[0].text)\n"
    )
    assert "ipykernel" in check(run(".venv/bin/python", "-c", code))["packages"]
