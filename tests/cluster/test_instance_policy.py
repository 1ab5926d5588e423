"""A cluster in a container under IAM's eyes: what its machines may do is what they do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed import Client

from prefect_coiled.cluster import Cluster
from prefect_coiled.plan.machine_policies import bucket_name
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.provision import set_up_account
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.sandbox.iam.decide import Request, decide

NUMBER = "123456789012"
POLICY = iam_policies("default", aws_account_id=NUMBER)["instance"]
# Wheels are for machines that install what the client has, which no machine of a sandbox does.
WHEELS = {"s3:ListBucket", "s3:GetObject"}
# Set-up makes the streams before machines write into them; without it they make their own.
STREAMS = {"logs:CreateLogStream"}
ACTIONS = sorted({a for s in POLICY["Statement"] for a in s["Action"]} - WHEELS - STREAMS)


def keep(bucket: str) -> None:
    """Keep a result, as a task does with `results="bucket"`."""
    from prefect_coiled import Ec2DaskResults

    block: Any = Ec2DaskResults(account="default", region="us-east-1", bucket=bucket)
    block.write_path("a-result", b"{}", _sync=True)


@pytest.fixture(scope="module")
def decisions(prefect_server: None, until: Callable[..., Any]) -> Iterator[list[dict[str, Any]]]:
    """What IAM was asked for machines of a cluster that ran in an image, one of which was replaced."""
    with Sandbox({"grace": 3, "iam": "on"}) as own, pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: own.info)
        set_up_account("default", "us-east-1")
        media = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"mediaType": media, "layers": [{"digest": "sha256:" + "3" * 64}]}
        own.client("ecr").put_image(
            repositoryName="coiled-default", imageManifest=json.dumps(manifest), imageTag="v1"
        )
        with (
            Cluster(n_workers=1, container="v1", wait_for_workers=True, quiet=True) as cluster,
            Client(cluster) as client,
        ):
            assert client.submit(sum, [1, 2]).result(timeout=300) == 3
            client.submit(keep, bucket_name("default", NUMBER, "us-east-1")).result(timeout=300)
            (lost,) = cluster.workers
            own.client("ec2").terminate_instances(InstanceIds=[lost])
            until(lambda: cluster.observed - {lost}, 60)
        yield [d for d in own.decisions() if ":assumed-role/default/" in d["principal"]]


def denied(policy: dict[str, Any], decisions: list[dict[str, Any]]) -> bool:
    return any(
        not decide([policy], Request(d["action"], d["resource"], d["context"])).allowed for d in decisions
    )


def test_the_machines_are_allowed_all_that_they_do(decisions: list[dict[str, Any]]) -> None:
    assert [d for d in decisions if not d["allowed"]] == []
    assert {d["action"] for d in decisions} - STREAMS == set(ACTIONS)
    assert not denied(POLICY, decisions)


@pytest.mark.parametrize("action", ACTIONS)
def test_taking_one_action_away_is_noticed(decisions: list[dict[str, Any]], action: str) -> None:
    changed = copy.deepcopy(POLICY)
    for statement in changed["Statement"]:
        statement["Action"] = [a for a in statement["Action"] if a != action]
    changed["Statement"] = [s for s in changed["Statement"] if s["Action"]]
    assert denied(changed, decisions)
