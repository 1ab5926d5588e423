"""A `coiled.yaml` that Dask cannot read is told by its name and its line, in Python and by the commands."""

from __future__ import annotations

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
    ["-m", "prefect_coiled.cli", "policies", "setup"],
)


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_dask_cannot_read_is_told_in_one_line_with_its_place(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "coiled.yaml"
    file.write_bytes(text)
    for ask in ASK:
        told = subprocess.run(
            [sys.executable, *ask],
            env={"DASK_CONFIG": str(tmp_path), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert told.returncode == 1
        assert f"{file}: {WRONG[text]}" in told.stderr.splitlines()[-1]
        assert "hunter2" not in told.stderr
        if ask[0] == "-m":
            assert len(told.stderr.splitlines()) == 1


def test_a_file_that_is_right_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "coiled.yaml").write_text("coiled:\n  account: spare\n")
    told = subprocess.run(
        [sys.executable, "-c", "from prefect_coiled import Nothing"],
        env={"DASK_CONFIG": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "ImportError" in told.stderr
