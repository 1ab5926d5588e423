"""`prefect-coiled check`: who the credentials are, what AWS would deny them, and what else stands in the way.

Whatever is found, all the rest is looked at and said as well; with --json that is one object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from prefect_coiled.cli.common import out, print_json, quiet, table
from prefect_coiled.cli.declare import At, JsonOption, command
from prefect_coiled.errors import PrefectCoiledError

if TYPE_CHECKING:
    from rich.console import Console

    from prefect_coiled.aws.caller import Caller
    from prefect_coiled.aws.door import Aws
    from prefect_coiled.aws.loaded_account import Account
    from prefect_coiled.plan.cluster import ClusterSpec
    from prefect_coiled.provision.room import Room


@command("check")
def check(at: At, as_json: JsonOption = False) -> None:
    """Say who the account's credentials are, what AWS would deny them, and how many workers fit.

    Changes nothing. The exit code is 1 where something would be denied that a cluster needs, or where a
    cluster of the default types would not come up.
    """
    # What was not come to is null.
    answer: dict[str, Any] = {
        "account": at.loaded.slug,
        "region": at.aws.region,
        **dict.fromkeys(("aws_account_id", "arn", "remark", "disk_key", "blocked", "room")),
        **dict.fromkeys(("scheduler_room", "scheduler_quota")),
        **dict.fromkeys(("quota", "free_plan", "disk_key_denied", "denied", "not_foreseen", "error")),
        "budget": None,
        "ready": False,
    }
    try:
        _look(at, quiet() if as_json else out(), answer)
    except PrefectCoiledError as error:
        answer["error"] = str(error)
        raise
    finally:
        if as_json:
            print_json(answer)
    if not answer["ready"]:
        raise typer.Exit(1)


def _look(at: At, console: Console, answer: dict[str, Any]) -> None:
    """Look at everything, say it, and note it in the answer."""
    from prefect_coiled.aws.caller import find_caller
    from prefect_coiled.aws.disk_key import find_disk_key
    from prefect_coiled.errors import AwsError, CredentialsError, OptionsError
    from prefect_coiled.provision.budget import find_standing
    from prefect_coiled.provision.obstacles import find_obstacles
    from prefect_coiled.task_runner.api_url import choose_way

    loaded, aws = at.loaded, at.aws
    console.print(f"Account {loaded.slug} in {at}")
    way = choose_way(shares_loopback=loaded.shares_loopback)
    answer["remark"] = remark = str(way) if way.relay else ""
    caller = find_caller(aws)
    console.print(f"AWS account {caller.aws_account_id} as {caller.arn}")
    answer |= {"aws_account_id": caller.aws_account_id, "arn": caller.arn}
    if remark:
        console.print(f"{remark}.")
    room = _room(loaded, aws)
    for line in room.lines():
        # The sandbox has no quotas unless it is told.
        if room.workers is not None or room.schedulers is not None or room.free_plan or not loaded.is_sandbox:
            console.print(line)
    if loaded.monthly_budget is not None:
        try:
            standing = find_standing(aws, loaded.monthly_budget)
        except CredentialsError:
            raise
        except AwsError as error:  # a launch is refused for it
            stands = f"How the account stands to its budget is not to be seen: {error.diagnosis.why}"
            console.print(" ".join(stands.split()))
            answer["budget"] = {"budget": loaded.monthly_budget, "error": error.diagnosis.why}
        else:
            console.print(str(standing))
            answer["budget"] = standing.told()
    key = find_disk_key(aws)
    try:
        shut = find_obstacles(aws, _usual(loaded, caller.name))
    except OptionsError as error:
        shut = [str(error)]
    for obstacle in shut:
        console.print(obstacle)
    answer |= {
        "disk_key": key,
        "blocked": " ".join(shut),
        "room": room.workers,
        "quota": room.quota.model_dump() if room.quota else None,
        "scheduler_room": room.schedulers,
        "scheduler_quota": room.scheduler_quota.model_dump() if room.scheduler_quota else None,
        "free_plan": list(room.free_plan),
    }
    permitted = _permitted(aws, loaded, caller, console, answer)
    suffices = room.suffices and not shut
    if not suffices:
        console.print("A cluster of the default types would not come up.")
    if suffices and permitted and "error" not in (answer.get("budget") or {}):
        answer["ready"] = True
        console.print("Ready.")


def _permitted(aws: Aws, account: Account, caller: Caller, console: Console, answer: dict[str, Any]) -> bool:
    """Whether AWS lets the caller do all that a cluster needs, as far as IAM says so."""
    from prefect_coiled.aws.foresight import foresee, may_use_key
    from prefect_coiled.aws.vpc import find_vpcs
    from prefect_coiled.errors import AccessDeniedError, AwsError, CredentialsError
    from prefect_coiled.plan.actions import OPTIONAL

    try:
        denied = foresee(aws, caller, account.credentials.role_arn)
    except CredentialsError:
        raise
    except AwsError as error:
        why = " ".join(error.diagnosis.why.split())
        answer["not_foreseen"] = why
        console.print(f"What would be denied cannot be foreseen: {why}")
        if isinstance(error, AccessDeniedError):
            console.print(f"Attach a policy that lets it ask: {_policy_that_asks(account, caller.arn)}.")
        console.print(_set_up_or_not(aws))
        return False
    answer["denied"] = [{"action": d.action, "resource": d.resource, "policy": d.phase} for d in denied]
    if denied:
        rows = table("DENIED", "ON", "POLICY THAT HAS IT")
        for one in denied:
            rows.add_row(one.action, one.resource, one.phase)
        console.print(rows)
    key = answer["disk_key"]
    without_key = bool(key) and not may_use_key(aws, caller, key, account.credentials.role_arn)
    answer["disk_key_denied"] = without_key
    if without_key:
        console.print(
            f"Disks are encrypted with the KMS key {key}, and the credentials' own policies do not permit "
            f"its use. Attach the policy: `prefect-coiled policies ongoing --account {account.slug} "
            f"--kms-key {key}`."
        )
    phases = {one.phase for one in denied}
    if "ongoing" in phases:
        console.print(f"Attach the policy: `prefect-coiled policies ongoing --account {account.slug}`.")
        if any(one.phase == "ongoing" and one.action not in OPTIONAL for one in denied):
            return False
        console.print("Clusters come up without it: it is for prices, and for what is told of a refusal.")
    if "setup" in phases and not find_vpcs(aws):
        console.print(
            f"Not set up yet; attach the policy: `prefect-coiled policies setup --account {account.slug}`."
        )
        return False
    if "setup" in phases:
        console.print("Set up. New networks and subnets need the set-up policy again; all else goes on.")
    return not without_key


def _usual(account: Account, creator: str) -> ClusterSpec:
    """A cluster as it is where nothing is said but what the account says."""
    from prefect_coiled.cluster.request import Request

    return Request(n_workers=1).spec(account, creator, own_cidr=lambda: "127.0.0.1/32")


def _policy_that_asks(account: Account, arn: str) -> str:
    """The command that prints it: a role has to be named."""
    command = f"prefect-coiled policies ongoing --account {account.slug}"
    if ":assumed-role/" in arn:
        number, name = arn.split(":")[4], arn.split("/")[1]
        command += f" --role-arn {account.credentials.role_arn or f'arn:aws:iam::{number}:role/{name}'}"
    return f"`{command}`"


def _set_up_or_not(aws: Aws) -> str:
    from prefect_coiled.aws.vpc import find_vpcs
    from prefect_coiled.errors import AccessDeniedError

    try:
        return "The account is set up here." if find_vpcs(aws) else "The account is not set up here yet."
    except AccessDeniedError as error:
        return f"Whether the account is set up is not to be seen: {' '.join(error.diagnosis.why.split())}"


def _room(account: Account, aws: Aws) -> Room:
    """For how many workers there is room, of what a cluster has where nothing else is said."""
    from prefect_coiled.cluster.request import Request
    from prefect_coiled.provision.room import find_room

    request = Request()
    spot = request.merged(account).options.spot_policy != "on-demand"
    return find_room(aws, request.worker_types()[0], request.scheduler_types()[0], spot=spot)
