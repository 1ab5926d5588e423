"""The free tier's API, which moto has not: whether the AWS account is on the free plan.

https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_freetier_GetAccountPlanState.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from prefect_coiled.sandbox.calls import Environ, StartResponse, WsgiApp, call_of, reply
from prefect_coiled.sandbox.settings import Settings

__all__ = ["FreeTier"]

_NUMBER = "123456789012"
_CREDITS = {"amount": 100.0, "unit": "USD"}


class FreeTier:
    """Middleware: answers GetAccountPlanState.

    Args:
        app: The next application of the chain.
        settings: `free_plan`.
    """

    def __init__(self, app: WsgiApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        if (call.service, call.action) != ("freetier", "GetAccountPlanState"):
            return self._app(environ, start_response)
        free = self._settings.free_plan
        answer = {
            "accountId": _NUMBER,
            "accountPlanType": "FREE" if free else "PAID",
            "accountPlanStatus": "ACTIVE",
            **({"accountPlanRemainingCredits": _CREDITS} if free else {}),
        }
        return reply(start_response, 200, json.dumps(answer), "application/x-amz-json-1.0")
