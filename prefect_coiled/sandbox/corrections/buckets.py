"""Whose a bucket is, and its own policy.

moto lets every AWS account into every bucket, and does not read whose a caller expects it to be
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html). Of a bucket's policy it
reads over the conditions, so that "nobody without TLS" is nobody at all: a statement that asks for something
of the transport says nothing here, as the sandbox is plain HTTP on the loopback, and AWS is not. Of parts of
an upload that is over it knows no answer but a KeyError.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import FakeBucket, S3Backend, s3_backends
from moto.s3.responses import S3Response

__all__ = ["install"]

_DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def install() -> None:
    """Correct whose a bucket is, and what its policy permits and denies."""
    for name in ("_bucket_response", "_key_response"):
        setattr(S3Response, name, _guarded(getattr(S3Response, name)))
    moto_permission = FakeBucket.get_permission

    def get_permission(self: Any, action: str, resource: str) -> Any:
        whole = self.policy
        if whole is None:
            return moto_permission(self, action, resource)
        document = json.loads(whole)
        kept = [s for s in document["Statement"] if "aws:SecureTransport" not in json.dumps(s)]
        try:
            self.policy = json.dumps({**document, "Statement": kept}).encode() if kept else None
            return moto_permission(self, action, resource)
        finally:
            self.policy = whole

    FakeBucket.get_permission = get_permission
    for name in ("upload_part", "upload_part_copy", "complete_multipart_upload"):
        setattr(S3Backend, name, _of_an_upload(getattr(S3Backend, name)))


def _of_an_upload(moto_call: Callable[..., Any]) -> Callable[..., Any]:
    """The same, for uploads that are under way.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPart.html
    """

    def call(self: Any, bucket_name: str, multipart_id: str, *rest: Any, **more: Any) -> Any:
        if multipart_id not in self.get_bucket(bucket_name).multiparts:
            raise NoSuchUpload(upload_id=multipart_id)
        return moto_call(self, bucket_name, multipart_id, *rest, **more)

    return call


def _is_open(partition: str, owner: str, name: str) -> bool:
    """Whether a bucket's own policy lets in everybody, other AWS accounts too."""
    bucket = s3_backends[owner][partition].buckets.get(name)
    document = json.loads((bucket.policy if bucket is not None else None) or b"{}")
    return any(
        s["Effect"] == "Allow" and s.get("Principal") in ("*", {"AWS": "*"})
        for s in document.get("Statement", ())
    )


def _guarded(moto_response: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but for callers of another AWS account than the bucket's, and those who expect another."""

    def response(self: Any, request: Any, full_url: str) -> Any:
        name = self.parse_bucket_name_from_url(request, full_url)
        partition, owner = s3_backends.bucket_accounts.get(name, ("", ""))
        # Making one answers for itself that the name is taken.
        making = request.method == "PUT" and not (request.query_string or self.parse_key_name().strip("/"))
        expected = request.headers.get("x-amz-expected-bucket-owner", owner)
        foreign = owner not in ("", self.current_account) and not _is_open(partition, owner, name)
        if owner and not making and (expected != owner or foreign):
            return 403, {"content-type": "application/xml"}, "" if request.method == "HEAD" else _DENIED
        return moto_response(self, request, full_url)

    return response
