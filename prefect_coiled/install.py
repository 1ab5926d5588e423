"""How this library is installed: the one place that says it, for errors that name an extra.

The address is that of `[project.urls]` in pyproject.toml, which its metadata holds; where there is none, it
is installed from a checkout.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.util import find_spec

DISTRIBUTION = "prefect-dask-ec2"
# The key of its repository: https://packaging.python.org/en/latest/specifications/well-known-project-urls/
_KEY = "repository"


def library_version() -> str:
    """Its version; that of nothing for a source tree that is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0.0.0"


def address() -> str:
    """Where its sources are; empty where that is not said."""
    try:
        listed = metadata(DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    found = dict(str(one).lower().split(", ", 1)[:1] + str(one).split(", ", 1)[1:] for one in listed)
    return found.get(_KEY, "")


def how(extra: str) -> str:
    """The sentence that says how to install it with an extra."""
    if not (found := address()):
        return f'Run `pip install ".[{extra}]"` in its checkout.'
    return f'Run `pip install "{DISTRIBUTION}[{extra}] @ git+{found}"`.'


def has_sandbox() -> bool:
    """Whether what the extra `sandbox` brings is there."""
    return find_spec("moto") is not None
