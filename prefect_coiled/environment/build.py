"""Wheels of what no index has: the client's directories, repositories, and packages that are sources only.

Runs build tools on this machine, with this machine's access to repositories; talks to nobody else.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import sys
import tempfile
import zipfile
from importlib import util
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from prefect_coiled.environment.ignored import is_secret
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.module_places import module_name
from prefect_coiled.environment.records import Package, Wheel, normalized
from prefect_coiled.environment.sources import as_installed, backend_of, clone, copied, needs_copy
from prefect_coiled.environment.uv import run_uv
from prefect_coiled.errors import OptionsError

__all__ = ["build", "settled", "take_secrets_out", "wheel_of"]

_CHUNK = 1 << 20
_LOOKED_AT = 65536


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
        folder: Where the wheel is put.
        indexes: For what the build needs.
        source: Its sources, where they were fetched already.

    Raises:
        OptionsError: The build failed.
    """
    what = f"building a wheel of {package}"
    with tempfile.TemporaryDirectory(prefix="prefect-coiled-build-") as scratch:
        if source is None and package.origin == "vcs":
            source = clone(package, Path(scratch) / "clone", indexes)
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
        if source.is_dir() and package.origin == "directory" and needs_copy(source):
            source = copied(source, Path(scratch) / "copy")
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


def settled(wheel: Path, target: Path) -> Path:
    """The wheel with fixed times and order inside, so that its hash is that of its content."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in sorted(old.infolist(), key=lambda e: (".dist-info/" in e.filename, e.filename)):
            made = zipfile.ZipInfo(entry.filename, (2020, 2, 2, 0, 0, 0))
            made.external_attr = entry.external_attr
            made.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(made, old.read(entry))
    return target


def take_secrets_out(wheel: Path) -> tuple[str, ...]:
    """Remove from a wheel of a directory what may hold a secret: nobody has published that yet.

    Args:
        wheel: The file, which is written anew where there is something.

    Returns:
        What was removed.
    """
    with zipfile.ZipFile(wheel) as old:
        found = tuple(name for name in old.namelist() if _is_secret(old, name))
        if not found:
            return ()
        rough = wheel.with_name(f".{wheel.name}")
        with zipfile.ZipFile(rough, "w", zipfile.ZIP_STORED) as new:
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename.endswith(".dist-info/RECORD"):
                    rows = csv.reader(io.StringIO(content.decode()))
                    told = io.StringIO()
                    csv.writer(told, lineterminator="\n").writerows(
                        r for r in rows if r and r[0] not in found
                    )
                    content = told.getvalue().encode()
                if entry.filename not in found:
                    new.writestr(entry, content)
    settled(rough, wheel)
    rough.unlink()
    return found


def _is_secret(wheel: zipfile.ZipFile, name: str) -> bool:
    file = name.rpartition("/")[2]
    if not file or ".dist-info/" in name or module_name(file):
        return False
    with wheel.open(name) as content:
        return is_secret(file, content.read(_LOOKED_AT))


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
