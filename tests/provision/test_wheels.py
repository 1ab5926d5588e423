"""What the client has installed from a directory reaches machines that install their own environment."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable

import pytest

from prefect_coiled.aws import bucket
from prefect_coiled.aws.door import Aws
from prefect_coiled.environment import LocalPackage, client_packages
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import create_cluster, remove_cluster
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session
from prefect_coiled.wheels import build_wheels, wheels_key


def test_this_very_package_becomes_a_wheel_with_all_of_its_files() -> None:
    own = [p for p in client_packages() if p.startswith("prefect-dask-ec2")]
    assert isinstance(own[0], LocalPackage), "the suite runs from a checkout"
    ((name, content),) = build_wheels(own).items()
    assert name.startswith("prefect_dask_ec2-")
    files = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert {
        "prefect_coiled/node/main.py",
        "prefect_coiled/plan/user_data.sh",
        "prefect_coiled/plan/machines.json",
        "prefect_coiled/sandbox/instance/init.sh",
    } <= set(files)


def test_packages_of_an_index_are_not_built() -> None:
    assert build_wheels(["dask==2026.8.0"]) == {}


def test_the_key_changes_with_the_content() -> None:
    first = wheels_key({"a.whl": b"1", "b.whl": b"2"})
    assert first == wheels_key({"b.whl": b"2", "a.whl": b"1"})
    assert first != wheels_key({"a.whl": b"1", "b.whl": b"3"})


def test_a_package_that_cannot_be_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_coiled.wheels._uv", lambda: ["/bin/false"])
    with pytest.raises(OptionsError, match=r"prefect-dask-ec2: building its wheel"):
        build_wheels([LocalPackage("prefect-dask-ec2==0.1.0")])


def test_a_uv_of_the_environment_is_found_where_the_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert build_wheels([LocalPackage("prefect-dask-ec2==0.1.0")])


def test_without_a_tool_that_builds_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_coiled.wheels.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OptionsError, match=r"neither uv nor pip .*pip install uv"):
        build_wheels([LocalPackage("prefect-dask-ec2==0.1.0")])


def test_machines_that_install_for_themselves_find_the_wheel_in_the_accounts_bucket(
    session: Session, spec: Callable[..., ClusterSpec], sandbox: Sandbox, aws: Aws
) -> None:
    plan = spec(n_workers=1).model_copy(update={"image_ready": False})
    record = create_cluster(plan)
    try:
        s3, ec2 = sandbox.client("s3"), sandbox.client("ec2")
        (name,) = [b["Name"] for b in s3.list_buckets()["Buckets"] if b["Name"].startswith("coiled-")]
        (wheel,) = [o["Key"] for o in s3.list_objects_v2(Bucket=name)["Contents"]]
        assert wheel.startswith("wheels/")
        assert s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]["BlockPublicPolicy"]
        folder = f"s3://{name}/{wheel.rpartition('/')[0]}/"
        for machine in (record.scheduler, *record.workers):
            attribute = ec2.describe_instance_attribute(InstanceId=machine.instance_id, Attribute="userData")
            assert folder in base64.b64decode(attribute["UserData"]["Value"]).decode()
        policy = str(sandbox.client("iam").get_role_policy(RoleName="team", PolicyName="coiled-instance"))
        assert f"arn:aws:s3:::{name.replace('us-east-1', '*')}/wheels/*" in policy
    finally:
        remove_cluster(aws, plan.name)


def test_a_file_that_is_there_is_not_sent_again(session: Session, aws: Aws) -> None:
    name = bucket.ensure_bucket(aws, "123456789012")
    assert bucket.put_file(aws, name, "wheels/k/a.whl", b"x")
    assert not bucket.put_file(aws, name, "wheels/k/a.whl", b"x")
    assert bucket.ensure_bucket(aws, "123456789012") == name
