"""The place of the rules in the chain: twice, because some look at the call alone and some at what is there.

    Judge           before DryRun: the model, and the rules about the call
    AccountJudge    after client tokens, under the lock: the rules about what is in the account

The rules about a launch are asked by the one launch path of `corrections.launch`, when the template is
merged.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from prefect_coiled.sandbox.calls import Call, Environ, StartResponse, WsgiApp, call_of
from prefect_coiled.sandbox.rules import load, times
from prefect_coiled.sandbox.rules.account import Account, History, Launch
from prefect_coiled.sandbox.rules.asked import Asked, UnreadableError, asked_of
from prefect_coiled.sandbox.rules.models import refused_by_model, unreadable
from prefect_coiled.sandbox.rules.table import Refusal, rows_of
from prefect_coiled.sandbox.settings import Settings

__all__ = ["AccountJudge", "Judge", "refused_launch"]


class Judge:
    """Middleware: refuses a call that breaks its model, or a rule about calls.

    Args:
        app: The next application of the chain.
    """

    def __init__(self, app: WsgiApp) -> None:
        load()
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        refusal = _refusal(call)
        if refusal is not None:
            return call.error(start_response, refusal.code, refusal.status, refusal.message)
        return self._app(environ, start_response)


def _refusal(call: Call) -> Refusal | None:
    try:
        asked = asked_of(call)
    except UnreadableError:
        return unreadable(call.service, call.is_json)
    if asked is None:
        return None
    found = refused_by_model(asked)
    for row in () if found else rows_of(asked.service, asked.action, ""):
        found = found or row.refusal(asked)
    return found


class AccountJudge:
    """Middleware: refuses what does not go with what is in the account; remembers what is young.

    Args:
        app: The next application of the chain.
        settings: The settings.
        history: What happened when.
        lock: The one lock of the sandbox.
    """

    def __init__(self, app: WsgiApp, settings: Settings, history: History, lock: threading.RLock) -> None:
        self._app = app
        self._settings = settings
        self._history = history
        self._lock = lock

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        asked = asked_of(call)
        if asked is None:
            return self._app(environ, start_response)
        rows = rows_of(asked.service, asked.action, "account")
        told: list[str] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            told.append(status)
            return start_response(status, headers)

        # Streams are not held up; what is checked of them is not changed by others in between.
        with self._lock if rows and not call.streams else contextlib.nullcontext():
            refusal = self._refusal(asked, rows) if rows else None
            if refusal is not None:
                return call.error(start_response, refusal.code, refusal.status, refusal.message)
            answer = self._app(environ, start)
        if told and told[-1].startswith("2"):
            times.note(asked, self._history)
        return answer

    def _refusal(self, asked: Asked, rows: Iterable[Any]) -> Refusal | None:
        from moto.iam.models import get_account_id_from

        with self._lock:
            number = get_account_id_from(asked.access_key)
            account = Account(number, asked.region, self._settings, self._history)
            return next((found for row in rows if (found := row.refusal(asked, account))), None)


def refused_launch(params: Mapping[str, Any], account: Account) -> Refusal | None:
    """What EC2 answers to a launch that breaks a rule; None where it is well.

    Args:
        params: The parameters of RunInstances, with those of the template under them.
        account: The account.
    """
    launch = Launch(params, account)
    rows = rows_of("ec2", "RunInstances", "launch")
    return next((found for row in rows if (found := row.refusal(launch))), None)
