"""EC2 instances: launch (one call for any number), find by tag, terminate."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from prefect_coiled.aws.batches import INSTANCE_TYPES, TERMINATED_AT_ONCE, batches, pages_of
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.launch_refusals import ProfileNotReadyError, explained
from prefect_coiled.aws.tagged import ec2_kind
from prefect_coiled.aws.waits import CONSISTENCY, PROFILE_USABLE, TERMINATED, retry_while, wait_for
from prefect_coiled.errors import (
    AccessDeniedError,
    AwsError,
    CredentialsError,
    InvalidRequestError,
    NotFoundError,
    OptionsError,
    UnavailableError,
    WaitTimeoutError,
    printable,
)
from prefect_coiled.options.base import near
from prefect_coiled.plan import tags
from prefect_coiled.plan.aws_errors import state_words
from prefect_coiled.plan.kept import interface, market
from prefect_coiled.plan.kinds import Item, Kind, Scope
from prefect_coiled.plan.machines import table
from prefect_coiled.plan.prices import GP3_MIBPS, Prices
from prefect_coiled.records import InstanceRecord

LIVE = ("pending", "running", "stopping", "stopped")
# Those of a machine that works, or will. What AWS or somebody has stopped does not start by itself again.
RUNS = ("pending", "running")
# Where a policy refused so many instances one by one, and none was not, all are.
_REFUSED_ALL = 8


def _record(item: dict[str, Any]) -> InstanceRecord:
    labels = tags.from_aws(item.get("Tags"))
    return InstanceRecord(
        instance_id=item["InstanceId"],
        role="scheduler" if labels.get(tags.ROLE) == "scheduler" else "worker",
        instance_type=item["InstanceType"],
        zone=item["Placement"]["AvailabilityZone"],
        subnet_id=item.get("SubnetId") or "",
        private_ip=item.get("PrivateIpAddress") or "",
        public_ip=item.get("PublicIpAddress") or "",
        spot=item.get("InstanceLifecycle") == "spot",
        works=labels.get(tags.ROLE) != "scheduler" or labels.get(tags.ALSO) == "worker",
        state=item["State"]["Name"],
        state_reason=state_words((item.get("StateReason") or {}).get("Message", "")),
        launched_at=item.get("LaunchTime"),
        cluster=labels.get(tags.CLUSTER, ""),
        cluster_uid=labels.get(tags.CLUSTER_UID, ""),
        creator=labels.get(tags.CREATOR, ""),
    )


def find_instances(
    aws: Aws, cluster: str | None = None, *, states: Iterable[str] = LIVE, uid: str | None = None
) -> list[InstanceRecord]:
    """The instances of the clusters of a name, of one, or of all the account's clusters, oldest first."""
    found = [_record(item) for item in _described(aws, Scope(cluster, uid), states)]
    return sorted(found, key=lambda i: (str(i.launched_at), i.instance_id))


def _described(aws: Aws, scope: Scope, states: Iterable[str]) -> list[Item]:
    wanted = tags.cluster_filter(aws.account, scope.cluster, scope.uid)
    reservations = aws.pages(
        "ec2:DescribeInstances",
        f"finding instances ({scope.cluster or aws.account})",
        "Reservations",
        Filters=tags.filters(wanted, instance_state_name=states),
        MaxResults=1000,
    )
    # Each once: pages of a list that changes may show one twice.
    shown = {item["InstanceId"]: item for reservation in reservations for item in reservation["Instances"]}
    return list(shown.values())


def find_by_id(aws: Aws, instance_id: str) -> InstanceRecord | None:
    """One instance by its id; None if AWS does not show it (yet)."""
    try:
        reply = aws.call(
            "ec2:DescribeInstances", f"reading instance ({instance_id})", InstanceIds=[instance_id]
        )
    except NotFoundError:
        return None
    found = [_record(i) for r in reply["Reservations"] for i in r["Instances"]]
    return found[0] if found else None


def find_by_token(aws: Aws, token: str) -> list[InstanceRecord]:
    """The instances that are there of a launch with this client token."""
    reservations = aws.pages(
        "ec2:DescribeInstances",
        "finding what a launch made",
        "Reservations",
        Filters=tags.filters({}, client_token=token, instance_state_name=LIVE),
    )
    return [_record(item) for reservation in reservations for item in reservation["Instances"]]


def launch_instances(
    aws: Aws,
    what: str,
    *,
    by: str | Mapping[str, Any],
    instance_type: str,
    subnet_id: str,
    public_address: bool,
    group_ids: list[str],
    count: int,
    token: str,
    labels: dict[str, str],
    spot: bool = False,
) -> list[InstanceRecord]:
    """Launch up to `count` machines with one RunInstances call; at least one, or it fails.

    Tags and client token are inside the call, so that a machine is findable from its first moment and a call
    whose reply was lost can be sent again without a second set of machines.

    Args:
        by: The id of a launch template, or what one would say: then there is none to make and to wait for.

    Raises:
        NoCapacityError: If AWS has none of this type in this zone.
        QuotaError: If a limit of the AWS account is reached.
        AccountStateError: If the AWS account is on the free plan, which has other types.
    """

    def launch() -> dict[str, Any]:
        try:
            return aws.call(
                "ec2:RunInstances",
                what,
                **_said(by),
                InstanceType=instance_type,
                NetworkInterfaces=[interface(subnet_id, public_address, group_ids)],
                MinCount=1,
                MaxCount=count,
                ClientToken=token,
                TagSpecifications=tags.specifications(labels, "instance", "volume", "network-interface"),
                **market(spot),
            )
        except AwsError as error:
            raise explained(aws, instance_type, error) from error

    reply = retry_while(
        aws,
        "waiting for EC2 to accept the instance profile",
        launch,
        ProfileNotReadyError,
        timeout=PROFILE_USABLE,
    )
    return [_record(item) for item in reply["Instances"]]


def _said(by: str | Mapping[str, Any]) -> dict[str, Any]:
    """What a launch says of its machines. User data is plain here, and botocore encodes it."""
    if isinstance(by, str):
        return {"LaunchTemplate": {"LaunchTemplateId": by, "Version": "1"}}
    return {**by, "UserData": base64.b64decode(by["UserData"]).decode()}


def terminate_instances(aws: Aws, instance_ids: Iterable[str], over: set[str] | None = None) -> list[str]:
    """Ask AWS to terminate the instances; one that AWS refuses, or does not know, keeps no other running.

    A call that is refused for one of its instances terminates none, or only those in other zones:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html

    Args:
        over: Gets those that AWS says were terminated before.

    Returns:
        Those that AWS does not know: they are gone for long, or so new that it does not know them yet.

    Raises:
        AwsError: The first refusal, once the others were asked to end; with all that AWS keeps as `left`.
    """
    refusals: dict[str, AwsError] = {}
    unknown: list[str] = []
    ended, given_up = 0, False

    def end(some: list[str]) -> None:
        nonlocal ended, given_up
        denied = sum(isinstance(error, AccessDeniedError) for error in refusals.values())
        if given_up := not ended and denied >= _REFUSED_ALL:
            return
        one = f"instance ({some[0]})" if len(some) == 1 else f"{len(some)} instances"
        try:
            reply = aws.call("ec2:TerminateInstances", f"terminating {one}", InstanceIds=some)
            ended += len(some)
            if over is not None:
                listed = reply["TerminatingInstances"]
                over.update(i["InstanceId"] for i in listed if i["PreviousState"]["Name"] == "terminated")
        except (UnavailableError, CredentialsError):
            raise  # of no instance in particular
        except AwsError as error:
            if len(some) > 1:
                middle = len(some) // 2
                end(some[:middle])
                end(some[middle:])
            elif isinstance(error, NotFoundError):
                unknown.append(some[0])
            else:
                refusals[some[0]] = error

    asked = list(instance_ids)
    for chunk in batches(asked, TERMINATED_AT_ONCE):
        end(chunk)
    if refusals:
        first = next(iter(refusals.values()))
        why = {one: error.diagnosis.why for one, error in refusals.items()}
        first.left = dict.fromkeys(asked, first.diagnosis.why) if given_up else why
        raise first
    return unknown


# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
_STUCK = (
    "AWS bills no machine that is shutting down; `prefect-coiled sweep` removes the rest once it is gone. "
    "One that stays so for hours only AWS's support can end."
)


def wait_terminated(
    aws: Aws,
    instance_ids: Iterable[str],
    *,
    timeout: float = TERMINATED,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until every one of the instances was seen terminated, or was absent from lists for a while.

    One that runs is asked to end again: AWS may not have known it when it was asked before.

    Raises:
        WaitTimeoutError: If one is still there after `timeout` seconds.
        AwsError: If AWS refuses to end one.
    """
    left = set(instance_ids)
    shown: dict[str, str] = {}
    missing_since: dict[str, float] = {}

    def gone() -> bool | None:
        if left:
            try:
                states = _states(aws, sorted(left))
                shown.update(states)
                if running := [one for one in sorted(left) if states.get(one) in LIVE]:
                    terminate_instances(aws, running)
            except UnavailableError:
                return None  # the next look may be answered
            for one in sorted(left):
                if states.get(one) == "terminated":
                    left.discard(one)
                elif one in states:
                    missing_since.pop(one, None)
                # A list may be stale: absence counts only once it has lasted.
                elif clock() - missing_since.setdefault(one, clock()) > CONSISTENCY:
                    left.discard(one)
        return None if left else True

    what = "waiting for instances to terminate"
    try:
        wait_for(aws, what, gone, timeout=timeout, interval=3.0)
    except WaitTimeoutError as late:
        some = [f"{one} is {shown.get(one, 'not shown')}" for one in sorted(left)]
        named = f"{', '.join(some[:3])}{f' and {len(some) - 3} more' if len(some) > 3 else ''}"
        raise WaitTimeoutError(what, f"after {timeout:.0f} seconds {named}", _STUCK) from late


def _states(aws: Aws, instance_ids: list[str]) -> dict[str, str]:
    """The states of those that AWS shows."""
    what = "reading instance states"
    found = pages_of(aws, "ec2:DescribeInstances", what, "Reservations", "instance-id", instance_ids)
    return {i["InstanceId"]: str(i["State"]["Name"]) for r in found for i in r["Instances"]}


def console_output(aws: Aws, instance_id: str) -> str:
    """What the instance wrote to its console; empty if AWS has nothing, or does not show it."""
    try:
        return read_console(aws, instance_id)
    except AwsError:
        return ""


def read_console(aws: Aws, instance_id: str) -> str:
    """What the instance wrote to its console; empty if AWS has nothing, or does not know it any more.

    Raises:
        AwsError: If AWS does not show it.
    """
    what = f"reading console of ({instance_id})"
    try:
        try:
            reply = aws.call("ec2:GetConsoleOutput", what, InstanceId=instance_id, Latest=True)
        except InvalidRequestError:
            # `Latest` needs a Nitro machine; the plain call works on all, a few minutes late.
            reply = aws.call("ec2:GetConsoleOutput", what, InstanceId=instance_id)
    except NotFoundError:
        return ""
    return printable(reply.get("Output") or "")


def check_instance_types(aws: Aws, names: Collection[str]) -> None:
    """Ask AWS about instance types by name.

    Raises:
        AwsError: With the code InvalidInstanceType, for a type that does not exist in this region; it names
            those that are nearly called so.
        OptionsError: For a type with more than one GPU.
    """
    what = "checking instance types"
    try:
        replies = [
            aws.call("ec2:DescribeInstanceTypes", what, InstanceTypes=some)
            for some in batches(sorted(set(names)), INSTANCE_TYPES)
        ]
    except InvalidRequestError as error:
        if error.code != "InvalidInstanceType":
            raise
        hints = [near(name, table(), 3) for name in names if name in error.diagnosis.why]
        raise error.told_as(type(error), next_step=" ".join(filter(None, hints))) from error
    for found in (one for reply in replies for one in reply["InstanceTypes"]):
        gpus = sum(int(g.get("Count", 0)) for g in found.get("GpuInfo", {}).get("Gpus", ()))
        if gpus > 1:
            raise OptionsError(
                f"vm_type {found['InstanceType']!r}",
                f"has {gpus} GPUs; a worker can have one.",
                "Ask for more workers.",
            )


def _usd(item: Item, prices: Prices) -> float | None:
    """The machine and its public address. Disks are priced apart."""
    if item["State"]["Name"] not in ("pending", "running", "stopping"):
        return 0.0
    price = prices.machine(item["InstanceType"], spot=item.get("InstanceLifecycle") == "spot")
    return None if price is None else price + prices.beside(public=bool(item.get("PublicIpAddress")))


def _alive(item: Item) -> str:
    role = tags.from_aws(item.get("Tags")).get(tags.ROLE)
    return "live" if role == "scheduler" and item["State"]["Name"] in RUNS else ""


def _note(item: Item) -> str:
    machine = _record(item)
    return f"{machine.role}, {machine.instance_type}, {machine.state}"


INSTANCE = Kind(
    name="instance",
    # Also those that are shutting down: what belongs to them can go only after them.
    find=lambda aws, scope: _described(aws, scope, (*LIVE, "shutting-down")),
    id_of=lambda item: str(item["InstanceId"]),
    note=_note,
    usd=_usd,
    since=lambda item: item.get("LaunchTime"),
    of_clusters=True,
    alive=_alive,
    waits_for=("intent", "security group"),
    delete=lambda aws, items: terminate_instances(aws, [str(item["InstanceId"]) for item in items]),
    at_once=TERMINATED_AT_ONCE,
    gone=lambda aws, items, patience: wait_terminated(
        aws, [str(item["InstanceId"]) for item in items], timeout=min(patience, TERMINATED)
    ),
)

# Of a machine; it goes with it.
VOLUME = ec2_kind(
    "volume",
    "ec2:DescribeVolumes",
    "Volumes",
    "VolumeId",
    note=lambda item: f"{item.get('Size', '?')} GiB, {item.get('State', '')}",
    usd=lambda item, prices: (
        prices.beside(item["Size"], throughput=item.get("Throughput") or GP3_MIBPS)
        if item.get("Size")
        else None
    ),
    of_clusters=True,
    part_of="instance",
)
