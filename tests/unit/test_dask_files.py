"""A `coiled.yaml` that Dask cannot read is told by its name and its line, in Python and by the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WRONG = {
    b"\tcoiled: 1\n": "it is not YAML in line 1: found character",
    b"coiled:\n  a: b: c\n": "it is not YAML in line 2: mapping values are not allowed here",
    b"just text\n": "it has to be a mapping, and is a str.",
    b"- a\n": "it has to be a mapping, and is a list.",
    b"# f\xfcr alle\ncoiled: {}\n": "it is not text in UTF-8: see line 1.",
    b"coiled: {1: 2}\n": "1 in it is no name: names are texts.",
    b"coiled: {worker: {1: hunter2}}\n": "1 in it is no name",
    b"coiled: {account: 2026-99-99}\n": "it holds what YAML cannot mean.",
}
ASK = (
    ["-c", "from prefect_coiled import Cluster"],
    ["-c", "from prefect_coiled.cluster import Cluster"],
    ["-m", "prefect_coiled.cli", "policies", "setup"],
)
EACH = """
import json, sys
from prefect_coiled.dask_files import what_dask_cannot_read
print(json.dumps([str(what_dask_cannot_read({"DASK_CONFIG": one, "HOME": one})) for one in sys.argv[1:]]))
"""


def run(ask: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {"DASK_CONFIG": str(folder), "HOME": str(folder)}
    command = [sys.executable, *ask]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_a_file_that_dask_cannot_read_is_told_with_its_place_and_shows_nothing_of_it(tmp_path: Path) -> None:
    files = [tmp_path / str(n) / "coiled.yaml" for n in range(len(WRONG))]
    for file, text in zip(files, WRONG, strict=True):
        file.parent.mkdir()
        file.write_bytes(text)
    done = run(["-c", EACH, *(str(file.parent) for file in files)], tmp_path)
    assert "hunter2" not in done.stdout
    for file, said, told in zip(files, WRONG.values(), json.loads(done.stdout), strict=True):
        assert told.startswith(f"{file}: {said}")


@pytest.mark.parametrize("ask", ASK)
def test_whoever_comes_upon_one_is_told_in_one_line(ask: list[str], tmp_path: Path) -> None:
    file = tmp_path / "coiled.yaml"
    file.write_bytes(b"coiled: {worker: {1: hunter2}}\n")
    told = run(ask, tmp_path)
    assert told.returncode == 1
    assert f"{file}: 1 in it is no name" in told.stderr.splitlines()[-1]
    assert "hunter2" not in told.stderr
    if ask[0] == "-m":
        assert len(told.stderr.splitlines()) == 1


def test_a_file_that_is_right_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "coiled.yaml").write_text("coiled:\n  account: spare\n")
    told = run(["-c", "from prefect_coiled import Nothing"], tmp_path)
    assert "ImportError" in told.stderr
