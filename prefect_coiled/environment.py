"""The client's own packages, as pinned requirements that a machine can install.

Pure: reads the metadata of what is installed, and imports neither prefect nor boto3.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable
from importlib import metadata
from urllib.parse import urlsplit, urlunsplit

__all__ = ["DISTRIBUTION", "LocalPackage", "client_packages", "python_version"]

DISTRIBUTION = "prefect-dask-ec2"

# Tools that build an environment rather than belong to it, and what exists on one platform only.
_LEFT_OUT = re.compile(
    r"^(pip|setuptools|wheel|uv|virtualenv|pkg-resources|distribute|conda.*|mamba|"
    r"pywin32.*|pypiwin32|pywinpty|pyreadline3?|windows-curses|win32.*|wmi|colorama-win|"
    r"pyobjc.*|appnope|macholib|"
    r"triton-windows|intel-.*|mkl.*|tbb)$"
)


class LocalPackage(str):
    """A pinned requirement of a package that was installed from a directory of the client.

    No index has it; a machine can install it only from a wheel that was put where it can fetch it.
    """

    __slots__ = ()


def client_packages(distributions: Iterable[metadata.Distribution] | None = None) -> list[str]:
    """List the client's installed distributions as pinned requirements, sorted by name.

    Args:
        distributions: What to list; by default everything that is installed.

    Returns:
        Lines such as "dask==2026.1.0", or "x @ git+https://...@commit" for what came from a repository.
        What was installed from a directory is a `LocalPackage`. URLs come without user and password.
    """
    found: dict[str, str] = {}
    for distribution in metadata.distributions() if distributions is None else distributions:
        # A broken .dist-info (left by an interrupted uninstall) has no name.
        raw_name = distribution.metadata["Name"] if distribution.metadata else None
        if not raw_name or not distribution.version:
            continue
        name = re.sub(r"[-_.]+", "-", raw_name).lower()
        # The first one on the path is the one that is imported.
        if name not in found and not _LEFT_OUT.match(name):
            found[name] = _requirement(name, distribution)
    return [found[name] for name in sorted(found)]


def python_version() -> str:
    """The client's Python, such as "3.11.9"."""
    return platform.python_version()


def _requirement(name: str, distribution: metadata.Distribution) -> str:
    # https://packaging.python.org/en/latest/specifications/direct-url/
    try:
        direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        direct = {}
    url = _without_user(str(direct.get("url", "")))
    vcs = direct.get("vcs_info")
    if vcs and not url.startswith("file:"):
        return f"{name} @ {vcs.get('vcs', 'git')}+{url}@{vcs.get('commit_id', 'HEAD')}"
    if url.startswith(("http://", "https://")):
        return f"{name} @ {url}"
    if url.startswith("file:"):
        return LocalPackage(f"{name}=={distribution.version}")
    # A local version ("+cu121", "+dev") names a build that the public index does not have.
    return f"{name}=={distribution.version.partition('+')[0]}"


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
