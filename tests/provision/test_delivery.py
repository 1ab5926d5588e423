"""What machines install reaches the account's bucket: once, by hash, and closed to everybody else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from prefect_coiled.aws import bucket, uploads
from prefect_coiled.aws.door import Aws
from prefect_coiled.environment import Lock, Locked, Wheel
from prefect_coiled.environment.build import wheel_of
from prefect_coiled.environment.modules_wheel import write_wheel
from prefect_coiled.errors import AwsError
from prefect_coiled.events import hearing
from prefect_coiled.internals import kept
from prefect_coiled.plan.certificates import WEEK_S, YEAR_S
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.machine_policies import bucket_name
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
    aws: Aws, sandbox: Sandbox, locked: Callable[..., Locked], calls: Counter[str]
) -> None:
    name = bucket.ensure_bucket(aws, NUMBER)
    first = send(aws, locked("one", "two"), name)
    assert first.sent == 3
    before = calls.copy()
    again = send(aws, locked("one", "two"), name)
    assert (again.sent, again.uploaded) == (0, 0)
    assert calls - before == {"s3:ListObjectsV2": 1}
    more = locked("one", "three")
    second = send(aws, more, name)
    assert second.sent == 1
    keys = {o["Key"] for o in sandbox.client("s3").list_objects_v2(Bucket=name)["Contents"]}
    assert {w.key for w in more.lock.files} | {more.lock.key} <= keys
    assert read_lock(aws, name, second.place.key) == Lock.parse(more.lock.text())
    assert read_lock(aws, name, "wheels/environments/none/pylock.toml") is None


def of_an_index(locked: Locked, folder: Path, sizes: list[int]) -> Locked:
    """Beside what was built here, wheels that anybody may fetch."""
    wheels = []
    for n, size in enumerate(sizes):
        digest = hashlib.sha256(f"{n} beside {locked.lock.hash}".encode()).hexdigest()
        url = f"https://files.pythonhosted.org/packages/p{n}-1-py3-none-any.whl"
        file = f"p{n}-1-py3-none-any.whl"
        wheels.append(Wheel(name=f"p{n}", version="1", file=file, sha256=digest, size=size, url=url))
    made = locked.lock.model_copy(update={"wheels": (*locked.lock.wheels, *wheels)})

    class Fetched(Locked):
        def fetch(self, wheel: Wheel, into: Path) -> Path:
            if wheel.sha256 in self.built:
                return self.built[wheel.sha256]
            (into / wheel.file).write_bytes(b"0" * wheel.size)
            return into / wheel.file

    return Fetched(made, locked.built)


class Line:
    """A clock that goes on with what is sent over a line of so many bytes a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
        self.now, put_file = 0.0, bucket.put_file

        def slow(aws: Aws, name: str, key: str, content: bytes | Path, *more: Path) -> None:
            put_file(aws, name, key, content, *more)
            self.now += (len(content) if isinstance(content, bytes) else content.stat().st_size) / speed

        monkeypatch.setattr(bucket, "put_file", slow)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("speed", "left"), [(1e9, 0), (20_000, 1), (1_000, 3)])
def test_over_a_slow_line_machines_fetch_themselves_what_anybody_can(
    aws: Aws,
    locked: Callable[..., Locked],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    speed: float,
    left: int,
) -> None:
    monkeypatch.setattr("prefect_coiled.tasks.environment._AT_ONCE", 1)
    name = bucket.ensure_bucket(aws, NUMBER)
    line = Line(monkeypatch, speed)
    made = of_an_index(locked("mine", f"at {speed}"), tmp_path, [20_000, 60_000, 900_000])
    first = send(aws, made, name, patience=15, clock=line)
    assert first.left == left
    there = bucket.list_files(aws, name)
    assert {w.key for w in made.lock.files if w.sha256 in made.built} <= there, "what only the client has"
    assert f'url = "{made.lock.wheels[-1].url}"' in made.lock.text()
    again = send(aws, made, name, patience=15, clock=line)
    assert (again.sent, again.uploaded, again.left) == (0, 0, left)
    # A cluster whose machines have no way out gets all of it.
    assert send(aws, made, name, clock=line).sent == left
    bucket.delete_bucket(aws, name)


def test_an_upload_that_broke_off_goes_on(
    aws: Aws, locked: Callable[..., Locked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_coiled.tasks.environment._AT_ONCE", 1)
    name = bucket.ensure_bucket(aws, NUMBER)
    made = of_an_index(locked("broken off"), tmp_path, [10, 20, 30])
    with monkeypatch.context() as patch:
        put_file, put = bucket.put_file, []

        def breaks(aws: Aws, name: str, key: str, content: bytes | Path, *more: Path) -> None:
            if len(put) == 2:
                raise ConnectionError("the line is gone")
            put.append(key)
            put_file(aws, name, key, content, *more)

        patch.setattr(bucket, "put_file", breaks)
        with pytest.raises(ConnectionError):
            send(aws, made, name)
    assert made.lock.key not in bucket.list_files(aws, name)
    assert send(aws, made, name).sent == len(made.lock.files) - 2


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts, each as small as S3 allows."""
    monkeypatch.setattr(uploads, "PART", 5 * 1024**2)
    monkeypatch.setattr(bucket, "LARGE", 6 * 1024**2)
    path = tmp_path / "large.whl"
    path.write_bytes(b"".join(bytes([n]) * 5 * 1024**2 for n in range(3))[:-7])
    return path


def noted(folder: Path) -> uploads.Notes:
    return uploads.Notes(folder, kept.read, kept.write)


def breaks_at(aws: Aws, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    call = aws.call

    def breaking(action: str, what: str, **given: Any) -> dict[str, Any]:
        if action == "s3:UploadPart" and given["PartNumber"] == part:
            raise AwsError("sending", "the line is gone")
        return call(action, what, **given)

    monkeypatch.setattr(aws, "call", breaking)


def break_off(aws: Aws, part: int, name: str, key: str, path: Path, notes: uploads.Notes) -> None:
    """Begin an upload, whose line is gone at one of its parts."""
    with pytest.MonkeyPatch.context() as patch:
        breaks_at(aws, part, patch)
        with pytest.raises(AwsError, match="the line is gone"):
            bucket.put_file(aws, name, key, path, notes)


def test_a_large_file_goes_on_with_the_part_at_which_it_broke_off(
    aws: Aws, sandbox: Sandbox, large: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    name, notes = bucket.ensure_bucket(aws, NUMBER), noted(tmp_path / "notes")
    break_off(aws, 3, name, "wheels/large", large, notes)
    before = calls.copy()
    bucket.put_file(aws, name, "wheels/large", large, notes)
    assert calls - before == {"s3:UploadPart": 1, "s3:CompleteMultipartUpload": 1}
    assert bucket.read_file(aws, name, "wheels/large") == large.read_bytes()
    assert list(notes.folder.iterdir()) == []


def test_an_upload_that_the_bucket_let_go_of_begins_anew(
    aws: Aws, sandbox: Sandbox, large: Path, tmp_path: Path
) -> None:
    name, notes = bucket.ensure_bucket(aws, NUMBER), noted(tmp_path / "notes")
    break_off(aws, 2, name, "wheels/again", large, notes)
    s3 = sandbox.client("s3")
    (upload,) = s3.list_multipart_uploads(Bucket=name)["Uploads"]
    s3.abort_multipart_upload(Bucket=name, Key="wheels/again", UploadId=upload["UploadId"])
    bucket.put_file(aws, name, "wheels/again", large, notes)
    assert bucket.read_file(aws, name, "wheels/again") == large.read_bytes()


@pytest.mark.parametrize(
    "told",
    [
        lambda good: good.replace('"etags": {', '"etags": [').replace("}}", "]}"),
        lambda good: good.replace('"id": "', '"id": ["').replace('", "size"', '"], "size"'),
        lambda good: json.dumps({**json.loads(good), "etags": {"x": "y", "1": None}}),
        lambda good: json.dumps({**json.loads(good), "id": "of-somebody-else"}),
        lambda good: "[" * 100_000,
    ],
    ids=["no parts", "no id", "no numbers", "another upload", "deep"],
)
def test_a_note_of_an_upload_that_is_none_costs_the_upload_alone(
    aws: Aws, large: Path, tmp_path: Path, told: Callable[[str], str]
) -> None:
    name, notes = bucket.ensure_bucket(aws, NUMBER), noted(tmp_path / "notes")
    break_off(aws, 2, name, "wheels/noted", large, notes)
    (note,) = notes.folder.iterdir()
    note.write_text(told(note.read_text()))
    bucket.put_file(aws, name, "wheels/noted", large, notes)
    assert bucket.read_file(aws, name, "wheels/noted") == large.read_bytes()


def test_notes_of_uploads_are_for_the_user_alone_and_those_of_others_are_not_believed(
    aws: Aws, large: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    name, notes = bucket.ensure_bucket(aws, NUMBER), noted(tmp_path / "notes")
    mask = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            breaks_at(aws, 3, patch)
            with pytest.raises(AwsError, match="the line is gone"):
                bucket.put_file(aws, name, "wheels/own", large, notes)
    finally:
        os.umask(mask)
    (note,) = notes.folder.iterdir()
    assert (notes.folder.stat().st_mode & 0o777, note.stat().st_mode & 0o777) == (0o700, 0o600)
    # Whoever may write there can have written this one; and a link leads to a file of the user's.
    note.chmod(0o666)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (notes.folder / f"{note.stem}.{os.getpid()}").symlink_to(precious)
    before = calls.copy()
    bucket.put_file(aws, name, "wheels/own", large, notes)
    assert (calls - before)["s3:CreateMultipartUpload"] == 1
    assert precious.read_text() == "precious"


def test_progress_is_told_in_bytes_and_seconds(
    aws: Aws, locked: Callable[..., Locked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_coiled.tasks.environment._AT_ONCE", 1)
    name = bucket.ensure_bucket(aws, NUMBER)
    told: list[str] = []
    made = of_an_index(locked("told"), tmp_path, [2_000_000, 1_000_000])
    line = Line(monkeypatch, 200_000)
    with hearing(lambda event: told.append(event.text) if event.kind == "step" else None):
        send(aws, made, name, clock=line)
    assert told == ["2.0 of 3.0 MB uploaded in 10 s", "3.0 of 3.0 MB uploaded in 15 s"]


def test_what_will_expire_soon_is_put_again(aws: Aws, locked: Callable[..., Locked]) -> None:
    name = bucket.ensure_bucket(aws, NUMBER)
    place = send(aws, locked("soon"), name).place
    assert place.key in bucket.list_files(aws, name)
    later = datetime.now(timezone.utc) + timedelta(days=bucket.RENEWED_DAYS + 1)
    assert bucket.list_files(aws, name, now=later) == frozenset()
    keys = timedelta(seconds=YEAR_S + WEEK_S)
    assert timedelta(days=bucket.KEPT_DAYS - bucket.RENEWED_DAYS) > keys, "of a cluster without a bound"


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
    assert (rule["Filter"], rule["Expiration"]) == ({"Prefix": "wheels/"}, {"Days": 395})
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}


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
        place = f"s3://{bucket_name('team', NUMBER, 'us-east-1')}/{lock.key}"
        ec2 = sandbox.client("ec2")
        for machine in (record.scheduler, *record.workers):
            attribute = ec2.describe_instance_attribute(InstanceId=machine.instance_id, Attribute="userData")
            text = base64.b64decode(attribute["UserData"]["Value"]).decode()
            assert place in text
            assert lock.wheels[0].file not in text
        policy = str(sandbox.client("iam").get_role_policy(RoleName="team", PolicyName="coiled-instance"))
        assert f"arn:aws:s3:::{bucket_name('team', NUMBER, '*')}/wheels/*" in policy
    finally:
        remove_cluster(aws, plan.name)
