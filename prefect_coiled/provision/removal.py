"""Remove clusters: machines first, then what they leave; and sweep what should no longer exist.

`remove_cluster` makes plain AWS calls, so that it works when the Prefect API does not. The flow
`delete_cluster` is the same as tasks that the UI shows. What cannot go yet (a security group whose machine
is still shutting down) is left with a reason, costs nothing, and goes with the next sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from prefect_coiled.aws import (
    instances,
    internet_gateway,
    launch_templates,
    nat_gateways,
    parameters,
    security_groups,
    subnets,
    vpc,
)
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.leases import lease
from prefect_coiled.aws.waits import AWS_FAILS, TERMINATED, persistently
from prefect_coiled.errors import AccessDeniedError, AwsError, WaitTimeoutError
from prefect_coiled.plan.policies import bucket_name
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.provision.standing import is_idle, look, uids_of
from prefect_coiled.records import Removal
from prefect_coiled.tasks.cluster import read_holder
from prefect_coiled.tasks.images import KEPT_IMAGES, remove_images
from prefect_coiled.tasks.notebook import Watch
from prefect_coiled.tasks.steps import step

T = TypeVar("T")


def terminate(aws: Aws, name: str, uid: str, ids: tuple[str, ...] = ()) -> list[str]:
    """Ask AWS to end all machines of a cluster: those found by tag and those known by id."""
    # Also those that are shutting down, so that the caller waits for them.
    states = (*instances.LIVE, "shutting-down")
    what = f"terminating cluster ({name})"
    machines = persistently(aws, what, lambda: instances.find_instances(aws, name, states=states, uid=uid))
    everything = list(dict.fromkeys((*ids, *(m.instance_id for m in machines))))
    if everything:
        persistently(aws, what, lambda: instances.terminate_instances(aws, everything))
    return everything


def remove_rest(aws: Aws, name: str, uid: str, ids: list[str], patience: float) -> Removal:
    """Remove what a cluster leaves once its machines are asked to end.

    Args:
        aws: The door.
        name: The cluster's name.
        uid: The cluster of that name.
        ids: Its machines.
        patience: Seconds to wait for the machines to be gone; the groups can go only then.
    """
    what = f"removing cluster ({name})"
    removed: dict[str, tuple[str, ...]] = {"instance": tuple(ids)}
    failed: list[str] = []

    def anew(action: Callable[[], T]) -> T:
        return persistently(aws, what, action, min(patience, AWS_FAILS))

    def part(kind: str, remove: Callable[[], Iterable[str]]) -> None:
        """Remove a part; one that fails does not keep the others."""
        try:
            removed[kind] = (*removed.get(kind, ()), *remove())
        except (WaitTimeoutError, AwsError) as error:
            failed.append(error.diagnosis.why)

    groups: list[dict[str, Any]] = []

    def groups_of() -> list[str]:
        groups[:] = anew(lambda: security_groups.find_security_groups(aws, name, uid))
        instances.wait_terminated(aws, ids, timeout=patience)
        return security_groups.delete_security_groups(aws, groups, timeout=min(patience, 60.0))

    part("launch template", lambda: anew(lambda: _delete_templates(aws, name, uid)))
    # Its keys go at once, whatever stays.
    part("parameter", lambda: anew(lambda: _delete_keys(aws, name, uid)))
    part("security group", groups_of)
    # The intent last: as long as anything else is there, the name is taken.
    if not failed:
        part("parameter", lambda: anew(lambda: _give_name_back(aws, name, uid)))
    done = {kind: found for kind, found in removed.items() if found}
    if not failed:
        return Removal(removed=done)
    there = [] if "security group" in done else [str(g["GroupId"]) for g in groups]
    left = there or [parameters.intent_of(aws.account, name)]
    return Removal(removed=done, left=dict.fromkeys(left, failed[0]))


def _delete_templates(aws: Aws, name: str, uid: str) -> tuple[str, ...]:
    found = [str(t["LaunchTemplateId"]) for t in launch_templates.find_launch_templates(aws, name, uid)]
    for template_id in found:
        launch_templates.delete_launch_template(aws, template_id)
    return tuple(found)


def _delete_keys(aws: Aws, name: str, uid: str) -> list[str]:
    found = parameters.find_parameters(aws, parameters.cluster_path(aws.account, name, uid))
    parameters.delete_parameters(aws, found)
    return found


def _give_name_back(aws: Aws, name: str, uid: str) -> list[str]:
    # Looked at just before: the name may be another cluster's.
    if read_holder(aws, name) != uid:
        return []
    intent = parameters.intent_of(aws.account, name)
    parameters.delete_parameters(aws, [intent])
    return [intent]


def remove_cluster(
    aws: Aws, name: str, uid: str | None = None, *, ids: tuple[str, ...] = (), patience: float = TERMINATED
) -> Removal:
    """Remove a cluster with plain calls, machines first. A repeat finds nothing and is fine.

    Args:
        aws: The door.
        name: The cluster's name.
        uid: Only this cluster of that name; None for those that there are now.
        ids: Machines known by id, in case lists are stale.
        patience: Seconds to wait for the machines to be gone.
    """
    return _remove(aws, name, uid, ids, patience, terminate, remove_rest)


def _remove(
    aws: Aws,
    name: str,
    uid: str | None,
    ids: tuple[str, ...],
    patience: float,
    end: Callable[[Aws, str, str, tuple[str, ...]], list[str]],
    rest: Callable[[Aws, str, str, list[str], float], Removal],
) -> Removal:
    """All clusters that are meant: first every machine, then the rest of each."""
    uids = uids_of(aws, name) if uid is None else (uid,)
    if not uids and ids:
        uids = ("",)
    # Machines that are known by id are ended with the first, whosever they are.
    ended = [end(aws, name, one, ids if n == 0 else ()) for n, one in enumerate(uids)]
    total = Removal()
    for one, machines in zip(uids, ended, strict=True):
        total += rest(aws, name, one, machines, patience)
    return total


@step("terminate instances", "terminate instances of {name}")
def _terminate(aws: Aws, name: str, uid: str, ids: tuple[str, ...]) -> list[str]:
    return terminate(aws, name, uid, ids)


@step("remove the rest", "remove the rest of {name}")
def _remove_rest(aws: Aws, name: str, uid: str, ids: list[str], patience: float) -> Removal:
    return remove_rest(aws, name, uid, ids, patience)


@flow(name="remove cluster", flow_run_name="remove {name}", persist_result=False)
def delete_cluster(
    account: str,
    region: str,
    name: str,
    uid: str | None = None,
    ids: tuple[str, ...] = (),
    patience: float = TERMINATED,
) -> Removal:
    """Terminate a cluster's machines and remove what belongs to it.

    Args:
        account: The account's slug.
        region: The AWS region.
        name: The cluster's name.
        uid: Only this cluster of that name; None for those that there are when the flow begins.
        ids: Machines known by id, in case lists are stale.
        patience: Seconds to wait for the machines to be gone.

    Returns:
        What was removed, and what is left for `sweep`.
    """
    with session_for(account, region, name) as session:
        aws = session.aws.without_stop()
        watch = Watch()
        removal = _remove(aws, name, uid, tuple(ids), patience, _terminate, _remove_rest)
        session.notes.note("delete_cluster", f"removed {removal}", elapsed=watch.seconds, cluster=name)
        return removal


@flow(name="sweep", flow_run_name="sweep {account} in {region}", persist_result=False)
def sweep(account: str, region: str, release_nat: bool = True) -> Removal:
    """Remove what should no longer exist in an account and region.

    That is: clusters without a live scheduler, with all that belongs to them; internet gateways and
    addresses that nothing uses; and while no cluster runs NAT gateways, because they cost money idle, and
    images but for the newest three of each Python.

    Args:
        account: The account's slug.
        region: The AWS region.
        release_nat: Whether idle NAT gateways go; the next cluster makes a new one.

    Returns:
        What was removed, and what could not be removed yet.
    """
    with session_for(account, region) as session:
        aws = session.aws
        total = Removal()
        for one in sorted(look(aws).dead):
            swept = _sweep_cluster(aws, one.name, one.uid)
            session.notes.note("sweep_cluster", f"removed {swept}", cluster=one.name, uid=one.uid)
            total += swept
        if release_nat and is_idle(aws):
            # A launch that begins meanwhile waits for the lease, and then makes what it needs again.
            with lease(aws, parameters.set_up_lease(account)):
                if is_idle(aws):
                    total += release_nat_gateways(aws)
        total += _sweep_loose(aws)
        total += _sweep_vpcs(aws)
        if is_idle(aws):
            total += _sweep_images(aws)
        session.notes.note("sweep", f"removed {total}")
        return total


@task(name="sweep cluster", task_run_name="sweep cluster {name}", cache_policy=NO_CACHE, persist_result=False)
def _sweep_cluster(aws: Aws, name: str, uid: str) -> Removal:
    return sweep_cluster(aws, name, uid)


def sweep_cluster(aws: Aws, name: str, uid: str) -> Removal:
    """Remove what is left of a cluster, if it is still as dead as it was when all were looked at."""
    return remove_cluster(aws, name, uid) if (name, uid) in look(aws, name).dead else Removal()


@step("release NAT gateways")
def release_nat_gateways(aws: Aws) -> Removal:
    """Delete the account's NAT gateways and wait until they are gone."""
    ids = tuple(str(n["NatGatewayId"]) for n in nat_gateways.list_nat_gateways(aws))
    nat_gateways.delete_nat_gateways(aws, list(ids))
    return Removal(removed={"NAT gateway": ids}) if ids else Removal()


@step("remove old images")
def _sweep_images(aws: Aws) -> Removal:
    # Not while machines run: a cluster launches more of them from its image.
    try:
        return remove_images(aws, account_bucket(aws), KEPT_IMAGES)
    except AccessDeniedError as error:
        # That is for the set-up policy, which may be detached.
        return Removal(left={"old images": error.diagnosis.why})


def account_bucket(aws: Aws) -> str:
    """Name of the account's bucket in the door's region."""
    return bucket_name(aws.account, aws.number, aws.region)


@step("remove what nothing uses")
def _sweep_loose(aws: Aws) -> Removal:
    total = Removal()
    for gateway in internet_gateway.find_internet_gateways(aws):
        if not gateway.get("Attachments"):
            gateway_id = str(gateway["InternetGatewayId"])
            total += _attempt(
                "internet gateway",
                gateway_id,
                partial(internet_gateway.delete_internet_gateway, aws, gateway_id, []),
            )
    return total + release_addresses(aws)


def release_addresses(aws: Aws) -> Removal:
    """Release the account's elastic addresses that nothing uses, and say which ones something else does."""
    released, kept = nat_gateways.release_addresses(aws)
    return Removal(removed={"elastic address": tuple(released)} if released else {}, left=kept)


def _attempt(kind: str, resource_id: str, delete: Callable[[], None]) -> Removal:
    """Delete something; where the set-up policy is missing, which may be detached, say that it is left."""
    try:
        delete()
    except AccessDeniedError as error:
        return Removal(left={resource_id: error.diagnosis.why})
    return Removal(removed={kind: (resource_id,)})


@step("remove surplus VPCs")
def _sweep_vpcs(aws: Aws) -> Removal:
    """Of several VPCs, which a lost reply can leave, those that nothing was put into."""
    found = [str(v["VpcId"]) for v in vpc.find_vpcs(aws)]
    if len(found) < 2:
        return Removal()
    attached = {
        a["VpcId"] for g in internet_gateway.find_internet_gateways(aws) for a in g.get("Attachments", ())
    }
    empty = [v for v in found if v not in attached and not subnets.find_subnets(aws, v)]
    surplus = empty if len(empty) < len(found) else empty[1:]
    total = Removal()
    for vpc_id in surplus:
        total += _attempt("VPC", vpc_id, partial(vpc.delete_vpc, aws, vpc_id))
    return total
