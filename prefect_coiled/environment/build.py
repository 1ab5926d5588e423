"""Wheels of what no index has: the client's directories, repositories, and packages that are sources only.

Runs build tools on this machine, with this machine's access to repositories; talks to nobody else.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
from importlib import util
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.records import Package, Wheel, is_version, normalized
from prefect_coiled.environment.rewrite import ignored_in, named, secrets_in, settled, take_out
from prefect_coiled.environment.sites import path_of
from prefect_coiled.environment.sources import as_installed, backend_of, clone, copied_beside, needs_copy
from prefect_coiled.environment.uv import run_uv
from prefect_coiled.errors import OptionsError

_CHUNK = 1 << 20


def _reason(said: str) -> str:
    """Why a build failed, in the words of what failed first: an exception, a compiler; else in uv's own."""
    own, failed, rest = said.partition("error: Failed to build")
    lines = [line.strip() for line in own.splitlines() if line.strip()]
    raised = [x for x in lines if re.match(r"(\w+\.)*\w*(Error|Exception|Exit)\b\s*:", x)]
    if raised:
        return raised[-1]
    if called := [x for x in lines if re.search(r"(^|\s)(fatal )?error\b.*:", x, re.IGNORECASE)]:
        return called[0]
    causes = [x.strip() for x in (rest if failed else own).splitlines() if x.strip()]
    causes = [x.removeprefix("cause: ") for x in causes if not x.startswith("hint:")]
    return " ".join(causes[-3:])[:400] or "no output"


def build(package: Package, folder: Path, indexes: Indexes, source: Path | None = None) -> Path:
    """Build the wheel of a package; the same sources give the same wheel, and nothing is left beside them.

    Args:
        package: From a directory, an archive or a repository.
        source: Its sources, where they were fetched already.

    Raises:
        OptionsError: The build failed.
    """
    what = f"building a wheel of {package}"
    with tempfile.TemporaryDirectory(prefix="prefect-coiled-build-") as scratch:
        if source is None and package.origin == "vcs":
            source = clone(package, Path(scratch) / "clone", indexes)
        elif source is None:
            source = path_of(package.url)
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
        if source.is_dir() and package.origin == "directory" and needs_copy(source):
            source = copied_beside(source, Path(scratch))
        try:
            made = _built(package, source, Path(scratch), what, indexes)
        except OptionsError as error:
            d = error.diagnosis
            raise OptionsError(
                d.what, d.why, f"Mend it, or leave it out: package_sync_ignore=[{package.name!r}]."
            ) from None
        return settled(made, folder / made.name)


def _built(package: Package, source: Path, scratch: Path, what: str, indexes: Indexes) -> Path:
    """Build as packages are built, else with what is installed here, as it may have been installed."""
    arguments = ["build", "--wheel", "--python", sys.executable]
    more = as_installed(package)

    def make(out: Path, *options: str) -> Path:
        command = [*arguments, *options, "--out-dir", str(out), str(source.absolute())]
        said = run_uv(command, indexes, what=what, environ=more)
        if said.code:
            raise OptionsError(what, _reason(said.error or said.out))
        (made,) = out.glob("*.whl")
        return made

    try:
        return make(scratch / "out")
    except OptionsError as error:
        if not _has_backend(source):
            raise
        try:
            return make(scratch / "out-with-environment", "--no-build-isolation")
        except OptionsError as second:
            first, other = error.diagnosis, second.diagnosis.why
            if other == first.why:
                raise error from None
            raise OptionsError(
                first.what, f"{first.why}; with what is installed here: {other}", first.next_step
            ) from None


def _has_backend(source: Path) -> bool:
    """Whether what builds it is installed here too."""
    if source.is_dir():
        backend = backend_of(source)
        try:
            return bool(backend) and util.find_spec(backend.partition(".")[0].partition(":")[0]) is not None
        except (ImportError, ValueError):
            return False
    return util.find_spec("setuptools") is not None


def as_of_directory(package: Package, wheel: Path, notes: list[str]) -> Path:
    """A wheel of the client's own directory as the machines get it; gives its path, which may be another.

    What may hold a secret, or is named by an ignore file of ours, is taken out. The directory may say another
    name or version by now than what is installed, which is what `importlib.metadata` says here.
    """
    secret = secrets_in(wheel)
    if secret:
        notes.append(f"{package}: not sent, as it may hold a secret: {', '.join(secret)}")
    if not package.editable:
        take_out(wheel, secret)
        return wheel
    ignored = ignored_in(wheel, path_of(package.url))
    if ignored:
        files = sorted(ignored)
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        by = ", ".join(sorted(set(ignored.values())))
        notes.append(f"{package}: not sent, by {by}: {', '.join(files[:3])}{more}")
    take_out(wheel, {*secret, *ignored})
    made = wheel_of(wheel)
    if (made.name, made.version) == (package.name, package.version) or not is_version(package.version):
        return wheel
    return named(wheel, package.name, package.version)


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
