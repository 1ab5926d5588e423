"""Machines of a sandbox that hold nothing: what they have, what they lack, and what their images keep."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_coiled.sandbox import Sandbox
from prefect_coiled.sandbox.instance import aws as stand_in
from prefect_coiled.sandbox.machine import can_separate, copy_disk

Until = Callable[..., Any]
Launch = Callable[[str], str]
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
OFF = "\necho done\nshutdown -h now\n"


@pytest.fixture(scope="module")
def bare() -> Iterator[Sandbox]:
    with Sandbox({"image": "bare", "grace": 1}) as running:
        yield running


@pytest.fixture
def launch(bare: Sandbox) -> Iterator[Callable[..., str]]:
    """Launch a machine that stops where it powers off; gives its id."""
    ec2 = bare.client("ec2")
    made: list[str] = []

    def start(script: str, image: str = "") -> str:
        first = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        reply = ec2.run_instances(
            ImageId=image or first, MinCount=1, MaxCount=1, UserData=f"#!/bin/bash\n{script}{OFF}"
        )
        made.append(reply["Instances"][0]["InstanceId"])
        return made[-1]

    yield start
    ec2.terminate_instances(InstanceIds=made)


def said(bare: Sandbox, until: Until, instance_id: str) -> str:
    """What a machine printed, once it is off."""
    until(lambda: bare.instances()[instance_id]["state"] == "stopped")
    return bare.console(instance_id)


def test_a_bare_machine_has_neither_the_node_nor_anything_of_this_environment(
    bare: Sandbox, launch: Callable[..., str], until: Until
) -> None:
    script = 'command -v prefect-coiled-node; command -v dask; echo "root=$PREFECT_COILED_ROOT"; echo "$PATH"'
    text = said(bare, until, launch(script))
    assert "/dask" not in text.replace(":", "\n/")
    assert "prefect-coiled-node" not in text
    assert f"root={bare.info.state_dir}" in text
    assert sys.prefix not in text


def test_the_distribution_has_this_python_and_no_other_package(
    bare: Sandbox, launch: Callable[..., str], until: Until
) -> None:
    script = f"dnf install -y -q python{MINOR} && python{MINOR} --version\ndnf install -y -q python3.99"
    text = said(bare, until, launch(script))
    assert f"Python {MINOR}" in text
    assert "Unable to find a match: python3.99" in text


def test_an_image_begins_with_the_disk_it_was_taken_of_until_it_is_deregistered(
    bare: Sandbox, launch: Callable[..., str], until: Until
) -> None:
    ec2 = bare.client("ec2")
    builder = launch('mkdir -p "$PREFECT_COILED_ROOT/opt"; echo kept >"$PREFECT_COILED_ROOT/opt/note"')
    said(bare, until, builder)
    image = ec2.create_image(InstanceId=builder, Name="kept")["ImageId"]
    read = 'cat "$PREFECT_COILED_ROOT/opt/note"; echo changed >"$PREFECT_COILED_ROOT/opt/note"'
    assert "kept" in said(bare, until, launch(read, image))
    assert "kept" in said(bare, until, launch(read, image)), "what one machine writes no other one reads"
    ec2.deregister_image(ImageId=image)
    assert not (bare.info.state_dir / "images" / image).exists()


def test_an_instance_that_fetches_a_file_anew_leaves_that_of_another_one_of_its_image_alone(
    bare: Sandbox, tmp_path: Path
) -> None:
    image, first, second = (tmp_path / name for name in ("image", "first", "second"))
    image.mkdir()
    (image / "list").write_bytes(b"old" * 9000)
    copy_disk(image, first)
    copy_disk(image, second)
    s3 = bare.client("s3")
    s3.create_bucket(Bucket="lists")
    s3.put_object(Bucket="lists", Key="list", Body=b"new" * 9000)
    environ = {**os.environ, "AWS_ENDPOINT_URL": bare.info.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    environ |= bare.environment()
    command = [sys.executable, stand_in.__file__, "s3", "cp", "s3://lists/list", "list"]
    subprocess.run(command, cwd=first, env=environ, check=True)
    assert (first / "list").read_bytes() == b"new" * 9000
    assert [p.name for p in first.iterdir()] == ["list"]
    assert (second / "list").read_bytes() == (image / "list").read_bytes() == b"old" * 9000


@pytest.mark.skipif(not can_separate(), reason="machines have no namespaces of their own here")
def test_a_disk_holds_what_the_setting_says(bare: Sandbox, launch: Callable[..., str], until: Until) -> None:
    script = 'head -c 9000000 /dev/zero >"$PREFECT_COILED_ROOT/big"'
    bare.set(disk=4)
    try:
        text = said(bare, until, launch(script))
    finally:
        bare.set(disk=None)
    assert "No space left on device" in text
    assert "No space" not in said(bare, until, launch(f'mkdir -p "$PREFECT_COILED_ROOT"; {script}'))


def test_a_bucket_that_refuses_plain_http_takes_what_comes_over_the_loopback(bare: Sandbox) -> None:
    import json

    s3 = bare.client("s3")
    s3.create_bucket(Bucket="closed")
    everyone = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::closed/*"}
    plain = {**everyone, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    s3.put_bucket_policy(Bucket="closed", Policy=json.dumps({"Version": "1", "Statement": [plain]}))
    s3.put_object(Bucket="closed", Key="a", Body=b"a")
    s3.put_bucket_policy(Bucket="closed", Policy=json.dumps({"Version": "1", "Statement": [plain, everyone]}))
    with pytest.raises(s3.exceptions.ClientError, match=r"403|Forbidden|AccessDenied"):
        s3.put_object(Bucket="closed", Key="b", Body=b"b")
