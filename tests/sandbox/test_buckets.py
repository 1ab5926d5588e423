"""Whose a bucket is: the sandbox keeps AWS accounts apart, and reads whose a caller expects it to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from prefect_coiled.sandbox import Sandbox

OWN, OTHER = "123456789012", "222222222222"


def client_of(sandbox: Sandbox, number: str) -> Any:
    """An S3 client of another AWS account."""
    role = f"arn:aws:iam::{number}:role/somebody"
    made = sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="other")["Credentials"]
    keys = (made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])
    return boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=sandbox.endpoint)


@pytest.fixture
def theirs(sandbox: Sandbox) -> Iterator[str]:
    """A bucket of another AWS account, with a file in it."""
    s3, name = client_of(sandbox, OTHER), "bucket-of-somebody-else"
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="wheels/x", Body=b"x")
    yield name
    s3.delete_object(Bucket=name, Key="wheels/x")
    s3.delete_bucket(Bucket=name)


@pytest.fixture
def ours(sandbox: Sandbox) -> Iterator[str]:
    s3, name = sandbox.client("s3"), "bucket-of-ours"
    s3.create_bucket(Bucket=name)
    yield name
    s3.delete_bucket(Bucket=name)


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("head_bucket", {}),
    ("get_bucket_tagging", {}),
    ("put_bucket_tagging", {"Tagging": {"TagSet": []}}),
    ("list_objects_v2", {}),
    ("get_object", {"Key": "wheels/x"}),
    ("put_object", {"Key": "wheels/y", "Body": b""}),
    ("delete_objects", {"Delete": {"Objects": [{"Key": "wheels/x"}]}}),
    ("delete_bucket", {}),
]


@pytest.mark.parametrize(("call", "parameters"), CALLS, ids=[c for c, _ in CALLS])
def test_a_bucket_of_another_aws_account_is_closed(
    sandbox: Sandbox, theirs: str, call: str, parameters: dict[str, Any]
) -> None:
    with pytest.raises(ClientError) as refused:
        getattr(sandbox.client("s3"), call)(Bucket=theirs, **parameters)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_the_name_of_somebody_elses_bucket_is_taken(sandbox: Sandbox, theirs: str) -> None:
    with pytest.raises(ClientError) as refused:
        sandbox.client("s3").create_bucket(Bucket=theirs)
    assert refused.value.response["Error"]["Code"] == "BucketAlreadyExists"


@pytest.mark.parametrize(("call", "parameters"), CALLS, ids=[c for c, _ in CALLS])
def test_a_bucket_that_is_not_whose_the_caller_expects_is_refused(
    sandbox: Sandbox, ours: str, call: str, parameters: dict[str, Any]
) -> None:
    with pytest.raises(ClientError) as refused:
        getattr(sandbox.client("s3"), call)(Bucket=ours, ExpectedBucketOwner=OTHER, **parameters)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    sandbox.client("s3").head_bucket(Bucket=ours, ExpectedBucketOwner=OWN)


def test_an_upload_that_is_over_takes_no_more_parts(sandbox: Sandbox, ours: str) -> None:
    s3 = sandbox.client("s3")
    upload = {
        "Bucket": ours,
        "Key": "x",
        "UploadId": s3.create_multipart_upload(Bucket=ours, Key="x")["UploadId"],
    }
    part = s3.upload_part(**upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(**upload)
    for call, more in (
        (s3.upload_part, {"PartNumber": 1, "Body": b"x"}),
        (
            s3.complete_multipart_upload,
            {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}},
        ),
    ):
        with pytest.raises(ClientError) as refused:
            call(**upload, **more)
        assert refused.value.response["Error"]["Code"] == "NoSuchUpload"
