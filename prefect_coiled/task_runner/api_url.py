"""Decides how tasks ask the Prefect API: themselves, or by the flow's own process (see `relay`).

Tasks report their states and logs to the Prefect API from the workers. With no address set, every worker
process would boot a Prefect server of its own; with a loopback address, it would talk to itself; a private
one leads somewhere from some networks only. There the flow's process, which reaches the API, asks in their
place, unless that is ruled out: then it is an error before anything is launched. What can only be seen from
the machines (a firewall, a wrong key) is asked of one of them once it is there: see `reach`. This module
imports neither Dask nor AWS.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from prefect.settings import get_current_settings

from prefect_coiled.errors import OptionsError
from prefect_coiled.internals.api_errors import without_user

NEXT_STEP = (
    'Let the flow\'s process ask it for them: `api_relay="auto"`, the default. Or use Prefect Cloud: '
    "`prefect cloud login`. Or a server that the machines can reach: start it with"
    " `prefect server start --host 0.0.0.0`, and name its address as the machines see it:"
    " `prefect config set PREFECT_API_URL=http://ADDRESS:4200/api`."
)

AUTO, ALWAYS, NEVER = "auto", "always", "never"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], "list[str]"]


def resolve(host: str) -> list[str]:
    """The addresses of a host name as this machine sees them; none where it does not know any."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def is_loopback(url: str, resolve: Resolve = resolve) -> bool:
    """Whether a URL names the machine that uses it, by whatever name.

    localhost, 127.0.0.0/8, ::1, unspecified and link-local addresses, and names that lead to nothing else
    here: many systems know their own host name as 127.0.1.1.

    Args:
        url: The URL to look at. One without a host counts as loopback: it reaches nothing else.
    """
    host = _host(url)
    if not host or host in ("localhost", "localhost.localdomain") or host.endswith(".localhost"):
        return True
    found = _addresses(host, resolve)
    return bool(found) and all(a.is_loopback or a.is_unspecified or a.is_link_local for a in found)


def is_private(url: str, resolve: Resolve = resolve) -> bool:
    """Whether a URL names an address that only some networks reach, such as 10.0.0.5 or fd00::1.

    Those of 100.64.0.0/10 too, which carriers and Tailscale give: https://www.rfc-editor.org/rfc/rfc6598
    """
    found = _addresses(_host(url), resolve)
    return bool(found) and all(not a.is_global for a in found)


@dataclass(frozen=True)
class Way:
    """How tasks ask the Prefect API.

    Attributes:
        relay: Whether the flow's process asks for them.
        why: Why, as the end of a sentence.
        remark: What may go wrong; empty if nothing is known.
    """

    relay: bool
    why: str
    remark: str = ""

    def __str__(self) -> str:
        """A line for the flow run's log."""
        how = "through this process, which keeps its key" if self.relay else "themselves"
        return f"Tasks ask the Prefect API {how}: {self.why}"


def choose_way(
    asked: str = AUTO, *, shares_loopback: bool = False, has_egress: Callable[[], bool] = lambda: True
) -> Way:
    """How the tasks of a cluster shall ask the Prefect API of this process.

    Args:
        asked: The option `api_relay`.
        shares_loopback: Whether the cluster's machines are processes beside this one (the sandbox as it
            is by default), so that any address that works here works there.
        has_egress: Says whether the machines reach the internet; asked where it matters.

    Raises:
        OptionsError: The relay is ruled out, and the machines cannot reach the API.
    """
    if asked == ALWAYS:
        return Way(True, "api_relay is 'always'")
    if asked == NEVER:
        return Way(False, "api_relay is 'never'", check_api_url(shares_loopback))
    if shares_loopback:
        return Way(False, "they run beside this process")
    url = str(get_current_settings().api.url or "")
    shown = without_user(url)
    if not url:
        return Way(True, "PREFECT_API_URL is not set, and Prefect's temporary server is this machine's alone")
    if is_loopback(url):
        return Way(True, f"{shown} is an address of this machine alone")
    if is_private(url):
        return Way(True, f"{shown} is a private address, which machines may not reach")
    if not has_egress():
        return Way(True, f"the machines have no way to {shown}, as egress is 'none'")
    return Way(False, f"{shown} is a public address")


def check_api_url(shares_loopback: bool) -> str:
    """Raise when a cluster's workers could not reach the Prefect API of this process themselves.

    Args:
        shares_loopback: As of `choose_way`.

    Returns:
        A remark for the log; empty if there is nothing to say.

    Raises:
        OptionsError: `PREFECT_API_URL` is unset or a loopback address, and the cluster is remote.
    """
    if shares_loopback:
        return ""
    url = get_current_settings().api.url
    what = "the workers of a remote cluster could not report to Prefect"
    if not url:
        raise OptionsError(what, "PREFECT_API_URL is not set", NEXT_STEP)
    shown = without_user(str(url))
    if is_loopback(str(url)):
        raise OptionsError(what, f"PREFECT_API_URL is {shown}, an address of this machine alone", NEXT_STEP)
    if is_private(str(url)):
        return (
            f"PREFECT_API_URL is {shown}, a private address: the cluster's machines reach it only where"
            " their network leads there (the same VPC, peering, a VPN)"
        )
    return ""


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".").lower()


def _addresses(host: str, resolve: Resolve) -> list[Address]:
    try:
        texts = [str(ipaddress.ip_address(host.partition("%")[0]))]
    except ValueError:
        texts = resolve(host)
    found: list[Address] = []
    for text in texts:
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
        found.append(mapped or address)
    return found
