"""What the client has installed, and where each package came from: reads the metadata of distributions."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib import metadata
from urllib.parse import urlsplit, urlunsplit

from prefect_coiled.environment.records import DISTRIBUTION, Environment, Package, normalized
from prefect_coiled.errors import OptionsError

__all__ = ["capture", "check_ignored", "without_user"]

# Tools that build an environment rather than belong to it; the machines bring their own.
_TOOLS = re.compile(r"^(pip|setuptools|wheel|uv|virtualenv|pkg-resources|distribute|conda.*|(lib)?mamba.*)$")
# What exists on Windows or macOS only, or stands for a library of conda's own.
_NOT_FOR_LINUX = re.compile(
    r"^(pywin32.*|pypiwin32|pywinpty|pyreadline3?|windows-curses|win32.*|win-inet-pton|wmi|colorama-win|"
    r"pyobjc.*|appnope|macholib|macfsevents|rumps|triton-windows)$"
)


def capture(
    distributions: Iterable[metadata.Distribution] | None = None,
    *,
    ignore: Sequence[str] = (),
    strict: bool = False,
) -> Environment:
    """List the client's installed distributions with their origins.

    Args:
        distributions: What to list; by default everything that is installed.
        ignore: Names of packages, or globs over them, that the machines shall not get.
        strict: Whether a package that Linux cannot have is an error rather than left out.

    Raises:
        OptionsError: `ignore` names this package itself, or `strict` forbids to leave something out.
    """
    ignored = check_ignored(ignore)
    packages: dict[str, Package] = {}
    left_out: dict[str, str] = {}
    for distribution in metadata.distributions() if distributions is None else distributions:
        # A broken .dist-info (left by an interrupted uninstall) has no name.
        raw_name = distribution.metadata["Name"] if distribution.metadata else None
        if not raw_name or not distribution.version:
            continue
        name = normalized(raw_name)
        # The first one on the path is the one that is imported.
        if name in packages or name in left_out or _TOOLS.match(name):
            continue
        if any(fnmatchcase(name, pattern) for pattern in ignored):
            left_out[name] = "package_sync_ignore"
        elif _NOT_FOR_LINUX.match(name):
            left_out[name] = "not for Linux"
        else:
            packages[name] = _package(name, distribution)
    foreign = sorted(name for name, why in left_out.items() if why == "not for Linux")
    if strict and foreign:
        raise OptionsError(
            f"package_sync_strict: {', '.join(foreign)}",
            "Linux machines cannot have what is made for another system",
            f"Leave it out: package_sync_ignore={foreign}.",
        )
    return Environment(
        python=platform.python_version(),
        platform=f"{sys.platform}-{platform.machine()}",
        packages=tuple(packages[name] for name in sorted(packages)),
        left_out=left_out,
    )


def check_ignored(ignore: Sequence[str]) -> tuple[str, ...]:
    """The patterns, normalised.

    Raises:
        OptionsError: It is no list of names, or one of them is this very package.
    """
    if isinstance(ignore, str) or not all(isinstance(name, str) and name for name in ignore):
        raise OptionsError(f"package_sync_ignore {ignore!r}", "it is a list of names of packages")
    patterns = tuple(re.sub(r"[-_.]+", "-", name).lower() for name in ignore)
    for needed in (DISTRIBUTION, "dask", "distributed"):
        if any(fnmatchcase(needed, pattern) for pattern in patterns):
            raise OptionsError(f"package_sync_ignore: {needed}", "no machine works without it")
    return patterns


def _package(name: str, distribution: metadata.Distribution) -> Package:
    # https://packaging.python.org/en/latest/specifications/direct-url/
    try:
        direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        direct = {}
    version = distribution.version
    # What conda builds says that it came from the directory of the machine that built it.
    if (distribution.read_text("INSTALLER") or "").strip() == "conda":
        return Package(name=name, version=version, origin="conda")
    url = without_user(str(direct.get("url", "")))
    place = {"url": url, "subdirectory": str(direct.get("subdirectory", ""))}
    vcs = direct.get("vcs_info")
    if vcs:
        commit = str(vcs.get("commit_id", ""))
        if vcs.get("vcs", "git") == "git" and commit:
            return Package(name=name, version=version, origin="vcs", commit=commit, **place)
    elif url.startswith(("http://", "https://")):
        return Package(name=name, version=version, origin="url", **place)
    elif url.startswith("file:") and "archive_info" in direct:
        return Package(name=name, version=version, origin="file", **place)
    elif url.startswith("file:"):
        editable = bool(direct.get("dir_info", {}).get("editable"))
        return Package(name=name, version=version, origin="directory", editable=editable, **place)
    return Package(name=name, version=version)


def without_user(url: str) -> str:
    """The address without user, password and query, which may hold a token."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
