"""Route tables and their default routes: one table is public, and each zone has a private one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.tagged import ZONE, create_tagged, ec2_kind, name_of, zone_of
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import AlreadyExistsError, NotFoundError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import Item, There, Wanted

EVERYWHERE = "0.0.0.0/0"
PUBLIC = "public"


def place_of(table: Item) -> str:
    """Where a table is for: "public", or the zone of which it is the private one."""
    return zone_of(table) or PUBLIC


def wanted_tables(want: Wanted, there: There) -> list[Item]:
    """Those of the tables there are that a set-up has to see to."""
    places = set(_places(want, there))
    return [table for table in there["route table"] if place_of(table) in places]


def _places(want: Wanted, there: There) -> tuple[str, ...]:
    return (PUBLIC, *sorted(want.zones))


def _subnets(place: str, there: There) -> set[str]:
    return {
        str(item["SubnetId"])
        for item in there["subnet"]
        if place
        == (
            PUBLIC if tags.from_aws(item.get("Tags")).get(tags.TIER) == "public" else item["AvailabilityZone"]
        )
    }


def _missing(item: Item, there: There) -> list[str]:
    return sorted(
        _subnets(place_of(item), there) - {str(a.get("SubnetId")) for a in item.get("Associations", ())}
    )


def _sketch(place: str) -> Item:
    return {"RouteTableId": place, "Tags": [] if place == PUBLIC else tags.to_aws({ZONE: place})}


def _create(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    more = {"tier": "public"} if place == PUBLIC else {"tier": "private", "zone": place}
    labels = tags.named(aws.labels(**more), name_of(aws, place))
    where = {"VpcId": there["vpc"][0]["VpcId"], "ClientToken": ""}
    what = f"creating route table ({place})"
    return create_tagged(aws, "ec2:CreateRouteTable", what, "RouteTable", "route-table", labels, **where)


def _associate(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    table_id, missing = item["RouteTableId"], _missing(item, there)
    for subnet_id in missing:

        def associate(subnet: str = subnet_id) -> None:
            what = f"associating subnet ({subnet}) with route table ({table_id})"
            with suppress(AlreadyExistsError):
                aws.call("ec2:AssociateRouteTable", what, RouteTableId=table_id, SubnetId=subnet)

        what = f"waiting for route table ({table_id}) to be visible"
        retry_while(aws, what, associate, NotFoundError, timeout=VISIBLE)
    return {**item, "Associations": [*item.get("Associations", ()), *({"SubnetId": s} for s in missing)]}


def _delete(aws: Aws, items: list[Item]) -> None:
    for item in items:
        table_id = item["RouteTableId"]
        for association in item.get("Associations", ()):
            if not association.get("Main"):
                what, of = f"disassociating route table ({table_id})", association["RouteTableAssociationId"]
                with suppress(NotFoundError):
                    aws.call("ec2:DisassociateRouteTable", what, AssociationId=of)
        aws.call("ec2:DeleteRouteTable", f"deleting route table ({table_id})", RouteTableId=table_id)


def _target(place: str, there: There) -> dict[str, str]:
    """Where a table's default route shall lead."""
    if place == PUBLIC:
        attached = (g for g in there["internet gateway"] if g.get("Attachments"))
        return {"GatewayId": str(next(attached)["InternetGatewayId"])}
    gateways = sorted(there["nat gateway"], key=lambda g: g["State"] != "available")
    return {"NatGatewayId": str(gateways[0]["NatGatewayId"])}


def _current(item: Item) -> Item | None:
    found: Iterable[Item] = item.get("Routes", ())
    return next((r for r in found if r.get("DestinationCidrBlock") == EVERYWHERE), None)


def _leads_nowhere(item: Item, want: Wanted, there: There) -> str:
    route = _current(item)
    live = {gateway.get("NatGatewayId") for gateway in there["nat gateway"]}
    if route is None:
        return "there is no way out"
    nat = route.get("NatGatewayId")
    gone = route.get("State") == "blackhole" or (nat and nat not in live)
    return "it leads to what is gone" if gone else ""


def _route(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    table_id, target = item["RouteTableId"], _target(place_of(item), there)
    (target_id,) = target.values()
    what = f"routing {EVERYWHERE} of route table ({table_id}) to {target_id}"
    parameters = {"RouteTableId": table_id, "DestinationCidrBlock": EVERYWHERE, **target}

    def route() -> None:
        if _current(item) is None:
            try:
                aws.call("ec2:CreateRoute", what, **parameters)
            except AlreadyExistsError:
                pass
            else:
                return
        aws.call("ec2:ReplaceRoute", what, **parameters)

    retry_while(aws, f"waiting for {target_id} to be visible", route, NotFoundError, timeout=VISIBLE)
    return item


def _routes(want: Wanted, there: There) -> Iterable[str]:
    """The public table's; and where NAT gateways are, those of all private tables, which share it."""
    return [p for p in sorted({place_of(t) for t in there["route table"]}) if want.nat or p == PUBLIC]


_FOUND = ("ec2:DescribeRouteTables", "RouteTables", "RouteTableId")

ROUTE_TABLE = ec2_kind(
    "route table",
    *_FOUND,
    note=place_of,
    waits_for=("vpc", "subnet"),
    asked=lambda want: want.network,
    places=_places,
    place=place_of,
    sketch=_sketch,
    lacks=lambda item, want, there: "subnets are not associated with it" if _missing(item, there) else "",
    create=_create,
    update=_associate,
    delete=_delete,
)

# Of a table; it goes with it.
DEFAULT_ROUTE = ec2_kind(
    "default route",
    *_FOUND,
    listed=False,
    part_of="route table",
    waits_for=("route table", "internet gateway", "nat gateway"),
    asked=lambda want: want.network,
    places=_routes,
    place=place_of,
    sketch=_sketch,
    lacks=_leads_nowhere,
    create=lambda aws, place, want, there: next(t for t in there["route table"] if place_of(t) == place),
    update=_route,
)
