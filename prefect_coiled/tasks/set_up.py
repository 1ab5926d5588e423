"""Steps and records of setting an account up; what is made and repaired is in the rows of `aws.kinds`."""

from __future__ import annotations

from prefect_coiled.aws import caller, leases, route_tables, subnets, zones
from prefect_coiled.aws.caller import Caller
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.parameters import set_up_lease
from prefect_coiled.aws.tagged import zone_of
from prefect_coiled.plan.kinds import There, Wanted
from prefect_coiled.records import AccountRecord, Network
from prefect_coiled.tasks.steps import step


@step("check credentials")
def check_credentials(aws: Aws) -> Caller:
    """Who the credentials belong to."""
    return caller.known_caller(aws)


@step("look at lease")
def is_held(aws: Aws) -> bool:
    """Whether somebody makes or removes what the account's clusters share."""
    return leases.is_held(aws, set_up_lease(aws.account))


@step("wait for lease")
def wait_until_free(aws: Aws) -> None:
    """Wait for whoever makes or removes what the account's clusters share."""
    leases.wait_until_free(aws, set_up_lease(aws.account))


@step("list zones", "zones of {aws.region}")
def list_zones(aws: Aws) -> tuple[str, ...]:
    """The region's availability zones."""
    return zones.find_zones(aws)


def account_record(aws: Aws, who: Caller, want: Wanted, there: There) -> AccountRecord:
    """Put together what there is once nothing lacks any more."""
    repository = there.get("repository")
    return AccountRecord(
        account=aws.account,
        region=aws.region,
        aws_account_id=who.aws_account_id,
        creator=who.name,
        network=network_record(there) if want.network else None,
        role_arn=str(there["role"][0]["Arn"]),
        instance_profile_arn=str(there["instance profile"][0]["Arn"]),
        log_group=aws.account,
        repository=str(repository[0]["repositoryUri"]) if repository else "",
    )


def network_record(there: There) -> Network:
    """Put together the parts of the network."""
    (vpc,) = there["vpc"]
    gateway = next(g for g in there["internet gateway"] if g.get("Attachments"))
    tables: dict[str, str] = {}
    for table in sorted(there["route table"], key=lambda t: str(t["RouteTableId"])):
        tables.setdefault(route_tables.place_of(table), str(table["RouteTableId"]))
    gateways = sorted(there["nat gateway"], key=lambda n: str(n["NatGatewayId"]), reverse=True)
    return Network(
        vpc_id=str(vpc["VpcId"]),
        cidr=str(vpc["CidrBlock"]),
        subnets=tuple(sorted(map(subnets.record, there["subnet"]), key=lambda s: (s.zone, s.tier))),
        internet_gateway_id=str(gateway["InternetGatewayId"]),
        public_route_table_id=tables.pop(route_tables.PUBLIC),
        private_route_tables=dict(sorted(tables.items())),
        s3_endpoint_id=str(there["s3 endpoint"][0]["VpcEndpointId"]),
        nat_gateways={zone_of(nat): str(nat["NatGatewayId"]) for nat in gateways},
    )
