"""What tasks do not need is not let through the relay, whatever they try."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.context import get_run_context
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.variables import Variable
from prefect_aws import AwsCredentials, S3Bucket

from prefect_coiled import Ec2DaskAccount, Ec2DaskRegistry

from .conftest import eventually, states_of, task_runs
from .relaying import logs_of, run, what_refused

ROOT = Path(__file__).parents[2]


def test_what_tasks_do_not_need_is_refused_in_words(relayed: Any, client: Any) -> None:
    @flow
    def other() -> UUID:
        return UUID(flow_run.id)

    theirs = other()

    @task
    def attacks() -> dict[str, tuple[int, str]]:
        context: Any = get_run_context()
        own = context.task_run.flow_run_id
        foreign = {"flow_run_id": str(theirs), "message": "evil", "level": 20, "name": "a"}
        with get_client(sync_client=True) as api:
            asked: dict[str, Any] = {
                "read another": lambda: api.read_flow_run(theirs),
                "rename another": lambda: api.update_flow_run(theirs, name="evil"),
                "end another": lambda: api.request(
                    "POST", f"/flow_runs/{theirs}/set_state", json={"state": {"type": "FAILED"}}
                ),
                "log as another": lambda: api.request("POST", "/logs/", json=[foreign]),
                "delete own": lambda: api.delete_flow_run(own),
                "deployments": lambda: api.read_deployments(),
                "run a deployment": lambda: api.create_flow_run_from_deployment(uuid4()),
                "work pools": lambda: api.read_work_pools(),
                "all variables": lambda: api.read_variables(),
                "settings": lambda: api.request("GET", "/admin/settings"),
            }
            return {name: what_refused(call) for name, call in asked.items()}

    @flow(task_runner=relayed())
    def attacking() -> Any:
        return attacks.submit().result()

    found, _ = run(attacking)
    assert {name: status for name, (status, _) in found.items()} == dict.fromkeys(found, 403)
    assert "is not of the flow run that this task belongs to" in found["read another"][1]
    assert "tasks do not need it" in found["deployments"][1]
    after = client.read_flow_run(theirs)
    assert (after.name != "evil", after.state.name) == (True, "Completed")
    assert "evil" not in logs_of(client, theirs)


def test_the_state_of_another_flow_runs_task_is_not_changed_by_an_event(relayed: Any, client: Any) -> None:
    @task
    def victim() -> None:
        pass

    @flow
    def other() -> UUID:
        victim()
        return UUID(flow_run.id)

    theirs = other()
    [target] = eventually(lambda: task_runs(theirs))
    eventually(lambda: states_of(theirs) == {"victim": ["Completed"]})

    @task
    def forges() -> None:
        import orjson

        at = "2099-01-01T00:00:00+00:00"
        resource = {"prefect.resource.id": f"prefect.task-run.{target.id}", "prefect.state-type": "FAILED"}
        state = {"type": "FAILED", "name": "Failed", "message": "evil", "state_details": {}, "data": None}
        run = orjson.loads(target.model_dump_json(include={"task_key", "dynamic_key", "name"}))
        event = {
            "id": str(uuid4()),
            "occurred": at,
            "event": "prefect.task-run.Failed",
            "resource": resource,
            "related": [],
            "payload": {"validated_state": state, "task_run": run},
        }
        with get_client(sync_client=True) as api:
            status, _ = what_refused(lambda: api.request("POST", "/events", json=[event]))
            assert status == 403
        # By Prefect's socket too.
        emit_event("prefect.task-run.Failed", resource=resource, payload=event["payload"])

    @flow(task_runner=relayed())
    def forging() -> None:
        forges.submit().result()

    run(forging)
    assert states_of(theirs) == {"victim": ["Completed"]}


def test_a_body_that_is_too_large_is_refused_in_words(relayed: Any) -> None:
    @task
    def sends() -> tuple[int, str]:
        with get_client(sync_client=True) as api:
            return what_refused(lambda: api.request("POST", "/variables/", json={"value": "x" * 11_000_000}))

    @flow(task_runner=relayed())
    def sending() -> Any:
        return sends.submit().result()

    (status, words), _ = run(sending)
    assert status == 413
    assert "10,000,000 bytes" in words


class Holder(Block):
    """A block of somebody's that holds an account."""

    account: Ec2DaskAccount


@pytest.fixture
def saved() -> Iterator[tuple[str, str]]:
    """Blocks that open an account, in each way in which one may be kept: their name, and a secret."""
    name, canary = f"attacked-{secrets.token_hex(4)}", f"canary-{secrets.token_hex(16)}"
    keys: dict[str, Any] = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": canary}
    made: list[Any] = [
        AwsCredentials(**keys),
        Ec2DaskRegistry(kind="docker_hub", username="me", access_token=canary),
    ]
    for block in made:
        block.save(name)
    referred: Any = AwsCredentials.load(name)
    # One that refers to its credentials, as the UI's form makes it, and one that has them in itself.
    made += [
        Ec2DaskAccount(region="us-east-1", aws_credentials=referred),
        S3Bucket(bucket_name="mine", credentials=referred),
        Holder(account=Ec2DaskAccount(region="us-east-1", aws_credentials=AwsCredentials(**keys))),
        Secret(value="for tasks"),
    ]
    for block in made[2:]:
        block.save(name)
    own: Any = AwsCredentials(aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="for-tasks")
    own.save(f"{name}-own")
    yield name, canary
    for block in [*made[2:], *made[:2]]:
        type(block).delete(name)
    AwsCredentials.delete(f"{name}-own")


def test_no_task_reads_a_block_that_opens_an_account(
    relayed: Any, client: Any, saved: tuple[str, str]
) -> None:
    name, canary = saved
    kinds = ["ec2-dask-account", "ec2-dask-registry", "aws-credentials", "s3-bucket", "holder"]
    ids = {kind: str(client.read_block_document_by_name(name, kind).id) for kind in kinds}
    types = {kind: str(client.read_block_type_by_slug(kind).id) for kind in kinds}

    @task
    def attacks() -> tuple[dict[str, int], str, Any]:
        import httpx

        answers: dict[str, Any] = {}
        with get_client(sync_client=True) as api:

            def ask(method: str, path: str, body: Any = None) -> None:
                try:
                    answer = api.request(method, path, **({} if body is None else {"json": body}))
                except httpx.HTTPStatusError as error:
                    answer = error.response
                answers[f"{method} {path} {body or ''}"] = answer.status_code, answer.text

            for kind in kinds:
                for query in ("", "?include_secrets=true", "?include_secrets=false"):
                    ask("GET", f"/block_types/slug/{kind}/block_documents/name/{name}{query}")
                    ask("GET", f"/block_documents/{ids[kind]}{query}")
                ask("GET", f"/block_types/slug/{kind}/block_documents?include_secrets=true")
                for filter_ in (
                    {"block_types": {"slug": {"any_": [kind]}}},
                    {"block_documents": {"id": {"any_": [ids[kind]]}}},
                    {"block_documents": {"block_type_id": {"any_": [types[kind]]}}},
                ):
                    ask("POST", "/block_documents/filter", {**filter_, "include_secrets": True})
            ask("POST", "/block_documents/filter", {"include_secrets": True})
            ask("POST", "/block_documents/count", {})
        return (
            {what: status for what, (status, _) in answers.items()},
            "\n".join(text for _, text in answers.values()),
            (
                Secret.load(name).get(),
                AwsCredentials.load(f"{name}-own").aws_secret_access_key.get_secret_value(),
                Variable.get(f"relayed_nothing_{name[-8:]}", default="none"),
            ),
        )

    @flow(task_runner=relayed())
    def attacking() -> Any:
        return attacks.submit().result()

    (statuses, texts, others), _ = run(attacking)
    assert statuses == dict.fromkeys(statuses, 403)
    assert canary not in texts
    assert "it opens an account" in texts
    assert "an account refers to what is in it" in texts
    # What is for tasks, they have.
    assert others == ("for tasks", "for-tasks", "none")
