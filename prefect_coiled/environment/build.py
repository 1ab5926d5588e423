"""Wheels of what no index has: the client's directories, repositories, and packages that are sources only.

Runs build tools on this machine, with this machine's access to repositories; talks to nobody else.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Package, Wheel, normalized
from prefect_coiled.errors import OptionsError

__all__ = ["build", "find_uv", "run", "settled", "wheel_of"]

_SECONDS = 600
_CHUNK = 1 << 20


def find_uv() -> list[str]:
    """The command of uv: this environment's, or the machine's.

    Raises:
        OptionsError: There is none.
    """
    if util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    if found := shutil.which("uv"):
        return [found]
    raise OptionsError("uv", "it is not installed, and reads and builds the packages", "pip install uv")


def run(command: Sequence[str], what: str, indexes: Indexes, cwd: str | None = None) -> str:
    """Run a build tool; returns what it printed.

    Raises:
        OptionsError: It failed; with its last line, without credentials.
    """
    environ = {**os.environ, **indexes.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command,
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OptionsError(what, indexes.redacted(str(error))) from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        cause = next((x for x in lines if re.match(r"\s*(error|fatal|cause)\b", x)), lines[-1])
        raise OptionsError(what, indexes.redacted(cause.strip()))
    return done.stdout


def build(package: Package, folder: Path, indexes: Indexes, source: Path | None = None) -> Path:
    """Build the wheel of a package; the same sources give the same wheel.

    Args:
        package: From a directory, an archive or a repository.
        folder: Where the wheel is put.
        indexes: For what the build needs.
        source: Its sources, where they were fetched already.

    Raises:
        OptionsError: The build failed.
    """
    what = f"building a wheel of {package}"
    with tempfile.TemporaryDirectory(prefix="prefect-coiled-build-") as scratch:
        if source is None and package.origin == "vcs":
            source = _clone(package, Path(scratch) / "clone", indexes)
        elif source is None:
            source = Path(unquote(urlsplit(package.url).path))
        if not source.exists():
            raise OptionsError(
                what,
                f"{source} is not there any more",
                f"Leave it out: package_sync_ignore=[{package.name!r}].",
            )
        if source.suffix == ".whl":
            return source if source.parent == folder else Path(shutil.copy(source, folder))
        if package.subdirectory and source.is_dir():
            source = source / package.subdirectory
        out = Path(scratch) / "out"
        command = [*find_uv(), "build", "--quiet", "--wheel", "--no-config", "--python", sys.executable]
        try:
            run([*command, "--out-dir", str(out), str(source)], what, indexes)
        except OptionsError as error:
            d = error.diagnosis
            raise OptionsError(
                d.what, d.why, f"Mend it, or leave it out: package_sync_ignore=[{package.name!r}]."
            ) from None
        (made,) = out.glob("*.whl")
        return settled(made, folder / made.name)


def _clone(package: Package, clone: Path, indexes: Indexes) -> Path:
    what = f"fetching {package} from {package.url}"
    git = shutil.which("git")
    if git is None:
        raise OptionsError(what, "there is no git", "Install git, or a released version of it.")
    run([git, "clone", "--quiet", package.url, str(clone)], what, indexes)
    run([git, "-C", str(clone), "checkout", "--quiet", package.commit], what, indexes)
    run([git, "-C", str(clone), "submodule", "update", "--quiet", "--init", "--recursive"], what, indexes)
    return clone


def settled(wheel: Path, target: Path) -> Path:
    """The wheel with fixed times and order inside, so that its hash is that of its content."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in sorted(old.infolist(), key=lambda e: (".dist-info/" in e.filename, e.filename)):
            made = zipfile.ZipInfo(entry.filename, (2020, 2, 2, 0, 0, 0))
            made.external_attr = entry.external_attr
            made.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(made, old.read(entry))
    return target


def wheel_of(path: Path, url: str = "") -> Wheel:
    """What a wheel file is.

    Raises:
        OptionsError: It has no wheel's name.
    """
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise OptionsError(f"wheel {path.name}", str(error)) from error
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return Wheel(
        name=normalized(name),
        version=str(version),
        file=path.name,
        sha256=digest.hexdigest(),
        size=path.stat().st_size,
        url=url,
    )
