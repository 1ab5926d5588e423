"""The account's repository in ECR: made once, guarded by its tags, its images found and judged."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from prefect_coiled.aws import ecr
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import OptionsError, ProvisionError
from prefect_coiled.options import RegistryOptions
from prefect_coiled.plan.containers import ContainerImage, container_image
from prefect_coiled.provision import destroy_account, set_up_account, take_inventory
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session

INDEX = "application/vnd.oci.image.index.v1+json"
NUMBER = "123456789012"


@pytest.fixture(autouse=True)
def nothing_there(sandbox: Sandbox) -> None:
    sandbox.reset()
    sandbox.set(boot="none")


def push(sandbox: Sandbox, tag: str, *architectures: str, repository: str = "coiled-team") -> str:
    """Push an image as `docker push` does in the end; what it is for is told only with architectures."""
    media = INDEX if architectures else "application/vnd.docker.distribution.manifest.v2+json"
    manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": media, "annotations": {"tag": tag}}
    if architectures:
        manifest["manifests"] = [{"platform": {"architecture": a, "os": "linux"}} for a in architectures]
    else:
        manifest["layers"] = [{"digest": "sha256:" + tag.encode().hex().ljust(64, "0")[:64]}]
    made = sandbox.client("ecr").put_image(
        repositoryName=repository, imageManifest=json.dumps(manifest), imageTag=tag
    )
    return str(made["image"]["imageId"]["imageDigest"])


def image(text: str) -> ContainerImage:
    return container_image(text, RegistryOptions(), account="team", number=NUMBER, region="us-east-1")


def test_set_up_makes_a_repository_with_immutable_tags_that_is_scanned_and_encrypted(
    session: Session, sandbox: Sandbox
) -> None:
    record = set_up_account("team", "us-east-1")
    assert record.repository == f"{NUMBER}.dkr.ecr.us-east-1.amazonaws.com/coiled-team"
    client = sandbox.client("ecr")
    (made,) = client.describe_repositories()["repositories"]
    assert made["repositoryUri"] == record.repository
    assert made["imageTagMutability"] == "IMMUTABLE"
    assert made["imageScanningConfiguration"] == {"scanOnPush": True}
    assert made["encryptionConfiguration"] == {"encryptionType": "AES256"}
    labels = client.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"]
    assert {t["Key"]: t["Value"] for t in labels} == {
        "owner": "coiled",
        "coiled-account": "team",
        "Name": "coiled-team",
    }
    policy = json.loads(client.get_lifecycle_policy(repositoryName="coiled-team")["lifecyclePolicyText"])
    assert policy["rules"][0]["selection"]["tagStatus"] == "untagged"


def test_with_docker_hub_there_is_no_repository(
    session: Session, sandbox: Sandbox, aws: Aws, calls: Counter[str]
) -> None:
    assert set_up_account("team", "us-east-1", registry="docker_hub").repository == ""
    assert sandbox.client("ecr").describe_repositories()["repositories"] == []
    assert not [call for call in calls if call.startswith("ecr:")]


def test_a_set_up_that_was_stopped_before_the_lifecycle_policy_is_completed(
    session: Session, sandbox: Sandbox
) -> None:
    set_up_account("team", "us-east-1")
    sandbox.client("ecr").delete_lifecycle_policy(repositoryName="coiled-team")
    set_up_account("team", "us-east-1")
    assert sandbox.client("ecr").get_lifecycle_policy(repositoryName="coiled-team")["lifecyclePolicyText"]


def test_a_lost_reply_makes_no_second_repository(session: Session, sandbox: Sandbox) -> None:
    sandbox.faults([{"service": "ecr", "action": "CreateRepository", "effect": "drop_after", "times": 1}])
    assert set_up_account("team", "us-east-1").repository
    assert len(sandbox.client("ecr").describe_repositories()["repositories"]) == 1


def test_a_cluster_does_without_a_repository_that_an_older_set_up_did_not_make(
    session: Session, sandbox: Sandbox, aws: Aws, calls: Counter[str]
) -> None:
    set_up_account("team", "us-east-1", registry="docker_hub")
    calls.clear()
    set_up_account("team", "us-east-1", every_zone=False)
    assert "ecr:CreateRepository" not in calls
    assert set_up_account("team", "us-east-1").repository


def test_a_repository_that_is_not_ours_is_left_alone(session: Session, sandbox: Sandbox, aws: Aws) -> None:
    sandbox.client("ecr").create_repository(repositoryName="coiled-team")
    for act in (lambda: set_up_account("team", "us-east-1"), lambda: ecr.delete_repository(aws)):
        with pytest.raises(ProvisionError, match="does not carry our tags"):
            act()
    assert len(sandbox.client("ecr").describe_repositories()["repositories"]) == 1


def test_it_is_in_the_inventory_and_goes_with_its_images(
    session: Session, sandbox: Sandbox, aws: Aws
) -> None:
    set_up_account("team", "us-east-1")
    push(sandbox, "one")
    (found,) = [r for r in take_inventory(aws) if r.kind == "repository"]
    assert (found.resource_id, found.note) == ("coiled-team", "1 images")
    assert destroy_account("team", "us-east-1").removed["repository"] == ("coiled-team",)
    assert sandbox.client("ecr").describe_repositories()["repositories"] == []


def test_images_are_listed_with_tag_digest_size_and_date(
    session: Session, sandbox: Sandbox, aws: Aws
) -> None:
    set_up_account("team", "us-east-1")
    digests = {push(sandbox, "one"), push(sandbox, "two")}
    found = ecr.find_images(aws)
    assert {i.digest for i in found} == digests
    assert {i.tags for i in found} == {("one",), ("two",)}
    assert all(i.size > 0 and i.pushed_at is not None for i in found)
    assert {i.repository for i in found} == {f"{NUMBER}.dkr.ecr.us-east-1.amazonaws.com/coiled-team"}


def test_a_tag_that_is_not_there_names_those_that_are(session: Session, sandbox: Sandbox, aws: Aws) -> None:
    set_up_account("team", "us-east-1")
    with pytest.raises(OptionsError, match=r"no image three in repository coiled-team; there is none yet"):
        ecr.check_image(aws, image("three"), "x86_64")
    push(sandbox, "one")
    push(sandbox, "two")
    with pytest.raises(OptionsError, match=r"no image three .*; there are: (one, two|two, one)\."):
        ecr.check_image(aws, image("three"), "x86_64")
    ecr.check_image(aws, image("two"), "x86_64")
    ecr.check_image(aws, image("two"), "arm64")  # ECR does not say what a single image is for


def test_a_digest_is_looked_up_too(session: Session, sandbox: Sandbox, aws: Aws) -> None:
    record = set_up_account("team", "us-east-1")
    digest = push(sandbox, "one")
    ecr.check_image(aws, image(f"{record.repository}@{digest}"), "x86_64")
    with pytest.raises(OptionsError, match="there is no image sha256:0000"):
        ecr.check_image(aws, image(f"{record.repository}@sha256:{'0' * 64}"), "x86_64")


def test_an_image_for_another_architecture_is_refused(session: Session, sandbox: Sandbox, aws: Aws) -> None:
    set_up_account("team", "us-east-1")
    push(sandbox, "arm", "arm64", "unknown")
    push(sandbox, "both", "amd64", "arm64")
    ecr.check_image(aws, image("arm"), "arm64")
    ecr.check_image(aws, image("both"), "x86_64")
    with pytest.raises(OptionsError, match=r"coiled-team:arm'.* is for arm64, and the machines are amd64"):
        ecr.check_image(aws, image("arm"), "x86_64")


def test_without_a_repository_the_error_says_how_to_get_one(session: Session, aws: Aws) -> None:
    for act in (lambda: ecr.find_images(aws), lambda: ecr.check_image(aws, image("one"), "x86_64")):
        with pytest.raises(ProvisionError, match=r"no repository in us-east-1.*setup region --account team"):
            act()
