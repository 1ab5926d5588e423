"""Refuses a Prefect API address that the machines of a remote cluster could not reach.

Tasks report their states and logs to the Prefect API from the workers. With no address set, every
worker process would boot a Prefect server of its own; with a loopback address, it would talk to
itself. Either way the flow would lose sight of its tasks, so this is an error before anything is
launched. This module imports neither Dask nor AWS.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from prefect.settings import get_current_settings

from prefect_coiled.errors import OptionsError

__all__ = ["check_api_url", "is_loopback"]


def is_loopback(url: str) -> bool:
    """Whether a URL names the machine that uses it: localhost, 127.0.0.0/8, ::1 or 0.0.0.0.

    Args:
        url: The URL to look at. One without a host counts as loopback: it reaches nothing else.
    """
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    if not host or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def check_api_url(shares_loopback: bool) -> None:
    """Raise when a cluster's workers could not reach the Prefect API of this process.

    Args:
        shares_loopback: Whether the cluster's machines are processes beside this one (the sandbox as it
            is by default), so that any address that works here works there.

    Raises:
        OptionsError: `PREFECT_API_URL` is unset or a loopback address, and the cluster is remote.
    """
    if shares_loopback:
        return
    url = get_current_settings().api.url
    next_step = (
        "Set PREFECT_API_URL to Prefect Cloud, or to a server that the cluster's machines can reach"
        " (prefect config set PREFECT_API_URL=https://...)."
    )
    what = "the workers of a remote cluster could not report to Prefect"
    if not url:
        raise OptionsError(what, "PREFECT_API_URL is not set", next_step)
    if is_loopback(str(url)):
        raise OptionsError(what, f"PREFECT_API_URL is {url}, an address of this machine alone", next_step)
