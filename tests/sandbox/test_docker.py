"""Docker's stand-in inside an instance: login, pull and run judge what can be judged without content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
LAYER = "sha256:" + "1" * 64
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        },
    }
)
# Runs each line of its own, and says how it ended.
BOOT = """#!/bin/bash
step() {{ "$@"; echo "rc=$?"; }}
{}
echo over
sleep 600
"""


@pytest.fixture
def registry(sandbox: Any) -> Iterator[Any]:
    """The ECR client, with a repository that holds `one`, and `bare`, which lacks the command `env`."""
    client = sandbox.client("ecr")
    client.create_repository(repositoryName="images")
    push(client, "one")
    push(client, "bare", lacks="env")
    yield client
    client.delete_repository(repositoryName="images", force=True)


def push(client: Any, tag: str, lacks: str = "") -> None:
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "annotations": {"sandbox.lacks": lacks, "tag": tag},
        "layers": [{"digest": LAYER}],
    }
    client.put_image(repositoryName="images", imageManifest=json.dumps(manifest), imageTag=tag)


@pytest.fixture
def profile(sandbox: Any) -> Iterator[str]:
    """An instance profile whose role has no policy yet."""
    iam = sandbox.client("iam")
    iam.create_role(RoleName="puller", AssumeRolePolicyDocument=TRUST)
    iam.create_instance_profile(InstanceProfileName="puller")
    iam.add_role_to_instance_profile(InstanceProfileName="puller", RoleName="puller")
    yield "puller"
    iam.remove_role_from_instance_profile(InstanceProfileName="puller", RoleName="puller")
    iam.delete_instance_profile(InstanceProfileName="puller")
    for name in iam.list_role_policies(RoleName="puller")["PolicyNames"]:
        iam.delete_role_policy(RoleName="puller", PolicyName=name)
    iam.delete_role(RoleName="puller")


def says(world: Any, profile: str, *lines: str) -> str:
    """What an instance prints that runs these lines."""
    name = world.boot(BOOT.format("\n".join(lines)), IamInstanceProfile={"Name": profile})
    return str(world.prints(name, "over\n"))


LOGIN = (
    "aws --region us-east-1 ecr get-login-password | "
    f"step docker login --username AWS --password-stdin {HOST}"
)


def test_a_container_has_its_own_variables_and_no_way_to_power_off(
    world: Any, registry: Any, profile: str
) -> None:
    text = says(
        world,
        profile,
        LOGIN,
        f"step docker pull --quiet {HOST}/images:one",
        f"HIDDEN=1 GIVEN=2 step docker run --rm -e GIVEN -e SAID=3 --entrypoint env {HOST}/images:one",
        f"step docker run --rm --entrypoint sh {HOST}/images:one -c 'command -v shutdown; exit 7'",
        f"echo fed | step docker run --rm --interactive --entrypoint cat {HOST}/images:one",
    )
    lines = text.splitlines()
    assert "Login Succeeded" in lines
    assert {"GIVEN=2", "SAID=3", "fed"} <= set(lines)
    assert not any(line.startswith(("HIDDEN=", "SANDBOX_")) for line in lines)
    assert [line for line in lines if line.startswith("rc=")] == ["rc=0", "rc=0", "rc=0", "rc=7", "rc=0"]


def test_a_wrong_password_is_refused(world: Any, registry: Any, profile: str) -> None:
    text = says(
        world,
        profile,
        f"echo wrong | step docker login --username AWS --password-stdin {HOST}",
        f"step docker pull --quiet {HOST}/images:one",
    )
    assert "failed with status: 400 Bad Request" in text
    assert "no basic auth credentials" in text
    assert text.count("rc=1") == 2


def test_what_is_not_there_is_told_in_dockers_own_words(world: Any, registry: Any, profile: str) -> None:
    text = says(
        world,
        profile,
        LOGIN,
        f"step docker pull --quiet {HOST}/images:two",
        f"step docker pull --quiet {HOST}/others:one",
        f"step docker pull --quiet {HOST}/images:bare",
        f"step docker run --rm --entrypoint env {HOST}/images:bare",
        f"step docker run --rm --entrypoint no-such-thing {HOST}/images:bare",
    )
    assert f"manifest for {HOST}/images:two not found: manifest unknown: Requested image not found" in text
    assert f"repository {HOST}/others not found: name unknown: The repository with name 'others'" in text
    assert 'exec: "env": executable file not found in $PATH' in text
    assert text.count("rc=127") == 2


def test_pulling_takes_exactly_the_permissions_that_the_machines_have(
    sandbox: Any, world: Any, registry: Any, profile: str
) -> None:
    """Each is taken away in turn, and each time Docker is refused."""
    needed = ["ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    lines = (LOGIN, f"step docker pull --quiet {HOST}/images:one")
    sandbox.set(iam="on")
    try:
        for lacking in ("", *needed):
            actions = [a for a in needed if a != lacking]
            statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            sandbox.client("iam").put_role_policy(
                RoleName="puller", PolicyName="pull", PolicyDocument=document
            )
            text = says(world, profile, *lines)
            assert ("rc=1" in text) == bool(lacking), text
            assert not lacking or f"not authorized to perform: {lacking}" in text
    finally:
        sandbox.set(iam="off")


def test_docker_hub_is_what_the_settings_say(sandbox: Any, world: Any, profile: str) -> None:
    sandbox.set(hub_images=["me/image:one", "you/image:one"], hub_tokens={"me": "right"})
    login = "step docker login --username me --password-stdin docker.io"
    text = says(
        world,
        profile,
        "step docker pull --quiet docker.io/you/image:one",
        "step docker pull --quiet docker.io/me/image:one",
        f"echo wrong | {login}",
        f"echo right | {login}",
        "step docker pull --quiet docker.io/me/image:one",
        "step docker pull --quiet docker.io/me/image:two",
    )
    sandbox.set(hub_images=[], hub_tokens={})
    codes = [line for line in text.splitlines() if line.startswith("rc=")]
    assert codes == ["rc=0", "rc=1", "rc=1", "rc=0", "rc=0", "rc=1"]
    assert "unauthorized: incorrect username or password" in text
    assert "right" not in text


def test_a_signal_reaches_what_runs_in_the_container(world: Any, registry: Any, profile: str) -> None:
    text = says(
        world,
        profile,
        LOGIN,
        f"docker pull --quiet {HOST}/images:one",
        f"docker run --rm --entrypoint sh {HOST}/images:one "
        "-c 'trap \"echo ending; exit 3\" TERM; echo up; while :; do sleep 0.1; done' >$HOME/out & pid=$!",
        "until grep -q up $HOME/out; do sleep 0.1; done",
        "kill $pid; wait $pid; echo ended=$?; cat $HOME/out",
    )
    assert "ended=3" in text
    assert "ending" in text
