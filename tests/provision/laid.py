"""Rules of AWS laid over botocore, in place of what the sandbox answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import botocore.client
import pytest
from botocore.exceptions import ClientError

from prefect_coiled.aws import kinds, parameters, waits
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import find_all
from prefect_coiled.plan.kinds import There
from prefect_coiled.provision import cluster_removal, planning, sweeping
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.changes import plainly

__all__ = ["Lay", "Rule", "bring_up", "hurry", "lay_over", "live", "refused", "refusing"]

# Given the action and its parameters, says a code and a message, or nothing.
Rule = Callable[[str, dict[str, Any]], tuple[str, str] | None]
Lay = Callable[[Rule], None]

_call = botocore.client.BaseClient._make_api_call


def lay_over(monkeypatch: pytest.MonkeyPatch) -> Lay:
    """What lays a rule of AWS over every call of this process."""

    def over(rule: Rule) -> None:
        def call(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
            name = self.meta.service_model.service_name
            if answer := rule(f"{name}:{operation}", parameters):
                raise refused(operation, *answer)
            return _call(self, operation, parameters)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)

    return over


def refused(operation: str, code: str, message: str = "AWS says so.", status: int = 400) -> ClientError:
    """What botocore raises for an answer of AWS's that is an error."""
    metadata: Any = {"HTTPStatusCode": status, "HTTPHeaders": {}}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, operation)


def hurry(monkeypatch: pytest.MonkeyPatch, pace: float = 300.0, *, young: bool = False) -> None:
    """Bounds of waits pass some hundred times as fast, and no step of a removal is one of Prefect's.

    Args:
        pace: How many times as fast.
        young: Whether a cluster that has just been asked for counts as one that somebody starts.
    """
    begun = time.monotonic()
    assert waits.wait_for.__kwdefaults__ is not None
    monkeypatch.setitem(
        waits.wait_for.__kwdefaults__, "clock", lambda: begun + (time.monotonic() - begun) * pace
    )
    for room in (cluster_removal, sweeping):
        monkeypatch.setattr(room, "as_steps", plainly)
    if not young:
        monkeypatch.setattr(parameters, "STARTING", -60.0)


def bring_up(aws: Aws, zone: str) -> There:
    """Make what a set-up makes, in one zone, by the plan and the rows alone."""
    want = planning.wanted(aws, (zone,), None, "nat", every_zone=True, network=True, registry="ecr")
    there = find_all(aws, planning.asked_of(want))
    for change in planning.set_up_of(aws, there, want).todo:
        kinds.bring(aws, change, want, there)
    return there


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
