"""What the commands say of themselves, and how they refuse what they do not know."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from prefect_coiled import __version__

from .conftest import run


def test_the_version_is_shown() -> None:
    assert run("--version").stdout == f"prefect-coiled {__version__}\n"


def test_the_help_lists_every_command() -> None:
    shown = run("--help").stdout
    for command in ("sandbox", "account", "ls", "stop", "logs", "dashboard", "sweep", "setup", "check"):
        assert f"\n  {command} " in shown


def test_a_command_that_has_another_name_by_now_still_works_and_is_not_listed() -> None:
    assert "\n  set-up " not in run("--help").stdout
    older, now = (run(*words, "--help").stdout for words in (("set-up",), ("setup", "region")))
    assert now.startswith("Usage: prefect-coiled setup region")
    assert older.split("\n\n")[1:3] == now.split("\n\n")[1:3]


# What takes a tenth of a second and more to import, or is the first step to what does.
HEAVY = [
    "aiobotocore",
    "asyncio",
    "bokeh",
    "boto3",
    "botocore",
    "cryptography",
    "dask",
    "distributed",
    "fastapi",
    "fsspec",
    "httpx",
    "moto",
    "numpy",
    "pandas",
    "prefect",
    "prefect_aws",
    "prefect_dask",
    "psutil",
    "rich",
    "sqlalchemy",
    "tornado",
    "uv",
    "werkzeug",
    "yaml",
]
_EVERY_HELP = """
import contextlib, io, sys
from prefect_coiled.cli.__main__ import app
from typer.main import get_command

def look(*words):
    heavy = set(sys.argv[1:]) & set(sys.modules)
    for module in sys.modules:
        package, _, rest = module.partition(".")
        if package == "prefect_coiled" and rest.split(".")[0] not in ("", "cli", "errors", "install"):
            heavy.add(module)
    if heavy:
        sys.exit(f"{' '.join(words)} imports {sorted(heavy)}")

def show(command, path=()):
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        app([*path, "--help"], prog_name="prefect-coiled")
    assert "Usage: prefect-coiled" in shown.getvalue(), path
    look(*path, "--help")
    for name, inner in getattr(command, "commands", {}).items():
        show(inner, (*path, name))
    print(*path)

with contextlib.suppress(SystemExit):
    app(["--version"], prog_name="prefect-coiled")
look("--version")
show(get_command(app))
"""


def test_the_help_of_no_command_imports_anything_heavy() -> None:
    typer_version = tuple(int(n) for n in version("typer").split(".")[:2])
    heavy = [m for m in HEAVY if m != "rich" or typer_version >= (0, 24)]  # before, typer itself imports it
    done = subprocess.run(
        [sys.executable, "-c", _EVERY_HELP, *heavy], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"ls", "account list", "setup aws", "demo", ""} <= set(done.stdout.split("\n"))


def test_a_command_that_asks_no_api_does_not_import_prefect(tmp_path: Path) -> None:
    script = """
import contextlib, sys
from prefect_coiled.cli.__main__ import app
with contextlib.suppress(SystemExit):
    app(["sandbox", "status"], prog_name="prefect-coiled")
sys.exit("it imports prefect" if "prefect" in sys.modules else 0)
"""
    environ = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [("stopp",), ("ls", "--regoin", "x"), ("stop",), ("logs", "a", "--tail", "many")]
)
def test_bad_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["destroy", "my-team"], "There is `prefect-coiled account destroy`."),
        (["start"], "There is `prefect-coiled sandbox start`."),
        (["setup", "my-team"], "There is `prefect-coiled setup aws --account my-team`."),
        (["setup", "check"], "There is `prefect-coiled check`."),
        (["version"], "There is `prefect-coiled --version`."),
        (["lss"], "Did you mean 'ls'?"),
        (["policies", "ongoin"], "': 'ongoin' is not one of 'setup', "),
        (["role"], "attach-policy"),
        (["--", "-x"], "No such"),
        (["setup", ""], "No such command ''."),
    ],
)
def test_a_word_that_is_no_command_leads_to_the_one_that_was_meant(words: list[str], said: str) -> None:
    ended = run(*words)
    assert ended.exit_code == 2
    assert said in ended.output
    assert "Value error" not in ended.output


@pytest.mark.parametrize("words", [[], ["ls"], ["account"], ["account", "list"]])
def test_the_short_word_for_help_is_taken_everywhere(words: list[str]) -> None:
    short, long = (run(*words, option) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
