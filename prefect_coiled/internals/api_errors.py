"""Says why the Prefect API did not do what it was asked, and what to do about it.

Prefect's settings: https://docs.prefect.io/v3/api-ref/settings-ref
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

import httpx

_STEPS = {
    401: (
        "It wants credentials. A server with a password: `prefect config set"
        " PREFECT_API_AUTH_STRING=USER:PASSWORD`, the value of its PREFECT_SERVER_API_AUTH_STRING."
        " Prefect Cloud: `prefect cloud login`, which sets PREFECT_API_KEY."
    ),
    403: (
        "The key in PREFECT_API_KEY may not do this, or PREFECT_API_URL names another account or workspace"
        " than the key's: `prefect cloud login`."
    ),
    503: (
        "It may be busy, as a server with SQLite is where many flow runs start at once. Run it again; raise"
        " PREFECT_CLIENT_MAX_RETRIES, or give the server PostgreSQL."
    ),
    422: (
        "It does not take what was sent, as a server of another release may not: see that client and server"
        " are of one release of Prefect, `prefect version`."
    ),
    429: (
        "It asks for fewer requests. Wait, and run it again; PREFECT_CLIENT_MAX_RETRIES says how often a call"
        " is tried."
    ),
    404: "PREFECT_API_URL has to end in /api, and names no such thing: `prefect config view` shows it.",
}
_CERTIFICATE = (
    "Name the authority of its certificate by PREFECT_API_SSL_CERT_FILE, or trust any by"
    " PREFECT_API_TLS_INSECURE_SKIP_VERIFY=true."
)
_OTHER = "Check PREFECT_API_URL and that the server runs."


def without_user(text: str) -> str:
    """A URL, or a text such as an error's, without the users and passwords that may be in URLs of it."""
    return re.sub(r"://[^/?#\s]*@", "://", text)


def cause_and_step(error: BaseException, unreached: str = _OTHER) -> tuple[str, str]:
    """The cause in one line, without a full stop; and what to do.

    Args:
        unreached: What to do where nothing says more than that there was no answer.
    """
    for one in _chain(error):
        if isinstance(one, httpx.HTTPStatusError):
            status = one.response.status_code
            reason = f"it answered {status} {one.response.reason_phrase}".rstrip()
            other = "Look at the server's own log, and run it again." if status >= 500 else unreached
            return reason, _STEPS.get(status, other)
        if isinstance(one, ssl.SSLCertVerificationError):
            return _line(one), _CERTIFICATE
    text = _line(error)
    return text, _CERTIFICATE if "CERTIFICATE_VERIFY_FAILED" in text else unreached


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it comes from."""
    seen: set[int] = set()
    present: BaseException | None = error
    while present is not None and id(present) not in seen:
        seen.add(id(present))
        yield present
        present = present.__cause__ or present.__context__


def _line(error: BaseException) -> str:
    text = without_user(str(error)).strip()
    return (text or type(error).__name__).splitlines()[0].rstrip(".")
