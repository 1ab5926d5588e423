"""Set an account up in a region: what all of its clusters share.

who and which zones ─▶ find account ─(all there)─▶ done: reads only
│ something is missing, or a sweep is at the NAT gateways: under a lease
VPC ─▶ subnets, one task each ─┬▶ route tables ─▶ S3 endpoint, default routes
└──▶ internet gateway ────────┘        NAT gateway ─▶ default routes of the private tables
IAM role ─▶ instance profile      role of spot machines      log group      bucket      repository in ECR
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from prefect_coiled.aws import route_tables
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.leases import lease
from prefect_coiled.aws.parameters import set_up_lease
from prefect_coiled.errors import AccessDeniedError
from prefect_coiled.options import Egress, RegistryKind
from prefect_coiled.plan.aws_codes import SPOT_ROLE_COMMAND
from prefect_coiled.plan.network import VPC_CIDR, SubnetPlan, missing_subnets
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.records import AccountRecord, Network, Subnet
from prefect_coiled.tasks import account as steps
from prefect_coiled.tasks.steps import Session, settle


@flow(name="set up account", flow_run_name="set up {account} in {region}", persist_result=False)
def set_up_account(
    account: str,
    region: str,
    zone: str | None = None,
    egress: Egress = "nat",
    every_zone: bool = True,
    network: bool = True,
    registry: RegistryKind = "ecr",
) -> AccountRecord:
    """See that an account has everything in a region that its clusters share.

    Args:
        account: The account's slug.
        region: The AWS region.
        zone: Zone that must have its subnets, and of the NAT gateway, if one is to be made; the region's
            first by default.
        egress: With "nat", a NAT gateway is made if there is none.
        every_zone: Whether all zones of the region must have their subnets; without, `zone` is enough, as
            for a cluster, unless the network is new.
        network: Whether a network is needed; not so with one of the user's own.
        registry: With "ecr", a repository for container images is made. A cluster, which asks for its zone
            alone, makes one together with other things only: it may run without.

    Returns:
        What is there now.

    Raises:
        PrefectCoiledError: With the first cause.
    """
    with session_for(account, region) as session:
        aws = session.aws
        session.report("network", "looking")
        who_future, zones_future = steps.check_credentials.submit(aws), steps.list_zones.submit(aws)
        settle([who_future, zones_future])
        who, zones = who_future.result(), zones_future.result()
        first = zone if zone in zones else zones[0]
        wanted = zones if every_zone else (first,)
        nat, ecr = network and egress == "nat", registry == "ecr"
        found = steps.find_account(aws, who, wanted, nat, network, ecr and every_zone)
        # Whoever holds the lease may be about to delete the NAT gateway that was just found.
        if found is not None and not (nat and steps.is_held(aws)):
            for name in ("network", "role", "log group"):
                session.report(name, "there")
            return found
        session.report("network", "creating")
        with lease(aws, set_up_lease(account)):
            new = steps.is_new(aws)
            role = steps.ensure_role.submit(aws)
            # Prefect's overloads know `wait_for` only together with `return_state`.
            profile = steps.ensure_instance_profile.submit(aws, wait_for=[role], return_state=False)
            group = steps.ensure_log_group.submit(aws)
            files = steps.ensure_bucket.submit(aws, who.aws_account_id)
            # Once is enough; whoever makes a NAT gateway again may lack the permission.
            spot = [steps.ensure_spot_role.submit(aws)] if new or every_zone else []
            images = [steps.ensure_repository.submit(aws)] if ecr else []
            made = _network(session, zones, wanted, first, egress) if network else None
            settle([role, profile, group, files, *spot, *images])
            if spot and not spot[0].result():
                session.report(
                    "spot role", f"not made, for want of permission; spot needs it: {SPOT_ROLE_COMMAND}"
                )
            session.report("role", "ready")
            session.report("log group", "ready")
        uri = images[0].result() if images else ""
        return steps.account_record(aws, who, made, role.result(), profile.result(), group.result(), uri)


def _network(
    session: Session, zones: tuple[str, ...], wanted: tuple[str, ...], nat_zone: str, egress: Egress
) -> Network:
    aws = session.aws
    vpc_id, cidr = steps.ensure_vpc(aws, VPC_CIDR)
    gateway = steps.ensure_internet_gateway.submit(aws, vpc_id)
    there = steps.find_subnets(aws, vpc_id)
    plans = missing_subnets(wanted if there else zones, there, cidr)
    made = [steps.ensure_subnet.submit(aws, vpc_id, plan) for plan in plans]
    try:
        settle([gateway, *made])
    except AccessDeniedError as error:
        raise _no_subnet(error, plans, there) from error
    subnets = tuple(sorted((*there, *(m.result() for m in made)), key=lambda s: (s.zone, s.tier)))
    zones = tuple(sorted({s.zone for s in subnets}))
    places = (route_tables.PUBLIC, *zones)
    tables = {p: steps.ensure_route_table.submit(aws, vpc_id, p, subnets) for p in places}
    settle(tables.values())
    found = {p: t.result() for p, t in tables.items()}
    endpoint = steps.ensure_s3_endpoint.submit(aws, vpc_id, [str(t["RouteTableId"]) for t in found.values()])
    out = steps.ensure_default_route.submit(
        aws, route_tables.PUBLIC, found[route_tables.PUBLIC], {"GatewayId": gateway.result()}
    )
    settle([out])
    nats = _way_out(aws, zones, nat_zone, subnets, found) if egress == "nat" else {}
    settle([endpoint])
    session.report("network", "ready")
    return steps.network_record(vpc_id, cidr, subnets, gateway.result(), found, endpoint.result(), nats)


def _no_subnet(
    error: AccessDeniedError, plans: tuple[SubnetPlan, ...], there: tuple[Subnet, ...]
) -> AccessDeniedError:
    """The same denial, told as what it means for whoever wants a cluster in a zone."""
    if error.operation != "ec2:CreateSubnet":
        return error
    lacking = ", ".join(sorted({p.zone for p in plans}))
    d = error.diagnosis
    zones = sorted({s.zone for s in there} - {p.zone for p in plans})
    choice = f" Or choose a zone that has one: {', '.join(zones)}." if zones else ""
    return AccessDeniedError(
        f"starting in zone {lacking}",
        f"it has no subnet, and none could be made: {d.why}",
        f"{d.next_step}{choice}",
        operation=error.operation,
        code=error.code,
        request_id=error.request_id,
        action=error.action,
        resource=error.resource,
        statements=error.statements,
    )


def _way_out(
    aws: Aws,
    zones: tuple[str, ...],
    nat_zone: str,
    subnets: tuple[Subnet, ...],
    tables: dict[str, dict[str, Any]],
) -> dict[str, dict[str, str]]:
    """One NAT gateway for the region: every private subnet leads to it. It is paid for by the hour."""
    public = next(s for s in subnets if (s.zone, s.tier) == (nat_zone, "public"))
    zone, nat_id = steps.ensure_nat_gateway(aws, nat_zone, public.subnet_id)
    routes = [steps.ensure_default_route.submit(aws, z, tables[z], {"NatGatewayId": nat_id}) for z in zones]
    settle(routes)
    return {zone: {"NatGatewayId": nat_id}}
