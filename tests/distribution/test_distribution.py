"""What is published: a wheel and a source archive with the library, and nothing else."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds the checkout as of its last commit, tagged or not; gives the folder with the results."""

    def make(tag: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp("built")
        clone = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", "--no-tags", str(ROOT), str(clone)], check=True)
        if tag is not None:
            subprocess.run(["git", "-C", str(clone), "tag", tag], check=True)
        environ = {**os.environ, "UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
        command = [sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", str(folder / "dist")]
        subprocess.run([*command, str(clone)], check=True, env=environ)
        return folder / "dist"

    return make


@pytest.fixture(scope="module")
def built(build: Build) -> Path:
    return build("v9.8.7")


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (file,) = built.glob("*.whl")
    return zipfile.ZipFile(file)


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD", "prefect_coiled"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(listed.stdout.split())


def test_the_version_is_that_of_the_tag(built: Path) -> None:
    names = sorted(path.name for path in built.iterdir() if not path.name.startswith("."))
    assert names == ["prefect_dask_ec2-9.8.7-py3-none-any.whl", "prefect_dask_ec2-9.8.7.tar.gz"]


def test_the_wheel_holds_every_file_of_the_library_and_no_other(wheel: zipfile.ZipFile) -> None:
    names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert names == tracked()
    assert {"prefect_coiled/py.typed", "prefect_coiled/plan/user_data.sh"} <= names


def test_the_source_archive_holds_the_library_and_what_builds_it(built: Path) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    rest = {n for n in names if not n.startswith("prefect_coiled/")}
    assert names - rest == tracked()
    assert rest == {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO", ".gitignore"}


def test_blocks_and_commands_are_found_by_prefect_and_the_shell(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    assert "[prefect.collections]\nprefect_coiled = prefect_coiled.blocks" in text
    assert "prefect-coiled = prefect_coiled.cli.__main__:run" in text
    assert "prefect-coiled-node = prefect_coiled.node.main:main" in text


def test_the_sandbox_is_an_extra(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert {"sandbox", "dataframe"} <= set(metadata.get_all("Provides-Extra") or [])
    needed = metadata.get_all("Requires-Dist") or []
    assert not [n for n in needed if n.startswith("moto") and "extra ==" not in n]
    assert metadata["Requires-Python"] == ">=3.10,<3.15" or metadata["Requires-Python"] == "<3.15,>=3.10"


def documented_command() -> list[str]:
    """What the page says to type where nothing is to stay; from a checkout."""
    page = (ROOT / "docs" / "get-started.md").read_text()
    (line,) = re.findall(r"^uvx .*$", page, re.M)
    return shlex.split(line)


# It takes what is newest from the package index.
@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_runs_from_the_wheel_alone_by_the_documented_command(built: Path, tmp_path: Path) -> None:
    (file,) = built.glob("*.whl")
    wheel = f"prefect-dask-ec2[sandbox] @ {file.as_uri()}"
    command = [wheel if w == ".[sandbox]" else w for w in documented_command()]
    assert wheel in command
    home, empty = tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    empty.mkdir()
    # Of this machine: its certificates and indexes, and what uv has fetched before, as for a second `uvx`.
    kept = {k: v for k, v in os.environ.items() if k.startswith(("UV_", "SSL_")) or k.endswith("_proxy")}
    environ = {
        "UV_SYSTEM_CERTS": "1",
        "UV_NATIVE_TLS": "1",
        "UV_CACHE_DIR": str(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache" / "uv"),
        **kept,
        "UV_PYTHON": sys.executable,
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": os.environ["TMPDIR"],
        "PREFECT_COILED_SUITE": os.environ["PREFECT_COILED_SUITE"],
    }
    done = subprocess.run(command, cwd=empty, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = "78,498 primes below 1,000,000, counted by 2 workers in 16 tasks."
    assert answer in done.stdout.splitlines(), done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert list(empty.iterdir()) == []
