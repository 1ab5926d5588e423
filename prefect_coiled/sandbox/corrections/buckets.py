"""Whose a bucket is, and its own policy.

moto lets every AWS account into every bucket, and does not read whose a caller expects it to be
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html). Of a bucket's policy it
reads over the conditions, so that "nobody without TLS" is nobody at all: a statement that asks for something
of the transport says nothing here, as the sandbox is plain HTTP on the loopback, and AWS is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from moto.s3.models import FakeBucket, s3_backends
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


def _guarded(moto_response: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but for callers of another AWS account than the bucket's, and those who expect another."""

    def response(self: Any, request: Any, full_url: str) -> Any:
        name = self.parse_bucket_name_from_url(request, full_url)
        owner = s3_backends.bucket_accounts.get(name, ("", ""))[1]
        # Making one answers for itself that the name is taken.
        making = request.method == "PUT" and not (request.query_string or self.parse_key_name().strip("/"))
        expected = request.headers.get("x-amz-expected-bucket-owner", owner)
        if owner and not making and {expected, self.current_account} != {owner}:
            return 403, {"content-type": "application/xml"}, "" if request.method == "HEAD" else _DENIED
        return moto_response(self, request, full_url)

    return response
