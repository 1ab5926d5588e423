"""Clusters whose nodes run in a container image, and all that can be wrong with one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from prefect import flow, task

from prefect_coiled import CoiledTaskRunner
from prefect_coiled.cluster import Cluster
from prefect_coiled.errors import ClusterStartError, OptionsError
from prefect_coiled.provision import set_up_account
from prefect_coiled.sandbox import Sandbox

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
REPOSITORY = f"{HOST}/coiled-default"
CANARY = "dckr_pat_canary-90ab"
HUB = {"kind": "docker_hub", "username": "me", "access_token": CANARY}
QUIET: dict[str, Any] = {"quiet": True, "nthreads": 1}


@pytest.fixture(scope="module")
def images(sandbox: Sandbox, default_account: None) -> Any:
    """The account's repository with an image `v1`, one for arm alone, and one without the node."""
    set_up_account("default", "us-east-1")
    client = sandbox.client("ecr")
    push(client, "v1")
    push(client, "arm", architecture="arm64")
    push(client, "bare", lacks="prefect-coiled-node")
    return client


def push(client: Any, tag: str, *, architecture: str = "", lacks: str = "") -> None:
    manifest: dict[str, Any] = {"schemaVersion": 2, "annotations": {"sandbox.lacks": lacks, "tag": tag}}
    if architecture:
        manifest["mediaType"] = "application/vnd.oci.image.index.v1+json"
        manifest["manifests"] = [{"platform": {"architecture": architecture}}]
    else:
        manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
        manifest["layers"] = [{"digest": "sha256:" + "2" * 64}]
    client.put_image(repositoryName="coiled-default", imageManifest=json.dumps(manifest), imageTag=tag)


def where() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.startswith(("PREFECT_COILED_", "SANDBOX_", "OWN_"))}


def test_nodes_run_in_the_image_of_a_tag_and_their_machines_end_with_them(
    sandbox: Sandbox, images: Any, live: Callable[[], list[dict[str, Any]]], until: Callable[..., Any]
) -> None:
    with Cluster(n_workers=1, container="v1", wait_for_workers=True, environ={"OWN_X": "1"}, **QUIET) as one:
        assert one.launched is not None
        assert str(one.launched.spec.container) == f"{REPOSITORY}:v1"
        with Client(one) as client:
            seen = client.submit(where).result(timeout=300)
            seen_by_scheduler = client.run_on_scheduler(where)
        for environ in (seen, seen_by_scheduler):
            assert environ["PREFECT_COILED_IMAGE"] == f"{REPOSITORY}:v1"
            assert not [name for name in environ if name.startswith("SANDBOX_")]
        assert seen["OWN_X"] == "1"
        ids = [i["InstanceId"] for i in live()]
        assert all("pulling" in sandbox.console(i) for i in ids)
        logs = one.get_logs()
        assert "ready after" in logs["Scheduler"]
        # The container of the worker's machine ends by itself: its machine must, too.
        (worker,) = one.workers
        client_of_it = Client(one)
        client_of_it.retire_workers(names=[worker], close_workers=True)
        client_of_it.close()
        until(lambda: worker not in [i["InstanceId"] for i in live()], 60)
        assert "reason=container-ended rc=0" in sandbox.console(worker)
    until(lambda: not live(), 60)


def test_when_docker_dies_the_machine_ends(
    sandbox: Sandbox, images: Any, live: Callable[[], list[dict[str, Any]]], until: Callable[..., Any]
) -> None:
    with Cluster(n_workers=1, container="coiled-default:v1", wait_for_workers=True, **QUIET) as one:
        (worker,) = one.workers
        (docker,) = [p for p in psutil.process_iter() if runs_docker(p, worker)]
        docker.send_signal(signal.SIGKILL)
        until(lambda: worker not in [i["InstanceId"] for i in live()], 60)
        assert "reason=container-ended rc=137" in sandbox.console(worker)


def runs_docker(process: psutil.Process, instance_id: str) -> bool:
    try:
        mark = process.environ().get("PREFECT_COILED_SANDBOX_INSTANCE")
        words = process.cmdline()
    except (psutil.Error, OSError):
        return False
    return mark == instance_id and len(words) > 2 and words[1].endswith("docker.py") and words[2] == "run"


def test_a_flow_runs_in_an_image(sandbox: Sandbox, images: Any) -> None:
    @task
    def image() -> str:
        return os.environ.get("PREFECT_COILED_IMAGE", "none")

    @flow(task_runner=CoiledTaskRunner(n_workers=1, container=f"{REPOSITORY}:v1", **QUIET))
    def in_a_container() -> str:
        return image.submit().result()

    assert in_a_container() == f"{REPOSITORY}:v1"


def test_an_image_without_the_node_is_told_as_the_first_cause(sandbox: Sandbox, images: Any) -> None:
    with pytest.raises(ClusterStartError) as caught:
        Cluster(n_workers=1, container="bare", **QUIET)
    text = str(caught.value)
    assert 'exec: "prefect-coiled-node": executable file not found' in text
    assert f"there is no prefect-coiled-node in the image {REPOSITORY}:bare: install prefect-dask-ec2" in text


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"container": "v2"}, r"no image v2 in repository coiled-default; there are: .*v1"),
        ({"container": f"{REPOSITORY}:v2"}, "no image v2"),
        ({"container": "arm"}, "is for arm64, and the machines are amd64"),
        ({"container": "python:3.11"}, "is no image of coiled-default"),
        ({"container": "No Image"}, "is not the name of an image"),
        ({"container": 3}, "container 3: it has to be a text"),
        ({"container": f"{REPOSITORY}:v1", "region": "eu-west-1"}, "is in us-east-1, .*runs in eu-west-1"),
        ({"container": "v1", "software": "env"}, "software 'env' and container 'v1': contradict"),
        (
            {
                "container": "v1",
                "backend_options": {"registry": {"kind": "docker_hub", "username": "me"}},
            },
            "needs an access token",
        ),
    ],
)
def test_a_wrong_image_is_one_clear_line_before_anything_is_made(
    sandbox: Sandbox, images: Any, keywords: dict[str, Any], says: str
) -> None:
    sandbox.clear_calls()
    with pytest.raises(OptionsError, match=says) as caught:
        Cluster(n_workers=1, **keywords, **QUIET)
    assert "\n" not in str(caught.value)
    reads = ("Describe", "Get", "List", "Batch")
    assert [a for _, a in sandbox.calls() if not a.startswith(reads)] == []


def test_docker_hub_is_logged_in_to_with_a_token_that_is_nowhere_to_be_seen(
    sandbox: Sandbox, default_account: None, live: Callable[[], list[dict[str, Any]]]
) -> None:
    sandbox.set(hub_images=["me/image:v1"], hub_tokens={"me": CANARY})
    try:
        with Cluster(
            n_workers=1,
            container="image:v1",
            wait_for_workers=True,
            backend_options={"registry": HUB},
            **QUIET,
        ) as one:
            assert one.launched is not None
            ids = [i["InstanceId"] for i in live()]
            text = "".join(sandbox.console(i) for i in ids) + "".join(map(str, one.get_logs().values()))
            text += one.launched.spec.model_dump_json() + repr(one._request.held)
            ec2, ssm = sandbox.client("ec2"), sandbox.client("ssm")
            for found in ec2.describe_launch_templates()["LaunchTemplates"]:
                versions = ec2.describe_launch_template_versions(LaunchTemplateId=found["LaunchTemplateId"])
                text += json.dumps(versions, default=str)
            for i in ids:
                found = ec2.describe_instance_attribute(InstanceId=i, Attribute="userData")
                text += json.dumps(found, default=str)
            text += json.dumps(ec2.describe_tags(), default=str)
            folders = [sandbox.instances()[i]["folder"] for i in ids]
            for folder in folders:
                for kept in (f"{folder}/home/.docker/config.json", f"{folder}/user-data"):
                    text += Path(kept).read_text()
            prefix = f"/prefect-coiled/default/{one.name}/"
            asked = [{"Key": "Name", "Option": "BeginsWith", "Values": [prefix]}]
            listed = ssm.describe_parameters(ParameterFilters=asked)["Parameters"]
            (name,) = [p["Name"] for p in listed if p["Name"].endswith("/node/registry")]
            assert ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] == CANARY
            assert ssm.get_parameter(Name=name)["Parameter"]["Type"] == "SecureString"
        assert "Login Succeeded" in text
        assert CANARY not in text
        assert ssm.describe_parameters(ParameterFilters=asked)["Parameters"] == []
    finally:
        sandbox.set(hub_images=[], hub_tokens={})


def test_what_docker_says_to_a_wrong_token_reaches_the_user(sandbox: Sandbox, default_account: None) -> None:
    sandbox.set(hub_images=["me/image:v1"], hub_tokens={"me": "another"})
    try:
        with pytest.raises(ClusterStartError, match="unauthorized: incorrect username or password") as caught:
            Cluster(n_workers=0, container="image:v1", backend_options={"registry": HUB}, **QUIET)
        assert CANARY not in str(caught.value)
    finally:
        sandbox.set(hub_images=[], hub_tokens={})
