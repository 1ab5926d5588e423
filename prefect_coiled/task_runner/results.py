"""Where results of tasks are kept: in the account's bucket, by the option `results="bucket"`.

Who has them kept on the disks of machines that go is warned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext
from prefect.filesystems import LocalFileSystem
from prefect.results import get_default_result_storage, get_result_store, should_persist_result
from prefect.settings import get_current_settings
from prefect.tasks import Task

from prefect_coiled.errors import OptionsError
from prefect_coiled.task_runner.kept_results import ELSEWHERE

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


def warn_of_disks(task: Task[Any, Any], log: Any) -> bool:
    """Say it if a task keeps its results where they go with its machine. Returns whether it does."""
    if not _keeps(task) or not _keeps_on_disk(task):
        return False
    log.warning(
        "Task %r keeps its results (`persist_result`, or a cache) in a folder of the machine it runs on. "
        "They go with it, and cannot be read here. %s.",
        task.name,
        ELSEWHERE,
    )
    return True


def _keeps(task: Task[Any, Any]) -> bool:
    """Whether what a task returns is kept, as Prefect decides it where the task runs."""
    for said in (task.persist_result, get_current_settings().tasks.default_persist_result):
        if said is not None:
            return said
    return should_persist_result()


def _keeps_on_disk(task: Task[Any, Any]) -> bool:
    storage: Any = task.result_storage
    if storage is None:
        storage = get_result_store().result_storage or get_default_result_storage(_sync=True)  # type: ignore[call-arg]
    if isinstance(storage, str):  # the name of a block, which is loaded where the task runs
        return storage.startswith("local-file-system/")
    return isinstance(storage, (LocalFileSystem, Path))
