"""Asks package indexes by HTTP: by the certificates that are trusted, and never led on to http."""

from __future__ import annotations

from functools import lru_cache

import httpx

from prefect_coiled.environment.indexes import Trust


@lru_cache(maxsize=4)
def client_for(trust: Trust) -> httpx.Client:
    """A client that follows an index to other places, but not from https to http.

    Args:
        trust: How the server is known.
    """
    made = httpx.Client(verify=trust.context(), follow_redirects=True)
    made.event_hooks["response"].append(_refuse_downgrade)
    return made


def _refuse_downgrade(reply: httpx.Response) -> None:
    to = reply.url.join(reply.headers["Location"]) if reply.has_redirect_location else reply.url
    if (reply.url.scheme, to.scheme) == ("https", "http"):
        raise httpx.RemoteProtocolError("the index leads on to http, where anybody may answer")
