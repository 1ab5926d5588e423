"""Client tokens and DryRun of EC2, which moto lacks or executes.

https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html: the same token with the same
parameters answers with the first reply, with other parameters IdempotentParameterMismatch, and after the
end of the instance IdempotentInstanceTerminated. The region and the zone are no part of the comparison:
a token belongs to one region, and each zone that is tried needs a token of its own.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prefect_coiled.sandbox.calls import Call, Environ, StartResponse, WsgiApp, call_of, run

__all__ = ["DryRun", "Idempotency"]

_WITH_TOKEN = {
    "CopyImage",
    "CreateFleet",
    "CreateLaunchTemplate",
    "CreateLaunchTemplateVersion",
    "CreateNatGateway",
    "CreateNetworkInterface",
    "CreateRouteTable",
    "CreateVolume",
    "CreateVpcEndpoint",
    "RunInstances",
}
_NOT_COMPARED = {"Action", "Version", "ClientToken", "Placement.AvailabilityZone"}
_INSTANCE_ID = re.compile(rb"<instanceId>([^<]+)</instanceId>")


class DryRun:
    """Middleware: a call with DryRun answers DryRunOperation and goes no further."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        if call.service == "ec2" and str(call.params.get("DryRun", "")).lower() == "true":
            message = "Request would have succeeded, but DryRun flag is set."
            return call.error(start_response, "DryRunOperation", 412, message)
        return self._app(environ, start_response)


@dataclass
class _First:
    """The first call with a token. Its lock makes a repetition wait for the first attempt."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    digest: str = ""
    answer: tuple[str, list[tuple[str, str]], bytes] | None = None


class Idempotency:
    """Middleware: one effect for each client token.

    Args:
        app: The next application of the chain.
        ended: Tells whether one of these instances is shutting down or terminated.
    """

    def __init__(self, app: WsgiApp, ended: Callable[[set[str]], bool]) -> None:
        self._app = app
        self._ended = ended
        self._seen: dict[tuple[str, str, str], _First] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget all tokens."""
        with self._lock:
            self._seen.clear()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        token = call.params.get("ClientToken")
        if call.service != "ec2" or not token or call.action not in _WITH_TOKEN:
            return self._app(environ, start_response)
        with self._lock:
            first = self._seen.setdefault((call.region, call.action, str(token)), _First())
        with first.lock:
            digest = _digest(call)
            if first.answer is None:
                status, headers, body = run(self._app, environ)
                if status.startswith("2"):
                    first.digest, first.answer = digest, (status, headers, body)
            elif first.digest != digest:
                message = "Arguments on this idempotent request are inconsistent with those used before."
                return call.error(start_response, "IdempotentParameterMismatch", 400, message)
            else:
                status, headers, body = first.answer
                instances = {found.decode() for found in _INSTANCE_ID.findall(body)}
                if call.action == "RunInstances" and self._ended(instances):
                    message = "The client token you have provided is associated with a terminated instance."
                    return call.error(start_response, "IdempotentInstanceTerminated", 400, message)
        start_response(status, headers)
        return [body]


def _digest(call: Call) -> str:
    compared = sorted((key, value) for key, value in call.params.items() if key not in _NOT_COMPARED)
    return hashlib.sha256(repr(compared).encode()).hexdigest()
