"""What the commands say of themselves, and how they refuse what they do not know."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prefect_coiled import __version__

from .conftest import run


def test_the_version_is_shown() -> None:
    assert run("--version").stdout == f"prefect-coiled {__version__}\n"


def test_the_help_lists_every_command() -> None:
    shown = run("--help").stdout
    for command in ("sandbox", "account", "ls", "stop", "logs", "dashboard", "sweep", "set-up", "check"):
        assert f"\n  {command} " in shown


def test_help_imports_neither_prefect_nor_boto3_nor_distributed() -> None:
    code = (
        "import sys; sys.argv = ['prefect-coiled', '--help']\n"
        "from prefect_coiled.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print(sorted({'prefect', 'boto3', 'distributed', 'moto'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments", [("stopp",), ("ls", "--regoin", "x"), ("stop",), ("logs", "a", "--tail", "many")]
)
def test_bad_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2
