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
from prefect.context import SettingsContext
from prefect.settings import get_current_settings
from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from prefect_coiled.internals.api_errors import without_user
from prefect_coiled.relay import forwarder

# Places that Prefect makes where they are missing, and in which a task finds nothing of a client's.
_PLACES = ("home", "profiles_path")
# Seconds; Prefect's own default.
_TIMEOUT = 60.0


def read_authority() -> str:
    """The certificates that this process trusts for the Prefect API; empty where they are the usual ones."""
    named = get_current_settings().api.ssl_cert_file
    if not named or not Path(named).is_file():
        return ""
    text = Path(named).read_text(encoding="utf-8", errors="replace")
    return "" if text == Path(certifi.where()).read_text(encoding="utf-8") else text


def settings_for_relay(settings: SettingsContext) -> dict[str, Any]:
    """Serialised settings without anything that is secret, or good for the API alone: tasks ask a relay.

    Args:
        settings: The client's.
    """
    values = _without_secrets(settings.settings, settings.serialize()["settings"])
    # Headers may be what a proxy before the API wants to see; what a server needs, no task does.
    client = {name: value for name, value in values.pop("client", {}).items() if name != "custom_headers"}
    server = {"events": events} if (events := values.pop("server", {}).get("events")) else {}
    timeout = {"request_timeout": values.pop("api", {}).get("request_timeout", _TIMEOUT)}
    ui_url = settings.settings.ui_url
    shown = {"ui_url": without_user(ui_url)} if ui_url else {}
    own = {"client": {**client, "csrf_support_enabled": False}, "server": server, "api": timeout, **shown}
    return {"profile": {"name": settings.profile.name}, "settings": {**values, **own}}


def _without_secrets(model: BaseModel, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """A dump of a model without the fields that hold secrets, at whatever depth."""
    kept = {}
    for name, value in dumped.items():
        held = getattr(model, name, None)
        if isinstance(held, (Secret, SecretStr, SecretBytes)):
            continue
        nested = isinstance(held, BaseModel) and isinstance(value, Mapping)
        kept[name] = _without_secrets(held, value) if nested else value  # type: ignore[arg-type]
    return kept


def settings_here(
    settings: Mapping[str, Any], authority: str, relay: str = "", worker: Any = None, flow_run_id: str = ""
) -> dict[str, Any]:
    """Serialised settings of a client as they hold on this machine.

    Args:
        settings: As `SettingsContext.serialize` gives them; as `settings_for_relay` does, with a relay.
        authority: As `read_authority` gave it where they come from.
        relay: By which tasks ask the API.
        worker: Dask's worker in this process; with a relay.
        flow_run_id: The flow run.
    """
    values = {
        name: value
        for name, value in settings["settings"].items()
        if name not in _PLACES or Path(value).exists()
    }
    api = {name: value for name, value in values.pop("api", {}).items() if name != "ssl_cert_file"}
    if relay:
        here = forwarder.here()
        api.update(url=here.open(relay, worker, flow_run_id), auth_string=here.token, key=None)
    elif authority:
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
