"""GetResources of the tagging API: the kinds of EC2 resources that moto leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moto.core.resource_tagging import TaggedResource
from moto.ec2.models import EC2Backend

__all__ = ["install"]


def _more(backend: Any) -> Iterator[tuple[str, str]]:
    for address in backend.addresses:
        if address.allocation_id:
            yield "elastic-ip", address.allocation_id
    for template_id in backend.launch_templates:
        yield "launch-template", template_id
    for endpoint in backend.vpc_end_points.values():
        if endpoint.state != "deleted":
            yield "vpc-endpoint", endpoint.id


def install() -> None:
    """Add addresses, launch templates and endpoints."""
    moto_iterate = EC2Backend.iter_tagged_resources

    def iter_tagged_resources(self: Any) -> Iterator[Any]:
        yield from moto_iterate(self)
        for kind, name in _more(self):
            yield TaggedResource(
                arn=f"arn:{self.partition}:ec2:{self.region_name}:{self.account_id}:{kind}/{name}",
                tags=dict(self.tags.get(name, {})),
                resource_type=f"ec2:{kind}",
            )

    EC2Backend.iter_tagged_resources = iter_tagged_resources
