"""The account's bucket in a region: wheels for the machines. Private and encrypted."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

from prefect_coiled.aws.batches import OBJECTS, batches
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AlreadyExistsError, NotFoundError, ProvisionError
from prefect_coiled.plan import tags
from prefect_coiled.plan.policies import bucket_name, bucket_policy

# Days after which a file goes; what is still wanted is put there again by the next launch.
KEPT_DAYS = 30
# What is older than this is put again, so that no running cluster outlives its wheels.
RENEWED_DAYS = 15


def find_bucket(aws: Aws, name: str) -> bool:
    """Whether the bucket is there and ours to read."""
    try:
        aws.call("s3:HeadBucket", f"finding bucket ({name})", Bucket=name)
    except NotFoundError:
        return False
    return True


def is_ours(aws: Aws, name: str) -> bool:
    """Whether the bucket carries our tags, which it gets last of all."""
    try:
        found = aws.call("s3:GetBucketTagging", f"reading the tags of bucket ({name})", Bucket=name)
    except NotFoundError:
        return False
    labels = tags.from_aws(found["TagSet"])
    return labels.get(tags.OWNER) == tags.OWNER_VALUE and labels.get(tags.ACCOUNT) == aws.account


def ensure_bucket(aws: Aws, aws_account_id: str) -> str:
    """Find or make the bucket, and close it. Returns its name, which has the account's number and the region.

    A run that was interrupted leaves a bucket without tags; all that closes it is said again then.
    """
    name = bucket_name(aws.account, aws_account_id, aws.region)
    if is_ours(aws, name):
        return name
    what = f"creating bucket ({name})"
    if not find_bucket(aws, name):
        # us-east-1 is the one region that must not be named.
        where = {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
        with suppress(AlreadyExistsError):
            aws.call("s3:CreateBucket", what, Bucket=name, **({} if aws.region == "us-east-1" else where))
    labels = tags.named(tags.account_tags(aws.account), name)
    encryption = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": True}
    # Lists of the packages of images live as long as their images.
    expiry = {"ID": "expire", "Status": "Enabled", "Filter": {"Prefix": "wheels/"}}
    expiry |= {"Expiration": {"Days": KEPT_DAYS}}
    closed = dict.fromkeys(
        ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
    )
    for action, settings in (
        ("PublicAccessBlock", {"PublicAccessBlockConfiguration": closed}),
        ("BucketEncryption", {"ServerSideEncryptionConfiguration": {"Rules": [encryption]}}),
        ("BucketPolicy", {"Policy": bucket_policy(name)}),
        ("BucketLifecycleConfiguration", {"LifecycleConfiguration": {"Rules": [expiry]}}),
        ("BucketTagging", {"Tagging": {"TagSet": tags.to_aws(labels)}}),
    ):
        aws.call(f"s3:Put{action}", what, Bucket=name, **settings)
    return name


def list_files(aws: Aws, bucket: str, prefix: str = "", *, now: datetime | None = None) -> frozenset[str]:
    """The keys of the files that stay for a good while yet.

    Args:
        aws: The door.
        bucket: The bucket's name.
        prefix: What the keys begin with.
        now: The time; UTC now by default.
    """
    oldest = (now or datetime.now(timezone.utc)) - timedelta(days=RENEWED_DAYS)
    found = aws.pages(
        "s3:ListObjectsV2", f"listing s3://{bucket}/{prefix}", "Contents", Bucket=bucket, Prefix=prefix
    )
    return frozenset(str(one["Key"]) for one in found if one["LastModified"] > oldest)


def put_file(aws: Aws, bucket: str, key: str, content: bytes | Path) -> None:
    """Put a file; its key holds a hash, so that another one of that key has the same content."""
    what = f"writing s3://{bucket}/{key}"
    if isinstance(content, bytes):
        aws.call("s3:PutObject", what, Bucket=bucket, Key=key, Body=content)
        return
    with content.open("rb") as body:
        aws.call("s3:PutObject", what, Bucket=bucket, Key=key, Body=body)


def read_file(aws: Aws, bucket: str, key: str) -> bytes | None:
    """The content of a file; None if there is none."""
    try:
        reply = aws.call("s3:GetObject", f"reading s3://{bucket}/{key}", Bucket=bucket, Key=key)
    except NotFoundError:
        return None
    return bytes(reply["Body"].read())


def delete_files(aws: Aws, bucket: str, keys: list[str]) -> None:
    """Delete files; those that are not there are fine."""
    for some in batches(keys, OBJECTS):
        listed = {"Objects": [{"Key": key} for key in some], "Quiet": True}
        aws.call("s3:DeleteObjects", f"deleting {len(some)} files of {bucket}", Bucket=bucket, Delete=listed)


def delete_bucket(aws: Aws, name: str) -> bool:
    """Empty the bucket and delete it. Returns whether it was there.

    Raises:
        ProvisionError: If it does not carry our tags.
    """
    if not find_bucket(aws, name):
        return False
    what = f"deleting bucket ({name})"
    if not is_ours(aws, name):
        raise ProvisionError(what, "it does not carry our tags", "Look at it in the AWS console.")
    while True:
        page = aws.call("s3:ListObjectsV2", what, Bucket=name, MaxKeys=1000)
        keys = [{"Key": item["Key"]} for item in page.get("Contents", ())]
        if not keys:
            break
        aws.call("s3:DeleteObjects", what, Bucket=name, Delete={"Objects": keys, "Quiet": True})
    try:
        aws.call("s3:DeleteBucket", what, Bucket=name)
    except NotFoundError:
        return False
    return True
