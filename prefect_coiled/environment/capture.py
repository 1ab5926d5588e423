"""What the client has installed, and where each package came from: reads the metadata of distributions."""

from __future__ import annotations

import json
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from prefect_coiled.environment.distributions import Found, find
from prefect_coiled.environment.installed import Installed
from prefect_coiled.environment.records import DISTRIBUTION, Environment, Package, normal_version, normalized
from prefect_coiled.errors import OptionsError

# What manages conda's environments rather than belongs to one.
_OF_CONDA = re.compile(
    r"^(conda|conda-(anaconda-.*|build|content-trust|env|index|libmamba-solver|package-(handling|streaming)|"
    r"rattler-solver|repo-cli|standalone|token|verify)|(lib|micro)?mamba(py)?|boa|menuinst|navigator-updater|"
    r"anaconda-.*)\Z"
)
# Stand-ins that no index has: https://bugs.launchpad.net/ubuntu/+source/python-pip/+bug/1635463
_NOTHING = frozenset({"pkg-resources", "distribute"})
_EXTRA = re.compile(r"\bextra\s*==")
# What exists on Windows or macOS only, or stands for a library of conda's own.
_NOT_FOR_LINUX = re.compile(
    r"^(pywin32.*|pypiwin32|pywinpty|pyreadline3?|windows-curses|win32.*|win-inet-pton|wmi|colorama-win|"
    r"pyobjc.*|appnope|macholib|macfsevents|rumps|triton-windows)\Z"
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
        OptionsError: `ignore` names this package itself, or `strict` forbids to leave something out; or this
            Python is one that machines do not have.
    """
    ignored = check_ignored(ignore)
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise OptionsError(
            f"Python {platform.python_version()}, free-threaded",
            "machines have Python with its global lock, for which these packages are not made",
            f"Run the client with Python {'.'.join(platform.python_version_tuple()[:2])} without the t.",
        )
    packages: dict[str, Package] = {}
    left_out: dict[str, str] = {}
    installed, broken = find(distributions)
    for found in installed:
        name, package = found.name, _package(found)
        if any(fnmatchcase(name, pattern) for pattern in ignored):
            left_out[name] = "package_sync_ignore"
        elif name in _NOTHING and package.version.startswith("0"):
            left_out[name] = "it stands for a part of setuptools"
        elif package.origin == "conda" and _OF_CONDA.match(name):
            left_out[name] = "a tool of conda's own"
        elif _NOT_FOR_LINUX.match(name):
            left_out[name] = "not for Linux"
        else:
            packages[name] = package.model_copy(update={"requires": _requires(found)})
    left_out |= {name: why for name, why in broken.items() if name not in packages}
    foreign = sorted(name for name, why in left_out.items() if why == "not for Linux")
    if strict and foreign:
        raise OptionsError(
            f"package_sync_strict: {', '.join(foreign)}",
            "Linux machines cannot have what is made for another system",
            f"Leave it out: package_sync_ignore={foreign}.",
        )
    for told, modules in Installed().of_conda_alone().items() if distributions is None else ():
        name = normalized(told)
        if name in packages or name in left_out:
            continue
        ignores = any(fnmatchcase(name, pattern) for pattern in ignored)
        if strict and not ignores:
            raise OptionsError(
                f"package_sync_strict: {name}",
                f"only conda knows it, so machines lack what is imported here: {', '.join(modules)}",
                f"Install it from a package index, or leave it out: package_sync_ignore=[{name!r}].",
            )
        why = f"only conda knows it; machines cannot import {', '.join(modules)}"
        left_out[name] = "package_sync_ignore" if ignores else why
    return Environment(
        # A Python that was built of a state between two releases says so by a "+" at its end.
        python=platform.python_version().rstrip("+"),
        platform=f"{sys.platform}-{platform.machine()}",
        packages=tuple(packages[name] for name in sorted(packages)),
        left_out=left_out,
        ignored=ignored,
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


def _package(found: Found) -> Package:
    # https://packaging.python.org/en/latest/specifications/direct-url/
    name, version = found.name, normal_version(found.version)
    record = str(found.folder.absolute()) if found.folder is not None else ""
    if found.sources is not None:
        url = found.sources.as_uri()
        return Package(name=name, version=version, origin="directory", url=url, editable=True, record=record)
    try:
        direct = json.loads(found.text("direct_url.json") or "{}")
    except ValueError:
        direct = {}
    plain = Package(name=name, version=version, record=record)
    # What conda builds says that it came from the directory of the machine that built it.
    installer = found.text("INSTALLER").strip()
    if installer == "conda":
        return plain.model_copy(update={"origin": "conda"})
    if not isinstance(direct, dict) or not direct.get("url"):
        # Debian and its like say so, or leave no list of files.
        system = installer in ("debian", "rpm") or (found.folder is not None and _is_systems(found.folder))
        return plain.model_copy(update={"origin": "system"}) if system else plain
    url = without_secrets(str(direct["url"]))
    more: dict[str, object] = {"url": url, "subdirectory": str(direct.get("subdirectory", ""))}
    vcs = direct.get("vcs_info")
    if vcs:
        commit = str(vcs.get("commit_id", ""))
        if vcs.get("vcs", "git") == "git" and commit:
            more |= {"origin": "vcs", "commit": commit}
        else:
            more |= {"origin": "url"}
    elif url.startswith(("http://", "https://")):
        more["origin"] = "url"
    elif url.startswith("file:") and "archive_info" in direct:
        more["origin"] = "file"
    elif url.startswith("file:"):
        more |= {"origin": "directory", "editable": bool(direct.get("dir_info", {}).get("editable"))}
    return plain.model_copy(update=more)


def _requires(found: Found) -> tuple[str, ...]:
    # What an extra requires was installed here or was not: it is a package of its own.
    return tuple(r for r in found.requires if not _EXTRA.search(r.partition(";")[2]))


def _is_systems(folder: Path) -> bool:
    """Whether a record lies among the packages of the operating system, which says little of them."""
    return folder.parent.name == "dist-packages" and not (folder / "RECORD").is_file()


def without_secrets(url: str) -> str:
    """The address without password and query, which may hold a token; without the user too, but for SSH.

    With SSH the user is part of the address ("git@"), with HTTPS it may be a token.
    https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    user = user.partition(":")[0]
    keeps = at and user and parts.scheme in ("ssh", "git+ssh")
    return urlunsplit(parts._replace(netloc=f"{user}@{host}" if keeps else host, query=""))
