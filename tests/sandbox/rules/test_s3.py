"""S3's rules."""

from __future__ import annotations

import pytest

from .here import Case, Here, check, code_of, many, pairs, policy, story

CASES: list[Case] = [
    (
        "s3-model",
        "s3",
        "create_bucket",
        lambda h: {"Bucket": "on-mars", "CreateBucketConfiguration": {"LocationConstraint": "mars"}},
        "InvalidLocationConstraint",
        None,
    ),
    (
        "s3-model",
        "s3",
        "put_bucket_tagging",
        lambda h: {"Bucket": "rules", "Tagging": {}},
        "MalformedXML",
        None,
    ),
    (
        "s3-bucket-name",
        "s3",
        "create_bucket",
        lambda h: {"Bucket": "a..b"},
        "InvalidBucketName",
        lambda h: {"Bucket": "a.b-c"},
    ),
    ("s3-bucket-name", "s3", "create_bucket", lambda h: {"Bucket": "10.0.0.1"}, "InvalidBucketName", None),
    (
        "s3-tags",
        "s3",
        "put_bucket_tagging",
        lambda h: {"Bucket": "rules", "Tagging": {"TagSet": pairs(("team", "R&D"))}},
        "InvalidTag",
        lambda h: {"Bucket": "rules", "Tagging": {"TagSet": pairs(("team", "R and D"))}},
    ),
    (
        "s3-tag-count",
        "s3",
        "put_bucket_tagging",
        lambda h: {"Bucket": "rules", "Tagging": {"TagSet": pairs(*many(51))}},
        "BadRequest",
        lambda h: {"Bucket": "rules", "Tagging": {"TagSet": pairs(*many(50))}},
    ),
    (
        "s3-key-length",
        "s3",
        "put_object",
        lambda h: {"Bucket": "rules", "Key": "k" * 1025, "Body": b""},
        "KeyTooLongError",
        lambda h: {"Bucket": "rules", "Key": "k" * 1024, "Body": b""},
    ),
    (
        "s3-metadata",
        "s3",
        "put_object",
        lambda h: {"Bucket": "rules", "Key": "k", "Metadata": {"a": "m" * 2048}},
        "MetadataTooLarge",
        None,
    ),
    (
        "s3-deleted",
        "s3",
        "delete_objects",
        lambda h: {"Bucket": "rules", "Delete": {"Objects": [{"Key": str(n)} for n in range(1001)]}},
        "MalformedXML",
        lambda h: {"Bucket": "rules", "Delete": {"Objects": [{"Key": str(n)} for n in range(1000)]}},
    ),
    (
        "s3-policy",
        "s3",
        "put_bucket_policy",
        lambda h: {"Bucket": "rules", "Policy": policy()},
        "MalformedPolicy",
        None,
    ),
    (
        "s3-lifecycle",
        "s3",
        "put_bucket_lifecycle_configuration",
        lambda h: {
            "Bucket": "rules",
            "LifecycleConfiguration": {
                "Rules": [{"ID": "a", "Filter": {}, "Status": "Enabled", "Expiration": {"Days": 0}}]
            },
        },
        "InvalidArgument",
        None,
    ),
    (
        "s3-part-number",
        "s3",
        "upload_part",
        lambda h: {"Bucket": "rules", "Key": "k", "UploadId": "u", "PartNumber": 0, "Body": b"x"},
        "InvalidArgument",
        None,
    ),
    (
        "s3-page",
        "s3",
        "list_objects_v2",
        lambda h: {"Bucket": "rules", "MaxKeys": -1},
        "InvalidArgument",
        lambda h: {"Bucket": "rules", "MaxKeys": 0},
    ),
    ("s3-no-such", "s3", "get_object", lambda h: {"Bucket": "rules", "Key": "nobody"}, "NoSuchKey", None),
    ("s3-not-empty", "s3", "delete_bucket", lambda h: {"Bucket": "rules"}, "BucketNotEmpty", None),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


@story("s3-location", "s3-name-taken")
def test_a_bucket_is_made_at_the_endpoint_of_its_region(here: Here) -> None:
    west = here.of("s3", "us-west-2")
    illegal = "IllegalLocationConstraintException"
    assert code_of(west.create_bucket, Bucket="in-the-west") == illegal
    elsewhere = {"LocationConstraint": "eu-west-1"}
    assert code_of(west.create_bucket, Bucket="in-the-west", CreateBucketConfiguration=elsewhere) == illegal
    asked = {"Bucket": "in-the-west", "CreateBucketConfiguration": {"LocationConstraint": "us-west-2"}}
    west.create_bucket(**asked)
    assert code_of(west.create_bucket, **asked) == "BucketAlreadyOwnedByYou"


@story("s3-object-size")
def test_an_object_of_more_than_5_gb_is_refused_before_it_is_sent(here: Here) -> None:
    """By hand: a client would send all of it."""
    import http.client
    from urllib.parse import urlsplit

    there = {"Bucket": "rules", "Key": "huge"}
    url = urlsplit(here.of("s3").generate_presigned_url("put_object", Params=there))
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.putrequest("PUT", f"{url.path}?{url.query}")
    connection.putheader("Content-Length", str(5 * 1024**3 + 1))
    connection.endheaders()
    assert b"<Code>EntityTooLarge</Code>" in connection.getresponse().read()
    connection.close()


@story("s3-parts")
def test_an_upload_is_completed_with_the_parts_that_were_sent(here: Here) -> None:
    s3, there = here.of("s3"), {"Bucket": "rules", "Key": "parts"}
    there["UploadId"] = s3.create_multipart_upload(**there)["UploadId"]
    tags = [s3.upload_part(**there, PartNumber=n, Body=b"x")["ETag"] for n in (1, 2)]

    def complete(upload: str, *found: str) -> str:
        parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(found, 1)]
        asked = {**there, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
        return code_of(s3.complete_multipart_upload, **asked)

    assert complete(there["UploadId"], *tags) == "EntityTooSmall"
    assert complete(there["UploadId"], tags[0], '"0"') == "InvalidPart"
    assert complete("nobodys", tags[0]) == "NoSuchUpload"
