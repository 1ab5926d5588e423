"""Which task run a result is of, so that a task that it is passed to is known to depend on that run.

With threads Prefect notes it where the task's engine returns the result; here that is another process.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State, StateDetails, StateType
from prefect.context import FlowRunContext
from prefect.utilities.engine import link_state_to_task_run_result

# A number, or nothing, is the same wherever it comes from: Prefect follows none but large whole ones.
_UNTOLD = (bool, int, float, type(None))


# A text, a list or a dictionary is known by its place in memory alone, as with threads: once it is gone,
# another one in its place may be taken for it.
def link(result: Any, task_run_id: UUID, flow_run_id: UUID | None) -> None:
    """Note of what task run the flow run that is in context has a result.

    Args:
        flow_run_id: The flow run of the task run: results of another one's are followed by nobody.
    """
    context = FlowRunContext.get()
    if type(result) in _UNTOLD or context is None or context.flow_run is None:
        return
    if flow_run_id is not None and context.flow_run.id != flow_run_id:
        return
    details = StateDetails.model_construct(task_run_id=task_run_id, flow_run_id=context.flow_run.id)
    state: State[Any] = State.model_construct(type=StateType.COMPLETED, state_details=details)
    link_state_to_task_run_result(state, result)
