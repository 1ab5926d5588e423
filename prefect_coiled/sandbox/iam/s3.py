"""What a call to S3 asks for: actions and resources, by method, path, what follows the "?", and headers.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from prefect_coiled.sandbox.calls import Call
from prefect_coiled.sandbox.iam.decide import Request

__all__ = ["s3_requests"]

# Parts of a bucket and of an object, by what follows the "?"; everything else goes by its method.
_OF_BUCKET = {
    "accelerate": "AccelerateConfiguration",
    "acl": "BucketAcl",
    "analytics": "AnalyticsConfiguration",
    "cors": "BucketCORS",
    "encryption": "EncryptionConfiguration",
    "intelligent-tiering": "IntelligentTieringConfiguration",
    "inventory": "InventoryConfiguration",
    "lifecycle": "LifecycleConfiguration",
    "location": "BucketLocation",
    "logging": "BucketLogging",
    "metrics": "MetricsConfiguration",
    "notification": "BucketNotification",
    "object-lock": "BucketObjectLockConfiguration",
    "ownershipControls": "BucketOwnershipControls",
    "policy": "BucketPolicy",
    "policyStatus": "BucketPolicyStatus",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "replication": "ReplicationConfiguration",
    "requestPayment": "BucketRequestPayment",
    "tagging": "BucketTagging",
    "versioning": "BucketVersioning",
    "website": "BucketWebsite",
}
_LISTS = {"versions": "ListBucketVersions", "uploads": "ListBucketMultipartUploads"}
# Parts of a bucket whose end takes an action of its own; that of others is one way to write them.
_ENDS = ("policy", "website")
_OF_OBJECT = {
    "acl": "ObjectAcl",
    "legal-hold": "ObjectLegalHold",
    "retention": "ObjectRetention",
    "tagging": "ObjectTagging",
}
_OBJECT = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "POST": "PutObject"}
_BUCKET = {"GET": "ListBucket", "HEAD": "ListBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}


def s3_requests(call: Call, number: str, partition: str, base: Mapping[str, str]) -> Iterator[Request]:
    """All that a call asks for.

    Args:
        call: The call.
        number: The number of the AWS account that is called.
        partition: Its partition.
        base: What is known of each request.
    """
    method = call.environ["REQUEST_METHOD"]
    name = str(call.params.get("Path", "")).lstrip("/")
    if not name.strip("/"):
        yield Request("s3:ListAllMyBuckets", "*", dict(base))
        return
    bucket, _, key = name.partition("/")
    query = {part.partition("=")[0] for part in call.environ.get("QUERY_STRING", "").split("&")}

    def about(action: str, bucket: str, key: str = "") -> Request:
        # A bucket that is being made will be the caller's.
        context = {**base, "aws:resourceaccount": _owner(bucket) or number}
        return Request(f"s3:{action}", f"arn:{partition}:s3:::{bucket}{f'/{key}' if key else ''}", context)

    if not key:
        # The keys of what is deleted are in the payload, which is not read here.
        several = method == "POST" and "delete" in query
        yield about("DeleteObject", bucket, "*") if several else about(_of_bucket(method, query), bucket)
        return
    yield about(_of_object(method, query), bucket, key)
    if "HTTP_X_AMZ_TAGGING" in call.environ and method in ("PUT", "POST"):
        yield about("PutObjectTagging", bucket, key)
    if "HTTP_X_AMZ_ACL" in call.environ and method in ("PUT", "POST") and "acl" not in query:
        yield about("PutObjectAcl", bucket, key)
    if source := unquote(str(call.environ.get("HTTP_X_AMZ_COPY_SOURCE", ""))).lstrip("/"):
        place, _, version = source.partition("?versionId=")
        of, _, what = place.partition("/")
        yield about("GetObjectVersion" if version else "GetObject", of, what)


def _of_bucket(method: str, query: set[str]) -> str:
    for name, what in _OF_BUCKET.items():
        if name in query:
            ends = method == "DELETE" and name in _ENDS
            return f"{'Delete' if ends else 'Get' if method in ('GET', 'HEAD') else 'Put'}{what}"
    listed = next((what for name, what in _LISTS.items() if name in query), "")
    return listed or _BUCKET.get(method, "ListBucket")


def _of_object(method: str, query: set[str]) -> str:
    reads, ends = method in ("GET", "HEAD"), method == "DELETE"
    if "uploadId" in query and (reads or ends):
        return "AbortMultipartUpload" if ends else "ListMultipartUploadParts"
    if "restore" in query:
        return "RestoreObject"
    versioned = "Version" if "versionId" in query else ""
    for name, what in _OF_OBJECT.items():
        if name in query:
            verb = "Get" if reads else "Delete" if ends else "Put"
            own = versioned if name in ("acl", "tagging") else ""
            return f"{verb}{what.replace('Object', f'Object{own}', 1)}"
    return f"DeleteObject{versioned}" if ends else f"{_OBJECT.get(method, 'GetObject')}{versioned}"


def _owner(bucket: str) -> str:
    """The number of the AWS account that has the bucket; empty if there is none of that name."""
    from moto.s3.models import s3_backends

    found: tuple[str, str] = s3_backends.bucket_accounts.get(bucket, ("", ""))
    return found[1]
