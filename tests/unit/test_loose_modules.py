"""What only this machine has travels by value; what is installed, by its name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import dask
import pytest

import prefect_coiled.records
from prefect_coiled.task_runner.loose_modules import is_loose, send_by_value


@pytest.mark.parametrize("module", [prefect_coiled.records, dask, sys, subprocess, sys.modules[__name__]])
def test_what_is_installed_or_python_s_own_is_not_loose(module: object) -> None:
    assert not is_loose(module)  # type: ignore[arg-type]


def test_a_script_and_its_neighbour_work_where_they_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loose_neighbour.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "loose_script.py").write_text(
        "from loose_neighbour import double\n\nclass Answer(int): ...\n\n"
        "def answer(x):\n    return Answer(double(x))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    script = importlib.import_module("loose_script")
    try:
        assert is_loose(script)
        send_by_value()
        data = cloudpickle.dumps(script.answer)
        code = "import sys, cloudpickle; print(cloudpickle.loads(bytes.fromhex(sys.stdin.read()))(21))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=data.hex(),
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "42\n"
        # What comes back is of the class that went out.
        assert type(cloudpickle.loads(cloudpickle.dumps(script.Answer(1)))) is script.Answer
    finally:
        for name in ("loose_script", "loose_neighbour"):
            module = sys.modules.pop(name)
            if name in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.unregister_pickle_by_value(module)
