"""Wheels of what the client has installed from its own directories, which no index has.

Reads the directories and runs a build tool; talks to nobody else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata, util
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prefect_coiled.environment import LocalPackage
from prefect_coiled.errors import OptionsError

__all__ = ["build_wheels", "wheels_key"]

_SECONDS = 300


def build_wheels(packages: Iterable[str]) -> dict[str, bytes]:
    """Build a wheel of each local package.

    Args:
        packages: As `environment.client_packages()` gives them; others than local ones are left alone.

    Returns:
        The wheels' content by file name.

    Raises:
        OptionsError: There is neither uv nor pip, or a build failed.
    """
    names = [str(p).partition("==")[0] for p in packages if isinstance(p, LocalPackage)]
    if not names:
        return {}
    with tempfile.TemporaryDirectory(prefix="prefect-coiled-wheels-") as folder:
        for name in names:
            _build(name, folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.whl"))}


def wheels_key(wheels: dict[str, bytes]) -> str:
    """A short hash of the wheels: the same files have the same one.

    Wheels hold the times of their files, so a rebuild of changed sources has another one.
    """
    digest = hashlib.sha256()
    for name in sorted(wheels):
        digest.update(name.encode() + b"\0" + hashlib.sha256(wheels[name]).digest())
    return digest.hexdigest()[:16]


def _build(name: str, folder: str) -> None:
    direct = json.loads(metadata.distribution(name).read_text("direct_url.json") or "{}")
    source = unquote(urlsplit(str(direct.get("url", ""))).path)
    if uv := _uv():
        own = ["--python", sys.executable, "--out-dir", folder]
        command = [*uv, "build", "--quiet", "--wheel", *own, source]
    elif util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip"]
        command = [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    else:
        raise OptionsError(
            f"package {name}",
            "it is installed from a directory, and there is neither uv nor pip to build it with",
            "Run `pip install uv`, or install a released version of it.",
        )
    # uv trusts the machine's own certificates only when told to; pip does by itself.
    environ = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1", **os.environ}
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OptionsError(f"package {name}", f"building its wheel from {source} failed: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise OptionsError(f"package {name}", f"building its wheel from {source} failed: {last}")


def _uv() -> list[str] | None:
    """The command of uv: this environment's, which may be none of the path's, or the machine's."""
    if util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    found = shutil.which("uv")
    return [found] if found else None
