"""What machines install reaches the account's bucket: once, by hash, and closed to everybody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from prefect_coiled.aws import bucket
from prefect_coiled.aws.door import Aws
from prefect_coiled.environment import Lock, Locked, Wheel
from prefect_coiled.environment.build import wheel_of
from prefect_coiled.environment.modules import write_wheel
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import create_cluster, remove_cluster
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.environment import read_lock, send
from prefect_coiled.tasks.steps import Session

NUMBER = "123456789012"


@pytest.fixture
def locked(tmp_path: Path) -> Callable[..., Locked]:
    """Lock tiny wheels that are made here; what is said of each is its content."""

    def make(*contents: str) -> Locked:
        made: list[Wheel] = []
        built: dict[str, Path] = {}
        for n, content in enumerate((*contents, "uv")):
            folder = tmp_path / content
            folder.mkdir(exist_ok=True)
            path = write_wheel({f"m{n}.py": content.encode()}, folder)
            assert path is not None
            made.append(wheel_of(path))
            built[made[-1].sha256] = path
        lock = Lock(python="3.11.9", architecture="x86_64", wheels=tuple(made[:-1]), uv=made[-1])
        return Locked(lock, built)

    return make


def test_only_what_is_missing_is_put_and_all_of_it_is_found_by_hash(
    aws: Aws, sandbox: Sandbox, locked: Callable[..., Locked]
) -> None:
    name = bucket.ensure_bucket(aws, NUMBER)
    first = send(aws, locked("one", "two"), name)
    assert first.sent == 3
    before = aws.calls.copy()
    again = send(aws, locked("one", "two"), name)
    assert (again.sent, again.uploaded, again.downloaded) == (0, 0, 0)
    assert aws.calls - before == {"s3:ListObjectsV2": 1}
    more = locked("one", "three")
    second = send(aws, more, name)
    assert second.sent == 1
    keys = {o["Key"] for o in sandbox.client("s3").list_objects_v2(Bucket=name)["Contents"]}
    assert {w.key for w in more.lock.files} | {more.lock.key} <= keys
    assert read_lock(aws, name, second.place.key) == Lock.parse(more.lock.text())
    assert read_lock(aws, name, "wheels/environments/none/pylock.toml") is None


def test_what_will_expire_soon_is_put_again(aws: Aws, locked: Callable[..., Locked]) -> None:
    name = bucket.ensure_bucket(aws, NUMBER)
    place = send(aws, locked("soon"), name).place
    assert place.key in bucket.list_files(aws, name)
    later = datetime.now(timezone.utc) + timedelta(days=bucket.RENEWED_DAYS + 1)
    assert bucket.list_files(aws, name, now=later) == frozenset()
    assert bucket.RENEWED_DAYS < bucket.KEPT_DAYS - 7, "a cluster's certificates hold for a week"


def test_the_bucket_is_encrypted_private_takes_tls_alone_and_forgets(aws: Aws, sandbox: Sandbox) -> None:
    name = bucket.ensure_bucket(aws, NUMBER)
    s3 = sandbox.client("s3")
    assert all(s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values())
    (rule,) = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=name)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert (rule["Filter"], rule["Expiration"]) == ({"Prefix": "wheels/"}, {"Days": 30})


def test_a_bucket_that_was_left_half_made_is_closed(aws: Aws, sandbox: Sandbox) -> None:
    s3 = sandbox.client("s3")
    name = bucket.ensure_bucket(aws, NUMBER)
    s3.delete_bucket_policy(Bucket=name)
    s3.delete_bucket_tagging(Bucket=name)
    s3.delete_public_access_block(Bucket=name)
    assert bucket.ensure_bucket(aws, NUMBER) == name
    assert s3.get_bucket_policy(Bucket=name)["Policy"]
    assert s3.get_public_access_block(Bucket=name)


def test_machines_are_told_where_the_list_is_and_their_role_may_read_it(
    session: Session,
    spec: Callable[..., ClusterSpec],
    sandbox: Sandbox,
    aws: Aws,
    locked: Callable[..., Locked],
) -> None:
    plan = spec(n_workers=1).model_copy(update={"image_ready": False})
    session.locked = locked("pkg")
    record = create_cluster(plan)
    try:
        lock = session.locked.lock
        place = f"s3://coiled-{NUMBER}-us-east-1-team/{lock.key}"
        ec2 = sandbox.client("ec2")
        for machine in (record.scheduler, *record.workers):
            attribute = ec2.describe_instance_attribute(InstanceId=machine.instance_id, Attribute="userData")
            text = base64.b64decode(attribute["UserData"]["Value"]).decode()
            assert place in text
            assert lock.wheels[0].file not in text
        policy = str(sandbox.client("iam").get_role_policy(RoleName="team", PolicyName="coiled-instance"))
        assert f"arn:aws:s3:::coiled-{NUMBER}-*-team/wheels/*" in policy
    finally:
        remove_cluster(aws, plan.name)
