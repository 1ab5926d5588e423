"""Faults by rules, struck on the wire so that every client and every instance meets them.

A rule says which calls it strikes (globs over service, action and parameters; how often, from which on,
with what probability) and what then happens:

    latency       wait `seconds`, then go on
    error         answer `code` with `status`; nothing is done
    error_after   do it, then answer `code` with `status`: the effect is there, the reply says it failed
    drop          close the connection; nothing is done
    drop_after    do it, then close the connection: the reply is lost
    invisible     for `seconds` after its creation, calls that name a new EC2 resource answer NotFound
"""

from __future__ import annotations

import dataclasses
import fnmatch
import random
import re
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.calls import Call, Environ, StartResponse, WsgiApp, call_of, run

__all__ = ["Faults", "Rule", "not_found"]

Effect = Literal["latency", "error", "error_after", "drop", "drop_after", "invisible"]
_EFFECTS = ("latency", "error", "error_after", "drop", "drop_after", "invisible")
_NEW_ID = re.compile(
    rb"<(?:instanceId|groupId|vpcId|subnetId|launchTemplateId|natGatewayId|routeTableId|internetGatewayId"
    rb"|allocationId)>([^<]+)<"
)
_NOT_FOUND = {
    "eipalloc": "InvalidAllocationID.NotFound",
    "i": "InvalidInstanceID.NotFound",
    "igw": "InvalidInternetGatewayID.NotFound",
    "lt": "InvalidLaunchTemplateId.NotFound",
    "nat": "NatGatewayNotFound",
    "rtb": "InvalidRouteTableID.NotFound",
    "sg": "InvalidGroup.NotFound",
    "snap": "InvalidSnapshot.NotFound",
    "subnet": "InvalidSubnetID.NotFound",
    "vpc": "InvalidVpcID.NotFound",
    "vpce": "InvalidVpcEndpointId.NotFound",
}


@dataclass
class Rule:
    """One fault.

    Attributes:
        effect: What happens.
        service: A glob over services, such as "ec2".
        action: A glob over actions, such as "RunInstances" or "Describe*".
        match: Globs over parameter names, each with a glob over its value, such as
            {"InstanceType": "m6i.*"}; all must hold.
        skip: How many calls that match are let through first.
        times: How many calls are struck after that; None for all.
        probability: Between 0 and 1.
        seconds: For latency and invisible.
        code: AWS's error code, for error and error_after.
        status: The HTTP status with it.
        message: The message with it.
    """

    effect: Effect
    service: str = "*"
    action: str = "*"
    match: dict[str, str] = field(default_factory=dict)
    skip: int = 0
    times: int | None = None
    probability: float = 1.0
    seconds: float = 0.0
    code: str = "InternalError"
    status: int = 500
    message: str = "An internal error has occurred"

    def __post_init__(self) -> None:
        self._met = 0
        if self.effect not in _EFFECTS:
            raise SandboxError("setting faults", f"no such effect: {self.effect!r}")

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Rule:
        """A rule from JSON.

        Raises:
            SandboxError: A key or an effect is not known.
        """
        unknown = sorted(set(entry) - {spec.name for spec in dataclasses.fields(cls)})
        if unknown or "effect" not in entry:
            raise SandboxError("setting faults", f"unknown keys: {unknown}" if unknown else "no effect given")
        return cls(**entry)

    def strikes(self, call: Call, chance: random.Random) -> bool:
        """Whether this call is struck; counts it."""
        if not (fnmatch.fnmatch(call.service, self.service) and fnmatch.fnmatch(call.action, self.action)):
            return False
        for name, value in self.match.items():
            if not any(
                fnmatch.fnmatch(key, name) and fnmatch.fnmatch(str(given), value)
                for key, given in call.params.items()
            ):
                return False
        self._met += 1
        if self._met <= self.skip or (self.times is not None and self._met > self.skip + self.times):
            return False
        return chance.random() <= self.probability


class Faults:
    """Middleware: strikes calls by the rules that are set.

    Args:
        app: The next application of the chain.
    """

    def __init__(self, app: WsgiApp) -> None:
        self._app = app
        self._rules: list[Rule] = []
        self._struck: list[dict[str, Any]] = []
        self._born: dict[str, float] = {}
        self._lock = threading.Lock()
        self._chance = random.Random(0)

    def set(self, rules: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        """Replace the rules, and forget what was struck.

        Args:
            rules: The rules as JSON; see `Rule`.
            seed: For the rules with a probability.
        """
        made = [Rule.of(entry) for entry in rules]
        with self._lock:
            self._rules = made
            self._chance = random.Random(seed)
            self._struck.clear()
            self._born.clear()

    def struck(self) -> list[dict[str, Any]]:
        """The faults so far: time, service, action, effect, code."""
        with self._lock:
            return list(self._struck)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        with self._lock:
            rules = self._rules
            hits = [rule for rule in rules if rule.effect != "invisible" and rule.strikes(call, self._chance)]
            for rule in hits:
                self._note(call, rule)
        for rule in hits:
            if rule.effect == "latency":
                time.sleep(rule.seconds)
            elif rule.effect == "error":
                return call.error(start_response, rule.code, rule.status, rule.message)
            elif rule.effect == "drop":
                _drop(environ)
        hidden = self._hidden(call)
        if hidden:
            return call.error(start_response, not_found(hidden), 400, f"The ID '{hidden}' does not exist")
        after = next((rule for rule in hits if rule.effect.endswith("_after")), None)
        watch = call.service == "ec2" and any(rule.effect == "invisible" for rule in rules)
        if after is None and not watch:
            return self._app(environ, start_response)
        status, headers, body = run(self._app, environ)
        if watch and status.startswith("2") and call.action.startswith(("Run", "Create", "Allocate")):
            with self._lock:
                for found in _NEW_ID.findall(body):
                    self._born.setdefault(found.decode(), time.monotonic())
        if after is not None and after.effect == "drop_after":
            _drop(environ)
        if after is not None:
            return call.error(start_response, after.code, after.status, after.message)
        start_response(status, headers)
        return [body]

    def _hidden(self, call: Call) -> str:
        """The first resource in the call that is still invisible."""
        if call.service != "ec2":
            return ""
        with self._lock:
            for rule in self._rules:
                if rule.effect != "invisible" or not fnmatch.fnmatch(call.action, rule.action):
                    continue
                for value in call.ids():
                    born = self._born.get(value)
                    if born is not None and time.monotonic() - born < rule.seconds:
                        self._note(call, rule)
                        return value
        return ""

    def _note(self, call: Call, rule: Rule) -> None:
        self._struck.append(
            {
                "at": call.at,
                "service": call.service,
                "action": call.action,
                "effect": rule.effect,
                "code": rule.code,
            }
        )


def not_found(resource_id: str) -> str:
    """EC2's code for an id that it does not know."""
    return _NOT_FOUND.get(resource_id.rpartition("-")[0], "InvalidParameterValue")


def _drop(environ: Environ) -> None:
    connection = environ.get("werkzeug.socket")
    if connection is not None:
        connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("dropped by a fault")
