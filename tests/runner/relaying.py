"""What the tests of the relay look at: what the API has of a flow run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.exceptions import PrefectHTTPStatusError

from .conftest import eventually, states_of


def run(a_flow: Any, *arguments: Any) -> tuple[Any, UUID]:
    """Run a flow; what it returned, and its id, once the API has all of its tasks as ended."""
    state = a_flow(*arguments, return_state=True)
    id_ = state.state_details.flow_run_id
    value = state.result()
    eventually(lambda: all(s == "Completed" for found in states_of(id_).values() for s in found))
    return value, id_


def logs_of(client: Any, id_: UUID) -> list[str]:
    filter_ = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[id_]))
    return [line.message for line in client.read_logs(filter_, limit=200)]


def events_named(client: Any, name: str) -> list[dict[str, Any]]:
    body = {"filter": {"event": {"name": [name]}}, "limit": 50}
    return list(client.request("POST", "/events/filter", json=body).json()["events"])


def what_refused(call: Callable[[], Any]) -> tuple[int, str]:
    try:
        call()
    except PrefectHTTPStatusError as error:
        return error.response.status_code, str(error.response.json()["detail"])
    return 0, "let through"
