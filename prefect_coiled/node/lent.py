"""Credentials that a client lends to tasks: the scheduler keeps them in memory, machines give them out.

    Cluster ─TLS─▶ scheduler: `Lent` ◀─TLS─ machine: `Counter` ◀─loopback, token─ boto3 in a task

boto3 and other tools of AWS's ask by themselves at the address that the environment names, and ask again
before what they got ends. https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

# Seconds without a word of the lender's after which what was lent is taken for called back.
LEASE_S = 180.0
_URI, _TOKEN = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"
_NAMES = {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}
_GONE = (
    "These tasks work with the AWS credentials of the program that asked for the cluster "
    '(credentials="local"), and it is not connected any more.'
)


class Lent:
    """What was lent, while whoever lends it says that it is still so."""

    def __init__(self) -> None:
        self._credentials: dict[str, str] = {}
        self._until = 0.0

    def take(self, now: float, credentials: Mapping[str, str] | None) -> None:
        """The lender lends these, or calls back what it lent."""
        if credentials is not None and set(credentials) != _NAMES:
            raise ValueError("these are no credentials")
        self._credentials = dict(credentials or {})
        self._until = now + LEASE_S

    def give(self, now: float) -> dict[str, str]:
        """What is lent now; empty for nothing."""
        if now > self._until or not self._credentials:
            self._credentials = {}
            return {}
        end = datetime.fromisoformat(self._credentials["Expiration"].replace("Z", "+00:00"))
        return dict(self._credentials) if end > datetime.now(timezone.utc) else {}


class Counter:
    """Gives lent credentials out to whoever has this machine's token.

    Args:
        ask: Gives what is lent now.
    """

    def __init__(self, ask: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        token = secrets.token_urlsafe(32)
        # Nothing of it may be in a log.
        self._server = HTTPServer(
            Application([("/", _Page, {"token": token, "ask": ask})], log_function=lambda _: None)
        )
        (socket,) = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets([socket])
        #: What processes get that may ask.
        self.environ = {_URI: f"http://127.0.0.1:{socket.getsockname()[1]}/", _TOKEN: token}

    def open(self) -> None:
        """Let all that is started from here ask."""
        os.environ.update(self.environ)

    def close(self) -> None:
        """Give nothing any more."""
        self._server.stop()


class _Page(RequestHandler):  # type: ignore[misc]
    def initialize(self, token: str, ask: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._right, self._ask = token, ask

    async def get(self) -> None:
        """Answer one that knows the token, and comes to this address and no name of somebody else's."""
        given = self.request.headers.get("Authorization", "")
        local = self.request.host.partition(":")[0] == "127.0.0.1"
        if not local or not hmac.compare_digest(given.encode(), self._right.encode()):
            self.set_status(403)
            self.finish("It is not for you.")
            return
        self.set_header("Content-Type", "application/json")
        try:
            found = await self._ask()
        except OSError as error:
            self.set_status(503)
            self.finish(json.dumps({"message": f"The scheduler did not answer: {error}"}))
            return
        if not found:
            self.set_status(404)
            self.finish(json.dumps({"message": _GONE}))
            return
        self.finish(json.dumps(dict(found)))
