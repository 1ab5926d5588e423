"""The judge in the chain: who signed, what the call asks for, and whether the policies allow it.

Off by default: then every call that is signed rightly is allowed, as with an administrator's keys (see
`authentication`). When on, calls signed with the key "sandbox" are the administrator's, and those of IAM
users and roles are judged by their policies.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from xml.sax.saxutils import escape

from prefect_coiled.sandbox.authorization import Denial
from prefect_coiled.sandbox.calls import Call
from prefect_coiled.sandbox.iam.decide import Request, Verdict, decide
from prefect_coiled.sandbox.iam.principals import Principal, principal_by_arn, principal_of, session_of
from prefect_coiled.sandbox.iam.requests import requests_of
from prefect_coiled.sandbox.settings import Settings

__all__ = ["ADMINISTRATOR", "Iam", "unknown"]

# The access key with which everything is allowed.
ADMINISTRATOR = "sandbox"
_EVERYTHING = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
# Nobody can be denied to ask who they are, nor for keys that are theirs for a while.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_getsessiontoken.html
_FREE = {"sts:GetCallerIdentity", "sts:GetSessionToken"}
# What such keys may ask of STS; of IAM nothing, without a second factor.
_OF_STS = {"AssumeRole", "GetCallerIdentity", "GetSessionToken"}


class Iam:
    """Judges calls; see `prefect_coiled.sandbox.authorization`.

    Args:
        settings: `iam` says whether it is on.
        lock: The one lock of the sandbox: moto's models know no threads.
        works: Tells whether a role's policies count by now, also where nothing else is judged.
        keep: How many decisions are kept.
    """

    def __init__(
        self,
        settings: Settings,
        lock: threading.RLock,
        works: Callable[[str], bool] = lambda role: True,
        keep: int = 100_000,
    ) -> None:
        self._settings = settings
        self._works = works
        self._lock = lock
        self._seen: deque[dict[str, Any]] = deque(maxlen=keep)

    def __call__(self, call: Call) -> Denial | None:
        """Gives the denial, or None when the call is allowed."""
        judged = self._settings.iam == "on"
        if (
            not (judged or self._settings.policy_delay)
            or not call.service
            or call.access_key == ADMINISTRATOR
        ):
            return None
        with self._lock:
            session = session_of(call.access_key)
            if session is not None and not _for_sessions(call):
                return unknown(call)
            if session is not None and session.of == ADMINISTRATOR:
                return None
            principal = principal_of(call.access_key)
            if principal is None:
                return unknown(call) if judged else None
            if f"{call.service}:{call.action}" in _FREE:
                return None
            if principal.role and not self._works(principal.role):
                request = next(iter(requests_of(call, principal.number)))
                return _denied(call, principal, request, decide((), request))
            for request in requests_of(call, principal.number) if judged else ():
                verdict = self._judge(principal, request, f"{call.service}:{call.action}")
                if not verdict.allowed:
                    return _denied(call, principal, request, verdict)
        return None

    def _judge(self, principal: Principal, request: Request, call: str) -> Verdict:
        full = Request(request.action, request.resource, {**request.context, **principal.context})
        verdict = decide(principal.documents, full, principal.boundary)
        self._seen.append(
            {
                "principal": principal.arn,
                "call": call,
                "action": request.action,
                "resource": request.resource,
                "context": dict(full.context),
                "allowed": verdict.allowed,
            }
        )
        return verdict

    def decisions(self) -> list[dict[str, Any]]:
        """What was decided so far, oldest first: principal, call, action, resource, context, allowed."""
        with self._lock:
            return list(self._seen)

    def clear(self) -> None:
        """Forget what was decided."""
        with self._lock:
            self._seen.clear()

    def simulate(self, params: Mapping[str, str]) -> str | None:
        """The answer to iam:SimulatePrincipalPolicy; None for a principal that is not there.

        https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
        """
        if self._settings.iam != "on":
            principal: Principal | None = Principal("", "", (_EVERYTHING,), {})
        else:
            with self._lock:
                principal = principal_by_arn(params.get("PolicySourceArn", ""))
        if principal is None:
            return None
        resources = _members(params, "ResourceArns") or ["*"]
        context: dict[str, Any] = dict(principal.context)
        for n in range(1, len(params) + 1):
            prefix = f"ContextEntries.member.{n}."
            if f"{prefix}ContextKeyName" in params:
                values = _members(params, f"{prefix}ContextKeyValues")
                context[params[f"{prefix}ContextKeyName"].lower()] = values[0] if len(values) == 1 else values
        results = [
            (
                action,
                resource,
                decide(principal.documents, Request(action, resource, context), principal.boundary),
            )
            for action in _members(params, "ActionNames")
            for resource in resources
        ]
        return _simulation(results)


def _for_sessions(call: Call) -> bool:
    return call.service != "iam" and (call.service != "sts" or call.action in _OF_STS)


def _members(params: Mapping[str, str], name: str) -> list[str]:
    found: list[str] = []
    while (value := params.get(f"{name}.member.{len(found) + 1}")) is not None:
        found.append(value)
    return found


def _simulation(results: Iterable[tuple[str, str, Verdict]]) -> str:
    def decision(verdict: Verdict) -> str:
        return "allowed" if verdict.allowed else "explicitDeny" if verdict.explicit else "implicitDeny"

    members = "".join(
        f"<member><EvalActionName>{escape(action)}</EvalActionName>"
        f"<EvalResourceName>{escape(resource)}</EvalResourceName>"
        f"<EvalDecision>{decision(verdict)}</EvalDecision></member>"
        for action, resource, verdict in results
    )
    return (
        '<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'
        f"<SimulatePrincipalPolicyResult><EvaluationResults>{members}</EvaluationResults>"
        "<IsTruncated>false</IsTruncated></SimulatePrincipalPolicyResult>"
        "<ResponseMetadata><RequestId>sandbox</RequestId></ResponseMetadata></SimulatePrincipalPolicyResponse>"
    )


def unknown(call: Call) -> Denial:
    """What AWS answers, in the words of the service, to an access key that there is not."""
    if call.service == "ec2":
        return Denial("AuthFailure", 401, "AWS was not able to validate the provided access credentials")
    if call.service == "s3":
        message = "The AWS Access Key Id you provided does not exist in our records."
        return Denial("InvalidAccessKeyId", 403, message)
    if call.is_json:
        return Denial(
            "UnrecognizedClientException", 400, "The security token included in the request is invalid."
        )
    return Denial("InvalidClientTokenId", 403, "The security token included in the request is invalid.")


def _denied(call: Call, principal: Principal, request: Request, verdict: Verdict) -> Denial:
    who = f"User: {principal.arn} is not authorized to perform: {request.action}"
    why = f"{who} on resource: {request.resource} {verdict.reason}"
    if call.service == "ec2":
        return Denial(
            "UnauthorizedOperation", 403, f"You are not authorized to perform this operation. {why}."
        )
    if call.is_json:
        return Denial("AccessDeniedException", 400, why)
    return Denial("AccessDenied", 403, why)
