"""An image with the client's packages is baked on a real builder, and clusters come up from it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import pytest
from distributed import Client
from typer.testing import CliRunner

from prefect_coiled import Cluster, load_account
from prefect_coiled.aws.door import Aws
from prefect_coiled.cli import app
from prefect_coiled.provision import destroy_account, sweep, take_inventory
from prefect_coiled.provision.inventory import Resource
from prefect_coiled.sandbox import Sandbox

from .conftest import dispensable

IGNORE = [f"--ignore={name}" for name in dispensable()]


def bake(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["environment", "bake", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def by_kind(resources: Iterable[Resource]) -> dict[str, tuple[str, ...]]:
    """The ids by kind."""
    listed = sorted(resources, key=lambda one: one.kind)
    return {kind: tuple(one.resource_id for one in some) for kind, some in groupby(listed, lambda o: o.kind)}


@pytest.fixture
def aws(default_account: None) -> Aws:
    return load_account().door("us-east-1")


@pytest.fixture(scope="module")
def baked(default_account: None) -> str:
    """What the command said."""
    return bake(*IGNORE)


def told(cluster: Cluster, step: str) -> str:
    return [line for _, line in cluster._cluster_manager_logs if line.startswith(f"{step}: ")][-1]


def console(sandbox: Sandbox, instance_id: str) -> str:
    return str(sandbox.client("ec2").get_console_output(InstanceId=instance_id)["Output"])


def test_baking_leaves_an_encrypted_image_with_our_tags_and_nothing_else(
    baked: str, sandbox: Sandbox, aws: Aws
) -> None:
    assert "Baked ami-" in baked
    (image,) = sandbox.client("ec2").describe_images(Owners=["self"])["Images"]
    labels = {t["Key"]: t["Value"] for t in image["Tags"]}
    assert (labels["owner"], labels["coiled-account"]) == ("coiled", "default")
    assert image["Name"] == f"coiled-default-{labels['coiled-environment']}"
    kinds = by_kind(take_inventory(aws))
    assert len(kinds["image"]) == len(kinds["snapshot"]) == 1
    assert not {"instance", "launch template", "security group", "volume"} & set(kinds)
    listed = CliRunner().invoke(app, ["environment", "images"]).output
    assert image["ImageId"] in listed


def test_baking_the_same_environment_again_finds_the_image(baked: str, sandbox: Sandbox) -> None:
    before = sandbox.calls(None).count(("ec2", "RunInstances"))
    assert "holds these packages already" in bake(*IGNORE)
    assert sandbox.calls(None).count(("ec2", "RunInstances")) == before


def test_a_cluster_of_these_packages_uses_the_image_and_installs_nothing(
    baked: str, sandbox: Sandbox
) -> None:
    with (
        Cluster(
            n_workers=1,
            wait_for_workers=True,
            package_sync_ignore=dispensable(),
            report=lambda step, state: None,
        ) as cluster,
        Client(cluster) as client,
    ):
        assert told(cluster, "image").endswith("baked with these packages")
        assert client.submit(sum, [1, 2]).result() == 3
        (worker,) = cluster.workers
        # What this program imports, and no package installed, is a wheel of its own.
        assert "installing 1 packages" in console(sandbox, worker)


def test_a_cluster_of_other_packages_installs_the_difference(baked: str, sandbox: Sandbox) -> None:
    more = [name for name in (*dispensable(), "tzdata") if name != "iniconfig"]
    with Cluster(n_workers=0, package_sync_ignore=more, report=lambda step, state: None) as cluster:
        assert " baked with " in told(cluster, "image")
        scheduler = cluster.started().record.scheduler.instance_id
        said = console(sandbox, scheduler)
        assert "installing 2 packages" in said


def test_a_bake_that_fails_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, baked: str, sandbox: Sandbox, aws: Aws
) -> None:
    sandbox.set(disk=30)
    try:
        more = [a for a in IGNORE if a != "--ignore=iniconfig"]
        done = CliRunner().invoke(app, ["environment", "bake", *more])
    finally:
        sandbox.set(disk=None)
    assert done.exit_code == 1
    assert "No space left on device" in done.output + done.stderr
    kinds = by_kind(take_inventory(aws))
    assert not {"instance", "launch template", "security group"} & set(kinds)
    assert len(kinds["image"]) == 1


def test_old_images_go_with_a_sweep_and_all_of_them_with_the_account(
    baked: str, sandbox: Sandbox, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(by_kind(take_inventory(aws))["image"]) == 1
    sweep("default", "us-east-1")
    assert len(by_kind(take_inventory(aws))["image"]) == 1, "the newest are kept"
    monkeypatch.setattr("prefect_coiled.aws.baked_images.KEPT_IMAGES", 0)
    removal: Any = sweep("default", "us-east-1")
    assert len(removal.removed["image"]) == len(removal.removed["snapshot"]) == 1
    destroy_account("default", "us-east-1")
    assert not {"image", "snapshot", "bucket"} & set(by_kind(take_inventory(aws)))
