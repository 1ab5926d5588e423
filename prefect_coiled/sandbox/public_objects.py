"""What S3 gives to requests without a signature: what its owner opened to everybody, by access control lists.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/acl-overview.html#specifying-grantee-predefined-groups
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from prefect_coiled.sandbox.calls import Environ

__all__ = ["is_public"]

_OF_LISTS = frozenset(
    {
        "list-type",
        "prefix",
        "delimiter",
        "encoding-type",
        "max-keys",
        "continuation-token",
        "start-after",
        "fetch-owner",
        "marker",
    }
)


def is_public(environ: Environ) -> bool:
    """Whether a request reads a list or an object of S3 that everybody may read.

    Args:
        environ: The request; its path begins with the bucket.
    """
    from moto.s3.models import s3_backends

    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return False
    asked = {name for name, _ in parse_qsl(str(environ.get("QUERY_STRING", "")), keep_blank_values=True)}
    name, _, key = str(environ["PATH_INFO"]).lstrip("/").partition("/")
    # Anything else is about a setting of it, such as its policy.
    if not name or asked - (frozenset() if key else _OF_LISTS):
        return False
    for account in list(s3_backends):
        bucket = s3_backends[account]["aws"].buckets.get(name)
        if bucket is None:
            continue
        # WSGI gives the bytes of a path as characters of Latin-1.
        found = bucket.keys.get(key.encode("latin-1").decode("utf-8", "replace")) if key else bucket
        acl = getattr(found, "acl", None)
        return acl is not None and bool(acl.public_read)
    return False
