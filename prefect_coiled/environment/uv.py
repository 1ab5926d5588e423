"""Runs uv as a library of ours: it knows what it is told here, and nothing of its user's settings.

The only place where uv is started. Secrets go into its environment, never into an argument or a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module, util
from pathlib import Path
from typing import NamedTuple

from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.uv_settings import environ_of
from prefect_coiled.errors import OptionsError

_SECONDS = 600


class Said(NamedTuple):
    """What uv said.

    Attributes:
        code: Its status: 1 is a failure of what was asked, 2 one of the way there
            (https://docs.astral.sh/uv/reference/cli/).
        error: What it complained of, without credentials.
    """

    code: int
    out: str
    error: str


class Place(NamedTuple):
    """Where uv is started.

    Attributes:
        environ: All variables of its process; hold credentials.
    """

    folder: Path
    environ: Mapping[str, str]


def find_uv() -> list[str]:
    """The command of uv: this environment's, or the machine's.

    Raises:
        OptionsError: There is none.
    """
    if util.find_spec("uv"):
        try:
            # What `python -m uv` runs. The module may be there without the program: on PYTHONPATH, or copied.
            return [str(import_module("uv").find_uv_bin())]
        except (ImportError, AttributeError, OSError):
            pass
    if found := shutil.which("uv"):
        return [found]
    raise OptionsError("uv", "it is not installed, and reads and builds the packages", "pip install uv")


@contextmanager
def prepared(indexes: Indexes, files: Mapping[str, str] | None = None) -> Iterator[Place]:
    """A working directory for uv with the indexes as its only configuration, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="prefect-coiled-uv-") as folder:
        place = Path(folder)
        for name, text in {"uv.toml": indexes.text, **(files or {})}.items():
            (place / name).write_text(text, encoding="utf-8")
        # The file that is named is read instead of the project's, the user's and the system's.
        own = {"UV_CONFIG_FILE": str(place / "uv.toml"), "GIT_TERMINAL_PROMPT": "0"}
        own["PYTHONDONTWRITEBYTECODE"] = "1"  # a build leaves nothing in the folders that it reads
        environ = {**environ_of(os.environ), **indexes.environ, **own}
        yield Place(place, environ)


def run_uv(
    arguments: Sequence[str],
    indexes: Indexes,
    *,
    what: str = "asking the package index",
    input: str | None = None,
    files: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    seconds: float = _SECONDS,
) -> Said:
    """Run uv in a working directory of its own.

    Args:
        arguments: Of its command line; none of them may be secret, and paths are absolute.
        what: What it is run for, for the error.
        input: What it reads from its standard input.

    Raises:
        OptionsError: It does not start, or takes too long.
    """
    with prepared(indexes, files) as place:
        try:
            done = subprocess.run(
                [*find_uv(), *arguments],
                cwd=place.folder,
                env={**place.environ, **(environ or {})},
                input=input or "",
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OptionsError(what, f"uv did not end within {seconds:.0f} s", "Try again.") from None
        except OSError as error:
            raise OptionsError(what, indexes.redacted(str(error))) from None
    if done.returncode:
        _check_cache(place.environ)
    return Said(done.returncode, done.stdout, indexes.redacted(done.stderr))


def _check_cache(environ: Mapping[str, str]) -> None:
    """Say of a folder that uv cannot keep anything in, before its index is blamed.

    Raises:
        OptionsError: It cannot be made: https://docs.astral.sh/uv/concepts/cache/.
    """
    if os.name != "posix":
        return
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = environ.get("UV_CACHE_DIR") or os.path.join(cache, "uv")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        why = f"cannot be made: {error.strerror or error}."
        raise OptionsError(f"folder {folder}", why, "Set XDG_CACHE_HOME to a folder of your own.") from error
