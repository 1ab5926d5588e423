"""One AWS API call as it is seen on the wire: which service, which action, which parameters.

Nothing here imports moto: it would serve in front of any endpoint that speaks AWS's protocols.
"""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

__all__ = ["HANG_UP", "Call", "CallLog", "Environ", "StartResponse", "WsgiApp", "call_of", "reply", "run"]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

_KEY = "prefect_coiled.sandbox.call"
# In the environ of a request after whose answer the connection ends: who sent it has not shown what he may.
HANG_UP = "prefect_coiled.sandbox.hang_up"
_CREDENTIAL = re.compile(r"Credential=([^/,]{1,128})/[0-9]{8}/([^/]{1,64})/([^/]{1,64})/aws4_request")
_SLASH = re.compile("%2f", re.IGNORECASE)
_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found"}
_REASONS |= {412: "Precondition Failed", 413: "Content Too Large"}


class Call:
    """One call.

    Attributes:
        service: The name in the signature's scope, such as "ec2" or "s3"; empty when unsigned.
        action: The API action; for S3 the HTTP method.
        params: The parameters, flat as on the wire (query protocol) or as the JSON document.
        access_key: The access key that signed the call; empty when unsigned.
        region: The region in the signature's scope.
        malformed: Whether its JSON is none.
    """

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        signed = environ.get("HTTP_AUTHORIZATION", "") or _SLASH.sub("/", environ.get("QUERY_STRING", ""))
        match = _CREDENTIAL.search(signed)
        self.access_key, self.region, self.service = match.groups() if match else ("", "", "")
        self.at = time.time()
        self.action = ""
        self.params: dict[str, Any] = {}
        self.malformed = False
        target = environ.get("HTTP_X_AMZ_TARGET")
        form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
        if target:
            self.protocol, self.action = "json", str(target).split(".")[-1]
            self.params = self._json(self._body())
        elif self.service == "s3" or not form:
            # The payloads of S3 are streams: they are never read here.
            self.protocol = "s3" if self.service in ("s3", "") else "rest"
            self.action = environ["REQUEST_METHOD"]
            self.params = {"Path": environ["PATH_INFO"]}
        else:
            self.params = dict(parse_qsl(self._body().decode("utf-8", "replace"), keep_blank_values=True))
            self.protocol = "ec2" if self.service == "ec2" else "query"
            self.action = self.params.get("Action", "")

    @property
    def streams(self) -> bool:
        """Whether the payload may be large and must not be buffered, nor handled one at a time."""
        return self.protocol == "s3"

    @property
    def is_json(self) -> bool:
        """Whether the service speaks JSON, as CloudWatch Logs, SSM and ECR do."""
        return self.protocol == "json"

    def _body(self) -> bytes:
        length = int(self.environ.get("CONTENT_LENGTH") or 0)
        body: bytes = self.environ["wsgi.input"].read(length) if length else b""
        self.environ["wsgi.input"] = io.BytesIO(body)
        return body

    def _json(self, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            document = None
        self.malformed = not isinstance(document, dict)
        return document if isinstance(document, dict) else {}

    def ids(self) -> list[str]:
        """The values among the parameters, as text."""
        return [value for value in self.params.values() if isinstance(value, str)]

    def error(
        self, start_response: StartResponse, code: str, status: int = 400, message: str = ""
    ) -> Iterable[bytes]:
        """Answer with an error in the protocol of the call's service.

        Args:
            start_response: The WSGI callable.
            code: AWS's error code.
            status: The HTTP status.
            message: AWS's message.
        """
        if self.protocol in ("json", "rest"):
            body = json.dumps({"__type": code, "message": message})
            return reply(
                start_response, status, body, "application/x-amz-json-1.1", [("x-amzn-errortype", code)]
            )
        detail = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
        if self.protocol == "ec2":
            body = (
                f"<Response><Errors><Error>{detail}</Error></Errors><RequestID>sandbox</RequestID></Response>"
            )
        elif self.protocol == "s3":
            body = f"<Error>{detail}</Error>"
        else:
            body = (
                f"<ErrorResponse><Error><Type>Sender</Type>{detail}</Error>"
                "<RequestId>sandbox</RequestId></ErrorResponse>"
            )
        return reply(start_response, status, body, "text/xml")


def call_of(environ: Environ) -> Call:
    """The call of a request; read from the wire once."""
    if _KEY not in environ:
        environ[_KEY] = Call(environ)
    found: Call = environ[_KEY]
    return found


def reply(
    start_response: StartResponse,
    status: int,
    body: str | bytes,
    content_type: str = "text/plain",
    headers: Sequence[tuple[str, str]] = (),
) -> list[bytes]:
    """Answer a request with a whole body."""
    data = body.encode() if isinstance(body, str) else body
    start_response(
        f"{status} {_REASONS.get(status, 'Error')}",
        [("Content-Type", content_type), ("Content-Length", str(len(data))), *headers],
    )
    return [data]


def run(app: WsgiApp, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
    """Run an application to its end; gives status line, headers and body."""
    seen: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        seen.append((status, headers))
        return lambda data: None

    parts = app(environ, start_response)
    try:
        body = b"".join(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()
    status, headers = seen[-1]
    return status, headers, body


class CallLog:
    """Middleware: the record of the calls that arrived, also of those that a fault then struck.

    Args:
        app: The next application of the chain.
        keep: How many calls are kept.
    """

    def __init__(self, app: WsgiApp, keep: int = 100_000) -> None:
        self._app = app
        self._seen: deque[dict[str, Any]] = deque(maxlen=keep)
        self._lock = threading.Lock()
        self.last = time.monotonic()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        self.last = time.monotonic()
        entry = {
            "service": call.service,
            "action": call.action,
            "region": call.region,
            "access_key": call.access_key,
            "at": call.at,
        }
        with self._lock:
            self._seen.append(entry)
        return self._app(environ, start_response)

    def entries(self) -> list[dict[str, Any]]:
        """The calls so far, oldest first."""
        with self._lock:
            return list(self._seen)

    def clear(self) -> None:
        """Forget the calls so far."""
        with self._lock:
            self._seen.clear()
