"""A bucket's own policy: moto reads over its conditions, so that "nobody without TLS" is nobody at all.

A statement that asks for something of the transport says nothing here: the sandbox is plain HTTP on the
loopback, and stands for AWS, which is not.
"""

from __future__ import annotations

import json
from typing import Any

from moto.s3.models import FakeBucket

__all__ = ["install"]


def install() -> None:
    """Correct what a bucket's policy permits and denies."""
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
