"""The place of IAM in the chain: an evaluator decides each call before it has an effect. See `iam`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prefect_coiled.sandbox.calls import Call, Environ, StartResponse, WsgiApp, call_of, reply

__all__ = ["Authorization", "Denial", "Evaluator"]


@dataclass(frozen=True)
class Denial:
    """Why a call is refused: AWS's error code, the HTTP status and the message."""

    code: str
    status: int
    message: str


class Evaluator(Protocol):
    """Judges calls by the policies of whoever signed them."""

    def __call__(self, call: Call) -> Denial | None:
        """Gives the denial, or None when the call is allowed."""

    def simulate(self, params: Mapping[str, str]) -> str | None:
        """The answer to iam:SimulatePrincipalPolicy; None for a principal that is not there."""


class Authorization:
    """Middleware: a call that the evaluator denies goes no further; it also answers simulations."""

    def __init__(self, app: WsgiApp, evaluator: Evaluator) -> None:
        self._app = app
        self._evaluator = evaluator

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        denial = self._evaluator(call)
        if denial is not None:
            return call.error(start_response, denial.code, denial.status, denial.message)
        if (call.service, call.action) == ("iam", "SimulatePrincipalPolicy"):
            answer = self._evaluator.simulate(call.params)
            if answer is None:
                arn = call.params.get("PolicySourceArn", "")
                return call.error(start_response, "NoSuchEntity", 404, f"{arn} cannot be found.")
            return reply(start_response, 200, answer, "text/xml")
        return self._app(environ, start_response)
