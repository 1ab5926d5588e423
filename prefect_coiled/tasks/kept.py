"""The step that makes the launch templates by which a cluster's scheduler launches workers itself."""

from __future__ import annotations

from typing import Any

from prefect_coiled.aws import launch_templates
from prefect_coiled.aws.door import Aws
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.kept import Way, kept_names, kept_tags, kept_template
from prefect_coiled.records import InstanceRecord
from prefect_coiled.tasks.steps import step


@step("launch templates of the scheduler", "launch templates for {spec.name} to replace workers by")
def ensure_kept_templates(
    aws: Aws,
    spec: ClusterSpec,
    ways: tuple[Way, ...],
    scheduler: InstanceRecord,
    base: dict[str, Any],
    *,
    group_ids: list[str],
) -> list[str]:
    """One launch template for each way to get workers; the machine of the scheduler alone may use them.

    Nobody waits for EC2 to know them: the scheduler tries again.

    Args:
        base: What the launch of workers says.

    Returns:
        Their ids.
    """
    partition = aws.session.get_partition_for_region(aws.region)
    arn = f"arn:{partition}:ec2:{aws.region}:{aws.number}:instance/{scheduler.instance_id}"

    def ensure(named: tuple[str, Way]) -> str:
        name, way = named
        data = kept_template(spec, base, way, group_ids)
        token = planning.client_token(spec.uid, "template", name, scheduler.instance_id)
        return launch_templates.ensure_launch_template(
            aws, name, data, kept_tags(spec, arn), token, wait=False
        )

    return side_by_side(ensure, list(zip(kept_names(spec, len(ways)), ways, strict=True)))
