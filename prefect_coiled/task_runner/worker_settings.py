"""The client's Prefect settings on a worker: what names a file of the client's machine means one of its own.

`PREFECT_API_SSL_CERT_FILE`, or `SSL_CERT_FILE` from which Prefect takes its default, names certificates
(https://docs.prefect.io/v3/api-ref/settings-ref#ssl_cert_file). What that file holds is public, and travels
with the settings. `PREFECT_HOME` and the like are left to the worker where it has no such place.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import certifi
from prefect.settings import get_current_settings

# Places that Prefect makes where they are missing, and in which a task finds nothing of a client's.
_PLACES = ("home", "profiles_path")


def read_authority() -> str:
    """The certificates that this process trusts for the Prefect API; empty where they are the usual ones."""
    named = get_current_settings().api.ssl_cert_file
    if not named or not Path(named).is_file():
        return ""
    text = Path(named).read_text(encoding="utf-8", errors="replace")
    return "" if text == Path(certifi.where()).read_text(encoding="utf-8") else text


def settings_here(settings: Mapping[str, Any], authority: str) -> dict[str, Any]:
    """Serialised settings of a client as they hold on this machine.

    Args:
        settings: As `SettingsContext.serialize` gives them.
        authority: As `read_authority` gave it where they come from.
    """
    values = {
        name: value
        for name, value in settings["settings"].items()
        if name not in _PLACES or Path(value).exists()
    }
    api = {name: value for name, value in values.pop("api", {}).items() if name != "ssl_cert_file"}
    if authority:
        api["ssl_cert_file"] = _file_of(authority)
    return {**settings, "settings": {**values, "api": api}}


def _file_of(authority: str) -> str:
    with _making:  # a cache does not keep two threads from making it, and the folder of one of them goes
        return _made(authority)


_making = threading.Lock()


@lru_cache(maxsize=8)
def _made(authority: str) -> str:
    name = f"{hashlib.sha256(authority.encode()).hexdigest()[:16]}.pem"
    path = Path(_folder().name, name)
    path.write_text(authority, encoding="utf-8")
    return str(path)


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    # Its own: in a folder that others write to, the file could be theirs. It goes with the process.
    return tempfile.TemporaryDirectory(prefix="prefect-api-")
