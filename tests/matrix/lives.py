"""Lives of an account that end at a chosen call, and what AWS has of it afterwards.

A process that is killed makes no call any more. So a life ends here by an exception that is no `Exception`,
at the call and at every later one of whichever thread: for AWS there is no difference.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import botocore.client
from botocore.exceptions import ConnectionClosedError

from prefect_coiled.plan import tags
from prefect_coiled.plan.actions import ACTIONS
from prefect_coiled.plan.user_data import BAKED
from prefect_coiled.sandbox import Sandbox
from tests.provision.laid import refused

__all__ = [
    "FAULTS",
    "Killed",
    "Life",
    "action_of",
    "answer",
    "call_aws",
    "called",
    "changes",
    "what_there_is",
]

_NAME = "_make_api_call"
call_aws: Any = botocore.client.BaseClient.__dict__[_NAME]

FAULTS = ("killed before", "killed after", "reply lost", "failed after the effect", "denied", "slowed down")
# Calls that change nothing which stays: who asks for them again, or is told of them, loses nothing.
_NOTHING_STAYS = {"logs:PutLogEvents", "logs:CreateLogStream"}
_STAY = ("/set-up", "/known")
_READS = ("Describe", "Get", "List", "Head", "Filter", "Simulate", "Decode", "Lookup")


@contextmanager
def called(instead: Callable[[Any, str, dict[str, Any]], Any]) -> Iterator[None]:
    """What every call of AWS's goes through inside the block; `call_aws` makes it."""

    def call(client: Any, operation: str, given: dict[str, Any]) -> Any:
        return instead(client, operation, given)

    setattr(botocore.client.BaseClient, _NAME, call)
    try:
        yield
    finally:
        setattr(botocore.client.BaseClient, _NAME, call_aws)


def answer(client: Any, operation: str, given: dict[str, Any]) -> Any:
    """What AWS answers. A machine that bakes stops at once, and its console says that all is installed."""
    reply = call_aws(client, operation, given)
    if operation == "RunInstances":
        of = [(m, tags.from_aws(m.get("Tags")).get(tags.CLUSTER, "")) for m in reply["Instances"]]
        bakes = [machine for machine, cluster in of if cluster.startswith("bake-")]
        if bakes:
            call_aws(client, "StopInstances", {"InstanceIds": [machine["InstanceId"] for machine in bakes]})
    if operation == "GetConsoleOutput":
        return {**reply, "Output": f"prefect-coiled: {BAKED} 2 packages"}
    return reply


class Killed(BaseException):
    """The process of this life is no more."""


class Life:
    """Counts the calls that change something, and has a fault at one of them, or at two.

    Args:
        faults: By the number of a call, from 0, or by its action: what happens there.
    """

    def __init__(self, faults: Mapping[int | str, str] | None = None) -> None:
        self.calls: list[str] = []
        self.met: list[str] = []
        self._faults = faults or {}
        self._denied: set[str] = set()
        self._dead = False
        self._lock = threading.Lock()

    @contextmanager
    def lived(self) -> Iterator[None]:
        """All calls of this process inside the block are of this life."""
        with called(self._call):
            yield

    def _call(self, client: Any, operation: str, given: dict[str, Any]) -> Any:
        action = action_of(client, operation)
        with self._lock:
            if self._dead:
                raise Killed
            fault = ""
            if changes(action):
                fault = self._faults.get(len(self.calls)) or self._faults.get(action, "")
                self.calls.append(action)
            if fault:
                self.met.append(action)
            if fault == "denied":
                self._denied.add(action)
            if fault == "killed before":
                self._dead = True
                raise Killed
        if action in self._denied:
            raise refused(operation, "AccessDenied", status=403)
        if fault == "slowed down":
            raise refused(operation, "Throttling")
        reply = answer(client, operation, given)
        if fault == "killed after":
            self._dead = True
            raise Killed
        if fault == "reply lost":
            raise ConnectionClosedError(endpoint_url="https://aws")
        if fault == "failed after the effect":
            raise refused(operation, "InternalError", status=500)
        return reply


def action_of(client: Any, operation: str) -> str:
    """As IAM and the table of actions name it."""
    return f"{client.meta.service_model.service_name}:{operation}"


def changes(action: str) -> bool:
    """Whether a call changes something that stays."""
    known = action in ACTIONS and action not in _NOTHING_STAYS
    return known and not action.partition(":")[2].startswith(_READS)


def _pages(client: Any, operation: str, key: str, **given: Any) -> list[Any]:
    if not client.can_paginate(operation):
        return list(getattr(client, operation)(**given)[key])
    return [item for page in client.get_paginator(operation).paginate(**given) for item in page[key]]


def what_there_is(sandbox: Sandbox) -> Counter[str]:
    """All that an AWS account holds, by kind, asked of AWS itself and not of this library."""
    ec2, ssm, iam = (sandbox.client(name) for name in ("ec2", "ssm", "iam"))
    found: Counter[str] = Counter()
    for reservation in _pages(ec2, "describe_instances", "Reservations"):
        for machine in reservation["Instances"]:
            if machine["State"]["Name"] not in ("terminated", "shutting-down"):
                role = {t["Key"]: t["Value"] for t in machine["Tags"]}["coiled-role"]
                found[f"instance: {role}"] += 1
    found["volume"] = len(_pages(ec2, "describe_volumes", "Volumes"))
    groups = _pages(ec2, "describe_security_groups", "SecurityGroups")
    found["security group"] = sum(group["GroupName"] != "default" for group in groups)
    found["rule"] = sum(
        len(rule["IpRanges"]) + len(rule["UserIdGroupPairs"])
        for group in groups
        if group["GroupName"] != "default"
        for rule in group["IpPermissions"]
    )
    found["image"] = len(ec2.describe_images(Owners=["self"])["Images"])
    found["snapshot"] = len(_pages(ec2, "describe_snapshots", "Snapshots", OwnerIds=["self"]))
    found["launch template"] = len(_pages(ec2, "describe_launch_templates", "LaunchTemplates"))
    gateways = _pages(ec2, "describe_nat_gateways", "NatGateways")
    found["NAT gateway"] = sum(g["State"] in ("pending", "available") for g in gateways)
    found["address"] = len(ec2.describe_addresses()["Addresses"])
    found["VPC"] = sum(not vpc["IsDefault"] for vpc in _pages(ec2, "describe_vpcs", "Vpcs"))
    found["subnet"] = sum(not one["DefaultForAz"] for one in _pages(ec2, "describe_subnets", "Subnets"))
    found["gateway"] = len(_pages(ec2, "describe_internet_gateways", "InternetGateways"))
    found["route table"] = len(_pages(ec2, "describe_route_tables", "RouteTables"))
    endpoints = _pages(ec2, "describe_vpc_endpoints", "VpcEndpoints")
    found["endpoint"] = sum(one["State"] not in ("deleting", "deleted") for one in endpoints)
    for parameter in _pages(ssm, "describe_parameters", "Parameters"):
        # A lease that nobody holds any more is taken over by whoever needs it next; what is known of an
        # account stays as long as the account.
        if parameter["Name"].startswith("/prefect-coiled/") and not parameter["Name"].endswith(_STAY):
            found["parameter"] += 1
    for role in _pages(iam, "list_roles", "Roles"):
        found["role"] += not role["Path"].startswith("/aws-service-role/")
        found["role's policy"] += len(iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"])
    found["instance profile"] = len(_pages(iam, "list_instance_profiles", "InstanceProfiles"))
    found["policy"] = len(_pages(iam, "list_policies", "Policies", Scope="Local"))
    found["bucket"] = len(sandbox.client("s3").list_buckets()["Buckets"])
    found["log group"] = len(_pages(sandbox.client("logs"), "describe_log_groups", "logGroups"))
    found["repository"] = len(_pages(sandbox.client("ecr"), "describe_repositories", "repositories"))
    return +found
