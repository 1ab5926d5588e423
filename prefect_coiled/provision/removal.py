"""Remove clusters: machines first, then what they leave; and sweep what should no longer exist.

`remove_cluster` makes plain AWS calls, so that it works when the Prefect API does not. The flow
`delete_cluster` is the same as tasks that the UI shows. What cannot go yet (a security group whose machine
is still shutting down) is left with a reason, costs nothing, and goes with the next sweep.
"""

from __future__ import annotations

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
from prefect_coiled.aws.caller import find_caller
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.leases import lease
from prefect_coiled.aws.waits import TERMINATED
from prefect_coiled.errors import AccessDeniedError, AwsError, WaitTimeoutError
from prefect_coiled.plan import tags
from prefect_coiled.plan.policies import bucket_name
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.records import Removal
from prefect_coiled.tasks.cluster import read_intent
from prefect_coiled.tasks.images import KEPT_IMAGES, remove_images
from prefect_coiled.tasks.notebook import Watch
from prefect_coiled.tasks.steps import step


def terminate(aws: Aws, name: str, uid: str | None = None, ids: tuple[str, ...] = ()) -> list[str]:
    """Ask AWS to end all machines of a cluster: those found by tag and those known by id."""
    # Also those that are shutting down, so that the caller waits for them.
    states = (*instances.LIVE, "shutting-down")
    found = [i.instance_id for i in instances.find_instances(aws, name, states=states, uid=uid)]
    everything = list(dict.fromkeys((*ids, *found)))
    if everything:
        instances.terminate_instances(aws, everything)
    return everything


def remove_rest(aws: Aws, name: str, uid: str | None, ids: list[str], patience: float) -> Removal:
    """Remove what a cluster leaves once its machines are asked to end.

    Args:
        aws: The door.
        name: The cluster's name.
        uid: Only this cluster of that name; None for whichever there are.
        ids: Its machines.
        patience: Seconds to wait for the machines to be gone; the groups can go only then.
    """
    removed: dict[str, tuple[str, ...]] = {"instance": tuple(ids)}
    left: dict[str, str] = {}
    templates = [t for t in launch_templates.find_launch_templates(aws, name) if _is(t, uid)]
    for template in templates:
        launch_templates.delete_launch_template(aws, str(template["LaunchTemplateId"]))
    removed["launch template"] = tuple(str(t["LaunchTemplateId"]) for t in templates)
    groups = [g for g in security_groups.find_security_groups(aws, name) if _is(g, uid)]
    try:
        instances.wait_terminated(aws, ids, timeout=patience)
        removed["security group"] = tuple(
            security_groups.delete_security_groups(aws, groups, timeout=min(patience, 60.0))
        )
    except (WaitTimeoutError, AwsError) as error:
        left.update({str(g["GroupId"]): error.diagnosis.why for g in groups})
    # The intent last: as long as anything else is there, the name is taken.
    path = parameters.cluster_path(aws.account, name)
    intent = f"{path}intent"
    holder = read_intent(aws, name)
    if uid is None or holder is None or holder.uid == uid:
        names = parameters.find_parameters(aws, path)
        parameters.delete_parameters(aws, sorted(names, key=lambda n: n == intent))
        removed["parameter"] = tuple(names)
    return Removal(removed={k: v for k, v in removed.items() if v}, left=left)


def _is(resource: dict[str, object], uid: str | None) -> bool:
    labels = tags.from_aws(resource.get("Tags"))  # type: ignore[arg-type]
    return uid is None or labels.get(tags.CLUSTER_UID) == uid


def remove_cluster(
    aws: Aws, name: str, uid: str | None = None, *, ids: tuple[str, ...] = (), patience: float = TERMINATED
) -> Removal:
    """Remove a cluster with plain calls, machines first. A repeat finds nothing and is fine."""
    ended = terminate(aws, name, uid, ids)
    return remove_rest(aws, name, uid, ended, patience)


@step("terminate instances", "terminate instances of {name}")
def _terminate(aws: Aws, name: str, uid: str | None, ids: tuple[str, ...]) -> list[str]:
    return terminate(aws, name, uid, ids)


@step("remove the rest", "remove the rest of {name}")
def _remove_rest(aws: Aws, name: str, uid: str | None, ids: list[str], patience: float) -> Removal:
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
        uid: Only this cluster of that name.
        ids: Machines known by id, in case lists are stale.
        patience: Seconds to wait for the machines to be gone.

    Returns:
        What was removed, and what is left for `sweep`.
    """
    with session_for(account, region, name) as session:
        aws = session.aws.without_stop()
        watch = Watch()
        ended = _terminate(aws, name, uid, tuple(ids))
        removal = _remove_rest(aws, name, uid, ended, patience)
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
        for name in sorted(clusters_of(aws)[1]):
            swept = _sweep_cluster(aws, name)
            session.notes.note("sweep_cluster", f"removed {swept}", cluster=name)
            total += swept
        if release_nat and _is_idle(aws):
            # A launch that begins meanwhile waits for the lease, and then makes what it needs again.
            with lease(aws, parameters.set_up_lease(account)):
                if _is_idle(aws):
                    total += release_nat_gateways(aws)
        total += _sweep_loose(aws)
        total += _sweep_vpcs(aws)
        if _is_idle(aws):
            total += _sweep_images(aws)
        session.notes.note("sweep", f"removed {total}")
        return total


def clusters_of(aws: Aws) -> tuple[set[str], set[str]]:
    """The clusters that live or are starting, and those of which something is left, both by name."""
    live = {i.cluster for i in instances.find_instances(aws) if i.role == "scheduler"}
    names = {i.cluster for i in instances.find_instances(aws)}
    for resources in (security_groups.find_security_groups(aws), launch_templates.find_launch_templates(aws)):
        names |= {tags.from_aws(r.get("Tags")).get(tags.CLUSTER, "") for r in resources}
    root = parameters.account_path(aws.account)
    starting = set()
    for name in parameters.find_parameters(aws, root):
        cluster, _, rest = name.removeprefix(root).partition("/")
        if rest:
            names.add(cluster)
        found = parameters.read_with_age(aws, name) if rest == "intent" else None
        if found is not None and found[1] < parameters.STARTING:
            starting.add(cluster)
    return live | starting, names - live - starting - {""}


def _is_idle(aws: Aws) -> bool:
    """Whether no machine of the account is there and no cluster is starting."""
    return not clusters_of(aws)[0] and not instances.find_instances(aws)


@task(name="sweep cluster", task_run_name="sweep cluster {name}", cache_policy=NO_CACHE, persist_result=False)
def _sweep_cluster(aws: Aws, name: str) -> Removal:
    return remove_cluster(aws, name)


@step("release NAT gateways")
def release_nat_gateways(aws: Aws) -> Removal:
    """Delete the account's NAT gateways and wait until they are gone."""
    ids = tuple(sorted(str(n["NatGatewayId"]) for n in nat_gateways.find_nat_gateways(aws).values()))
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
    return bucket_name(aws.account, find_caller(aws).aws_account_id, aws.region)


@step("remove what nothing uses")
def _sweep_loose(aws: Aws) -> Removal:
    loose = [g for g in internet_gateway.find_internet_gateways(aws) if not g.get("Attachments")]
    for gateway in loose:
        internet_gateway.delete_internet_gateway(aws, str(gateway["InternetGatewayId"]), [])
    addresses = tuple(nat_gateways.release_addresses(aws))
    removed = {
        "internet gateway": tuple(str(g["InternetGatewayId"]) for g in loose),
        "elastic address": addresses,
    }
    return Removal(removed={k: v for k, v in removed.items() if v})


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
    try:
        for vpc_id in surplus:
            vpc.delete_vpc(aws, vpc_id)
    except AccessDeniedError as error:
        return Removal(left=dict.fromkeys(surplus, error.diagnosis.why))
    return Removal(removed={"VPC": tuple(surplus)}) if surplus else Removal()
