"""Rules of AWS laid over botocore, in place of what the sandbox answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import botocore.client
import pytest
from botocore.exceptions import ClientError

from prefect_coiled.sandbox import Sandbox

__all__ = ["Lay", "Rule", "lay_over", "live", "refusing"]

# Given the action and its parameters, says a code and a message, or nothing.
Rule = Callable[[str, dict[str, Any]], tuple[str, str] | None]
Lay = Callable[[Rule], None]

_call = botocore.client.BaseClient._make_api_call


def lay_over(monkeypatch: pytest.MonkeyPatch) -> Lay:
    """What lays a rule of AWS over every call of this process."""

    def over(rule: Rule) -> None:
        def call(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
            name = self.meta.service_model.service_name
            refused = rule(f"{name}:{operation}", parameters)
            if refused:
                code, message = refused
                metadata = {"HTTPStatusCode": 400, "HTTPHeaders": {}}
                answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}
                raise ClientError(answer, operation)
            return _call(self, operation, parameters)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)

    return over


def live(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The machines that are pending or running."""
    wanted = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    pages = sandbox.client("ec2").get_paginator("describe_instances").paginate(Filters=wanted)
    return [i for page in pages for r in page["Reservations"] for i in r["Instances"]]


def refusing(call: str, code: str, times: int = 10**6, message: str = "AWS says so.") -> Rule:
    """A call that is answered with a code, so many times."""
    left = [times]

    def rule(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
        if action != call or not left[0]:
            return None
        left[0] -= 1
        return code, message

    return rule
