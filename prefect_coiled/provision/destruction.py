"""Take an account down in a region: everything that its set-up made, and what clusters left.

    nothing runs? ─▶ under the set-up's lease:
    dead clusters ─▶ NAT gateways ─▶ addresses ─┬▶ endpoint ─▶ route tables ─▶ subnets ─┐
                                                └▶ internet gateway ────────────────────┴▶ VPC
    images      log group      bucket      repository      role, unless another region needs it

Each step finds by tag what is there, so that a run that was interrupted is run again, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from prefect import flow

from prefect_coiled.aws import (
    bucket,
    ecr,
    iam_role,
    instances,
    internet_gateway,
    logs,
    parameters,
    route_tables,
    s3_endpoint,
    subnets,
    vpc,
)
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.leases import lease
from prefect_coiled.errors import AwsError, ProvisionError
from prefect_coiled.options import REGIONS
from prefect_coiled.plan.containers import repository_name
from prefect_coiled.provision.removal import (
    account_bucket,
    release_addresses,
    release_nat_gateways,
    sweep_cluster,
)
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.provision.standing import look
from prefect_coiled.records import Removal
from prefect_coiled.tasks.images import remove_images
from prefect_coiled.tasks.steps import settle, step


@flow(name="destroy account", flow_run_name="destroy {account} in {region}", persist_result=False)
def destroy_account(account: str, region: str) -> Removal:
    """Remove everything that an account has in a region. Its Prefect block stays.

    Args:
        account: The account's slug.
        region: The AWS region.

    Returns:
        What was removed. `left` names the role, if another region needs it and its instance profile, or if
        AWS did not say whether one does.

    Raises:
        ProvisionError: If a cluster of the account runs or is starting; nothing was removed.
        PrefectCoiledError: With the first cause. Run it again: it goes on where it stopped.
    """
    with session_for(account, region) as session:
        aws = session.aws
        refuse_while_clusters_live(aws)
        with lease(aws, parameters.set_up_lease(account)):
            refuse_while_clusters_live(aws)  # one may have started while the lease was waited for
            total = _remove_clusters(aws) + release_nat_gateways(aws) + _release_addresses(aws)
            total += _delete_images(aws)
            deletions = (_delete_network, _delete_log_group, _delete_bucket, _delete_repository)
            ends = [delete.submit(aws) for delete in deletions]
            settle(ends)
            for end in ends:
                total += end.result()
            return total + _delete_role(aws, other_regions(aws)) + _delete_parameters(aws)


def refuse_while_clusters_live(aws: Aws) -> None:
    """Raise `ProvisionError` if a cluster of the account runs, or was asked for a short while ago."""
    names = sorted({m.cluster for m in instances.find_instances(aws)} | set(look(aws).names))
    if names:
        raise ProvisionError(
            f"destroying account {aws.account} in {aws.region}",
            f"clusters run or are starting: {', '.join(names)}",
            "Stop them first: `prefect-coiled stop NAME`.",
        )


class Elsewhere(NamedTuple):
    """What is known of an account in the other regions, which share its role.

    Attributes:
        used: The regions in which it is set up, be it with a network of the user's own.
        unknown: Why AWS did not say it of a region, by region.
    """

    used: tuple[str, ...]
    unknown: dict[str, str]


def other_regions(aws: Aws) -> Elsewhere:
    """Where else the account is set up; a region that may not be looked into is unknown."""

    def set_up(region: str) -> bool | str:
        door = aws.beside(region, aws.stop)
        try:
            if vpc.find_vpcs(door) or instances.find_instances(door):
                return True
            # Every set-up makes one, with a network or without.
            group = logs.find_log_group(door)
            return group is not None and logs.is_ours(door, group["arn"])
        except AwsError as error:
            return error.code or type(error).__name__

    others = [r for r in REGIONS if r != aws.region]
    with ThreadPoolExecutor(len(others), thread_name_prefix="regions") as pool:
        found = dict(zip(others, pool.map(set_up, others), strict=True))
    used = tuple(region for region, answer in found.items() if answer is True)
    return Elsewhere(used, {region: answer for region, answer in found.items() if isinstance(answer, str)})


@step("remove dead clusters")
def _remove_clusters(aws: Aws) -> Removal:
    total = Removal()
    for one in sorted(look(aws).dead):
        total += sweep_cluster(aws, one.name, one.uid)
    return total


@step("release addresses")
def _release_addresses(aws: Aws) -> Removal:
    return release_addresses(aws)


@step("delete images")
def _delete_images(aws: Aws) -> Removal:
    return remove_images(aws, account_bucket(aws))


@step("delete network")
def _delete_network(aws: Aws) -> Removal:
    total = Removal()
    for found in vpc.find_vpcs(aws):
        vpc_id = str(found["VpcId"])
        endpoints = [str(e["VpcEndpointId"]) for e in s3_endpoint.find_s3_endpoints(aws, vpc_id)]
        for endpoint_id in endpoints:
            s3_endpoint.delete_s3_endpoint(aws, endpoint_id)
        total += _removal("VPC endpoint", endpoints)
        # Of several for one place, each look shows one.
        while tables := route_tables.find_route_tables(aws, vpc_id):
            for table in tables.values():
                route_tables.delete_route_table(aws, table)
            total += _removal("route table", [str(t["RouteTableId"]) for t in tables.values()])
        there = [s.subnet_id for s in subnets.find_subnets(aws, vpc_id)]
        _side_by_side(lambda subnet_id: subnets.delete_subnet(aws, subnet_id), there)
        total += _removal("subnet", there)
    total += _removal("internet gateway", _delete_gateways(aws))
    gone = [str(v["VpcId"]) for v in vpc.find_vpcs(aws)]
    for vpc_id in gone:
        vpc.delete_vpc(aws, vpc_id)
    return total + _removal("VPC", gone)


def _delete_gateways(aws: Aws) -> list[str]:
    removed = []
    for gateway in internet_gateway.find_internet_gateways(aws):
        gateway_id = str(gateway["InternetGatewayId"])
        attached = [str(a["VpcId"]) for a in gateway.get("Attachments", ())]
        internet_gateway.delete_internet_gateway(aws, gateway_id, attached)
        removed.append(gateway_id)
    return removed


def _side_by_side(delete: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(8, thread_name_prefix="delete") as pool:
        list(pool.map(delete, names))


@step("delete log group")
def _delete_log_group(aws: Aws) -> Removal:
    return _removal("log group", [aws.account] if logs.delete_log_group(aws) else [])


@step("delete bucket")
def _delete_bucket(aws: Aws) -> Removal:
    name = account_bucket(aws)
    return _removal("bucket", [name] if bucket.delete_bucket(aws, name) else [])


@step("delete repository")
def _delete_repository(aws: Aws) -> Removal:
    return _removal("repository", [repository_name(aws.account)] if ecr.delete_repository(aws) else [])


@step("delete role")
def _delete_role(aws: Aws, elsewhere: Elsewhere) -> Removal:
    role = f"role/{aws.account}"
    if elsewhere.used:
        return Removal(left={role: f"used in {', '.join(elsewhere.used)}"}, needed=(role,))
    if elsewhere.unknown:
        codes = ", ".join(sorted(set(elsewhere.unknown.values())))
        why = (
            f"AWS did not say ({codes}) whether the account is set up in {', '.join(elsewhere.unknown)} too. "
            "It costs nothing; where it is not, delete the role in the IAM console."
        )
        return Removal(left={role: why})
    return _removal("role", iam_role.delete_role(aws))


@step("delete parameters")
def _delete_parameters(aws: Aws) -> Removal:
    # A cluster that was asked for meanwhile waits for the lease, and has its name already.
    kept = tuple(parameters.cluster_path(aws.account, name) for name in look(aws).names)
    root, held = parameters.account_path(aws.account), parameters.set_up_lease(aws.account)
    names = [n for n in parameters.find_parameters(aws, root) if n != held and not n.startswith(kept)]
    parameters.delete_parameters(aws, names)
    return _removal("parameter", names)


def _removal(kind: str, ids: list[str]) -> Removal:
    return Removal(removed={kind: tuple(ids)}) if ids else Removal()
