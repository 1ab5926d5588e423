"""Keeps the results of a flow run's tasks in the account's bucket, by the option `results="bucket"`."""

from __future__ import annotations

from typing import Any

from prefect.context import FlowRunContext

from prefect_coiled.errors import OptionsError

BUCKET = "bucket"


def check_results(context: FlowRunContext | None) -> None:
    """See that nothing else says where the results of this flow run go, before anything is launched.

    Raises:
        OptionsError: The flow itself does.
    """
    if context is not None and context.flow is not None and context.flow.result_storage is not None:
        raise OptionsError(
            f"results {BUCKET!r} of the task runner and result_storage of flow {context.flow.name!r}",
            "contradict each other.",
            "Give one of them.",
        )


def keep_results(context: FlowRunContext | None, cluster: Any) -> None:
    """Let what the flow and its tasks return go to the bucket, unless a task says otherwise.

    Args:
        cluster: The `Cluster`, which knows its account.
    """
    if context is None or context.result_store is None:
        return
    from prefect_coiled.blocks.results import Ec2DaskResults
    from prefect_coiled.plan.machine_policies import bucket_name

    aws = cluster.started().aws
    block = Ec2DaskResults(
        account=aws.account, region=aws.region, bucket=bucket_name(aws.account, aws.number, aws.region)
    )
    # Whoever reads a result later finds the block by what the result's record names.
    block.save(f"{aws.account}-{aws.region}", overwrite=True, _sync=True)  # type: ignore[call-arg]
    context.result_store.result_storage = block
    context.persist_result = True
