"""Gateway endpoints put a route into each of their route tables, and take it out again.

moto's ModifyVpcEndpoint leaves the routes as they are, and its DeleteVpcEndpoints then answers
InvalidRoute.NotFound and leaves the endpoint there.
"""

from __future__ import annotations

import contextlib
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend

__all__ = ["install"]


def install() -> None:
    """Keep routes and route tables of endpoints together."""
    moto_modify = EC2Backend.modify_vpc_endpoint

    def modify_vpc_endpoint(self: Any, vpc_id: str, *args: Any, **kwargs: Any) -> None:
        (endpoint,) = self.describe_vpc_endpoints(vpc_end_point_ids=[vpc_id])
        before = set(endpoint.route_table_ids or ())
        moto_modify(self, vpc_id, *args, **kwargs)
        prefix = endpoint.destination_prefix_list_id
        after = set(endpoint.route_table_ids or ())
        for table_id in sorted(after - before) if prefix else ():
            self.create_route(table_id, None, gateway_id=vpc_id, destination_prefix_list_id=prefix)
        for table_id in sorted(before - after) if prefix else ():
            with contextlib.suppress(EC2ClientError):  # the table may be gone
                self.delete_route(table_id, prefix)

    EC2Backend.modify_vpc_endpoint = modify_vpc_endpoint
