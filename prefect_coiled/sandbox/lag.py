"""What a call takes, and how long EC2 does not know of what it just made.

https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html: what was made may be missing in
lists, and its id may not be found, for a while. The fault "invisible" is the same for the ids of one call.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterable
from xml.etree import ElementTree

from prefect_coiled.sandbox.calls import Environ, StartResponse, WsgiApp, call_of, run
from prefect_coiled.sandbox.faults import not_found
from prefect_coiled.sandbox.settings import Settings

__all__ = ["Delay", "Lag"]

# Which call makes a kind, which one lists it, and where its id is.
_KINDS = (
    ("AllocateAddress", "DescribeAddresses", "allocationId"),
    ("CreateInternetGateway", "DescribeInternetGateways", "internetGatewayId"),
    ("CreateLaunchTemplate", "DescribeLaunchTemplates", "launchTemplateId"),
    ("CreateNatGateway", "DescribeNatGateways", "natGatewayId"),
    ("CreateRouteTable", "DescribeRouteTables", "routeTableId"),
    ("CreateSecurityGroup", "DescribeSecurityGroups", "groupId"),
    ("CreateSubnet", "DescribeSubnets", "subnetId"),
    ("CreateVpc", "DescribeVpcs", "vpcId"),
    ("CreateVpcEndpoint", "DescribeVpcEndpoints", "vpcEndpointId"),
    ("RunInstances", "DescribeInstances", "instanceId"),
)
_MADE_BY = {making: re.compile(f"<{tag}>([^<]+)<".encode()) for making, _, tag in _KINDS}
_LISTED_BY = {listing: tag for _, listing, tag in _KINDS}


class Delay:
    """Middleware: each call takes its time.

    Args:
        app: The next application of the chain.
        settings: `api_delay`.
    """

    def __init__(self, app: WsgiApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._chance = random.Random(0)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Wait, and hand on to the next application."""
        least, most = self._settings.api_delay
        if most > 0:
            time.sleep(self._chance.uniform(least, most))
        return self._app(environ, start_response)


class Lag:
    """Middleware: what EC2 just made is not there yet.

    Args:
        app: The next application of the chain.
        settings: `list_lag`.
    """

    def __init__(self, app: WsgiApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._born: dict[str, float] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Everything is there."""
        with self._lock:
            self._born.clear()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        call = call_of(environ)
        if call.service != "ec2" or not self._settings.list_lag:
            return self._app(environ, start_response)
        young = self._young()
        for value in call.ids():
            if value in young:
                return call.error(start_response, not_found(value), 400, f"The ID '{value}' does not exist")
        status, headers, body = run(self._app, environ)
        if status.startswith("2") and call.action in _MADE_BY:
            with self._lock:
                for found in _MADE_BY[call.action].findall(body):
                    self._born.setdefault(found.decode(), time.monotonic())
        elif status.startswith("2") and call.action in _LISTED_BY and young:
            body = _without(body, young, _LISTED_BY[call.action])
            headers = [(k, v) for k, v in headers if k.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]

    def _young(self) -> set[str]:
        now = time.monotonic()
        with self._lock:
            self._born = {k: at for k, at in self._born.items() if now - at < self._settings.list_lag}
            return set(self._born)


def _without(body: bytes, young: set[str], tag: str) -> bytes:
    """A list without the items whose own id is among the young ones."""
    if not any(name.encode() in body for name in young):
        return body
    root = ElementTree.fromstring(body)
    for parent in list(root.iter()):
        for item in list(parent):
            own = next((child.text for child in item if _tag(child) == tag), None)
            if _tag(item) == "item" and own in young:
                parent.remove(item)
    # A reservation is there with its instances.
    for parent in list(root.iter()):
        for item in list(parent):
            held = next((child for child in item if _tag(child) == "instancesSet"), None)
            if held is not None and not len(held):
                parent.remove(item)
    space = root.tag[1:].partition("}")[0] if root.tag.startswith("{") else ""
    if space:
        ElementTree.register_namespace("", space)
    made: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return made


def _tag(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]
