"""Everything of an account in a region, found by tag or by its fixed name. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prefect_coiled.aws import (
    baked_images,
    bucket,
    ecr,
    iam_role,
    instances,
    internet_gateway,
    launch_templates,
    logs,
    nat_gateways,
    parameters,
    route_tables,
    s3_endpoint,
    security_groups,
    subnets,
    vpc,
)
from prefect_coiled.aws.door import Aws
from prefect_coiled.plan import tags
from prefect_coiled.plan.policies import bucket_name
from prefect_coiled.records import Record


class Resource(Record):
    """A resource in AWS.

    Attributes:
        kind: Such as "instance" or "NAT gateway".
        resource_id: Its id, or its name where AWS has no ids.
        cluster: The cluster it belongs to; empty for what all clusters share.
        note: State, size or place, in a few words.
    """

    kind: str
    resource_id: str
    cluster: str = ""
    note: str = ""


def take_inventory(aws: Aws) -> tuple[Resource, ...]:
    """All that the account has in the door's region; its role and instance profile belong to all regions."""
    return tuple(
        sorted(
            (*_machines(aws), *_clusters(aws), *_network(aws), *_shared(aws)),
            key=lambda r: (r.cluster, r.kind, r.resource_id),
        )
    )


def _machines(aws: Aws) -> Iterator[Resource]:
    for machine in instances.find_instances(aws):
        note = f"{machine.role}, {machine.instance_type}, {machine.state}"
        yield Resource(kind="instance", resource_id=machine.instance_id, cluster=machine.cluster, note=note)
    for volume in instances.find_volumes(aws):
        yield _tagged(
            "volume", volume, "VolumeId", f"{volume.get('Size', '?')} GiB, {volume.get('State', '')}"
        )


def _clusters(aws: Aws) -> Iterator[Resource]:
    for template in launch_templates.find_launch_templates(aws):
        yield _tagged("launch template", template, "LaunchTemplateId", template["LaunchTemplateName"])
    for group in security_groups.find_security_groups(aws):
        yield _tagged("security group", group, "GroupId", group["GroupName"])
    root = parameters.account_path(aws.account)
    for name in parameters.find_parameters(aws, root):
        cluster, _, rest = name.removeprefix(root).partition("/")
        yield Resource(kind="parameter", resource_id=name, cluster=cluster if rest else "")


def _network(aws: Aws) -> Iterator[Resource]:
    for nat in nat_gateways.list_nat_gateways(aws):
        note = f"{nat_gateways.zone_of(nat)}, {nat.get('State', '')}"
        yield _tagged("NAT gateway", nat, "NatGatewayId", note)
    for address in nat_gateways.find_addresses(aws):
        yield _tagged("elastic address", address, "AllocationId", str(address.get("PublicIp", "")))
    for gateway in internet_gateway.find_internet_gateways(aws):
        yield _tagged("internet gateway", gateway, "InternetGatewayId")
    for found in vpc.find_vpcs(aws):
        vpc_id = str(found["VpcId"])
        yield _tagged("VPC", found, "VpcId", str(found["CidrBlock"]))
        for endpoint in s3_endpoint.find_s3_endpoints(aws, vpc_id):
            yield _tagged("VPC endpoint", endpoint, "VpcEndpointId", str(endpoint.get("ServiceName", "")))
        for place, table in route_tables.find_route_tables(aws, vpc_id).items():
            yield _tagged("route table", table, "RouteTableId", place)
        for subnet in subnets.find_subnets(aws, vpc_id):
            note = f"{subnet.tier}, {subnet.zone}, {subnet.cidr}"
            yield Resource(kind="subnet", resource_id=subnet.subnet_id, note=note)


def _shared(aws: Aws) -> Iterator[Resource]:
    group = logs.find_log_group(aws)
    if group is not None and logs.is_ours(aws, group["arn"]):
        yield Resource(kind="log group", resource_id=aws.account, note=f"{group['retention']} days")
    name = bucket_name(aws.account, aws.number, aws.region)
    if bucket.find_own_bucket(aws, name):
        yield Resource(kind="bucket", resource_id=name)
    repository = ecr.find_repository(aws)
    if repository is not None:
        note = f"{len(ecr.find_images(aws))} images"
        yield Resource(kind="repository", resource_id=str(repository["repositoryName"]), note=note)
    for image in baked_images.find_baked_images(aws):
        note = f"Python {image.python}, {image.architecture}, {image.state}"
        yield Resource(kind="image", resource_id=image.image_id, note=note)
    for snapshot in baked_images.find_snapshots(aws):
        yield Resource(kind="snapshot", resource_id=snapshot)
    role, profile = iam_role.find_role(aws), iam_role.find_instance_profile(aws)
    if role is not None:
        yield Resource(kind="IAM role", resource_id=str(role["RoleName"]), note="all regions")
    if profile is not None:
        name = str(profile["InstanceProfileName"])
        yield Resource(kind="instance profile", resource_id=name, note="all regions")


def _tagged(kind: str, resource: dict[str, Any], key: str, note: str = "") -> Resource:
    labels = tags.from_aws(resource.get("Tags"))
    return Resource(
        kind=kind, resource_id=str(resource[key]), cluster=labels.get(tags.CLUSTER, ""), note=note
    )


def by_kind(resources: Iterable[Resource]) -> dict[str, tuple[str, ...]]:
    """The ids by kind."""
    found: dict[str, tuple[str, ...]] = {}
    for one in resources:
        found[one.kind] = (*found.get(one.kind, ()), one.resource_id)
    return found
