"""What machines get of the client's Dask configuration, and what of it cannot go there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.config

from prefect_coiled.options.kinds import plain

# What belongs to this machine, or to the connection itself: of no interest there, and not missed.
_OF_THIS_MACHINE = (
    "coiled",
    "scheduler-address",
    "scheduler_address",
    "scheduler",
    "num-workers",
    "temporary-directory",
    "distributed.comm.tls",
)
# What a cluster sets itself, whatever the configuration says.
_SET_HERE = {
    "distributed.scheduler.idle-timeout": "use idle_timeout",
    "distributed.scheduler.dashboard.tls": "the cluster has its own certificates",
    "distributed.comm.require-encryption": "it always is encrypted",
    "distributed.worker.http.routes": "a worker serves no pages",
}


def config_to_send(
    config: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Dask's configuration where it differs from Dask's own defaults.

    Args:
        config: The configuration; by default the one that is loaded.

    Returns:
        What goes to the machines, as what JSON can say; and the names of what does not, with the reason.
    """
    if defaults is None:
        defaults = dask.config.merge(*dask.config.defaults) if dask.config.defaults else {}
    left: dict[str, str] = {}
    sent = _difference(dask.config.config if config is None else config, defaults, "", left)
    return sent, left


def _difference(
    config: Mapping[Any, Any], defaults: Mapping[Any, Any], above: str, left: dict[str, str]
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        base = defaults.get(key)
        value = plain(value)
        spelled = name.replace("_", "-")
        if name in _OF_THIS_MACHINE or spelled in _OF_THIS_MACHINE:
            continue
        if spelled in _SET_HERE:
            if key not in defaults or value != base:
                left[spelled] = _SET_HERE[spelled]
        elif isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
            inner = _difference(value, base if isinstance(base, Mapping) else {}, f"{name}.", left)
            if inner:
                out[key] = inner
        elif key not in defaults or value != base:
            why = _why_not(value)
            if why:
                left[name] = why
            else:
                out[key] = value
    return out


def _why_not(value: Any) -> str:
    """Why a value cannot be said in JSON; empty if it can."""
    if isinstance(value, (list, tuple)):
        return next(filter(None, map(_why_not, value)), "")
    if isinstance(value, Mapping):
        odd = next((k for k in value if not isinstance(k, str)), None)
        return f"a name is {type(odd).__name__}" if odd is not None else _why_not([*value.values()])
    return "" if value is None or isinstance(value, (str, int, float)) else f"it is {type(value).__name__}"
