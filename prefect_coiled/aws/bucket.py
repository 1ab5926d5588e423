"""The account's bucket in a region: wheels for the machines. Private and encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from prefect_coiled.aws.batches import OBJECTS, batches
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.governed import set_if_permitted
from prefect_coiled.aws.ownership import check_ours, foreign
from prefect_coiled.aws.uploads import LARGE, UNFINISHED_DAYS, Notes, put_parts
from prefect_coiled.errors import AlreadyExistsError, NotFoundError
from prefect_coiled.plan import tags
from prefect_coiled.plan.aws_errors import aws_error
from prefect_coiled.plan.kinds import Item, Kind, Scope
from prefect_coiled.plan.machine_policies import bucket_name, bucket_policy

# Days after which a file goes; what is still wanted is put there again by the next launch.
KEPT_DAYS = 395
# What is older than this is put again: machines of a cluster that runs find its wheels as long as its keys
# hold, a year and a week, also those that take the place of lost ones.
RENEWED_DAYS = 15
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/configuring-block-public-access-bucket.html
_AS_NEW = "AWS closes and encrypts each new bucket by itself"
# The name is another AWS account's: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html
_ANOTHERS = "BucketAlreadyExists"
# A bucket that was emptied so often and has files again is filled by somebody at this moment.
_ROUNDS = 3


def find_bucket(aws: Aws, name: str) -> Item | None:
    """The bucket of that name in our AWS account, if there is one; in other accounts it is not found.

    A run that was interrupted leaves one without tags. It is ours too: in our AWS account nobody gives such a
    name, which ends in a hash, to something else.
    """
    try:
        found = aws.call("s3:GetBucketTagging", f"reading the tags of bucket ({name})", Bucket=name)
    except NotFoundError:
        try:
            aws.call("s3:HeadBucket", f"finding bucket ({name})", Bucket=name)
        except NotFoundError:
            return None
        return {"Name": name, "Tags": tags.to_aws(tags.account_tags(aws.account)), "open": True}
    return {"Name": name, "Tags": found["TagSet"]}


def own_name(aws: Aws) -> str:
    """Name of the account's bucket in the door's region."""
    return bucket_name(aws.account, aws.number, aws.region)


def ensure_bucket(aws: Aws, aws_account_id: str) -> str:
    """Find or make the bucket, and close it. Returns its name, which has the account's number and the region.

    Raises:
        ProvisionError: If a bucket of that name is not ours; it stays as it is.
    """
    name = bucket_name(aws.account, aws_account_id, aws.region)
    found = find_bucket(aws, name)
    if found is not None:
        check_ours(aws, f"bucket ({name})", tags.from_aws(found["Tags"]), aws.number)
    if found is None or found.get("open"):
        _close(aws, found or _create(aws, name))
    return name


def _create(aws: Aws, name: str) -> Item:
    # us-east-1 is the one region that must not be named.
    where = {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    try:
        what = f"creating bucket ({name})"
        aws.call("s3:CreateBucket", what, Bucket=name, **({} if aws.region == "us-east-1" else where))
    except AlreadyExistsError as error:  # made by another set-up at this moment
        if error.code == _ANOTHERS:
            raise foreign(f"bucket ({name})") from error
    return {"Name": name, "Tags": tags.to_aws(tags.account_tags(aws.account)), "open": True}


def _close(aws: Aws, item: Item) -> Item:
    """Say all that closes it, and its tags last of all."""
    name = str(item["Name"])
    labels = tags.plain(tags.named(aws.labels(), name))
    encryption = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": True}
    # Lists of the packages of images live as long as their images.
    expiry = {"ID": "expire", "Status": "Enabled", "Filter": {"Prefix": "wheels/"}}
    expiry |= {"Expiration": {"Days": KEPT_DAYS}}
    expiry |= {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UNFINISHED_DAYS}}
    closed = dict.fromkeys(
        ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
    )
    kept = f"the files of bucket {name} stay until the account is destroyed"
    by_http = f"bucket {name} forbids nobody to come by plain HTTP, which nothing here does"
    expiring = {"Rules": [expiry]}
    for action, doing, settings, without in (
        ("PublicAccessBlock", "closing", {"PublicAccessBlockConfiguration": closed}, _AS_NEW),
        (
            "BucketEncryption",
            "encrypting",
            {"ServerSideEncryptionConfiguration": {"Rules": [encryption]}},
            _AS_NEW,
        ),
        ("BucketPolicy", "setting the policy of", {"Policy": bucket_policy(name)}, by_http),
        ("BucketLifecycleConfiguration", "setting the expiry of", {"LifecycleConfiguration": expiring}, kept),
        ("BucketTagging", "tagging", {"Tagging": {"TagSet": tags.to_aws(labels)}}, ""),
    ):
        call, what = f"s3:Put{action}", f"{doing} bucket ({name})"
        if without:
            set_if_permitted(aws, call, what, without, Bucket=name, **settings)
        else:
            aws.call(call, what, Bucket=name, **settings)
    return {"Name": name, "Tags": tags.to_aws(labels)}


def _files(aws: Aws, name: str) -> list[str]:
    """The keys in a bucket."""
    found = aws.pages("s3:ListObjectsV2", f"listing bucket ({name})", "Contents", Bucket=name)
    return [str(item["Key"]) for item in found]


def list_files(aws: Aws, bucket: str, prefix: str = "", *, now: datetime | None = None) -> frozenset[str]:
    """The keys of the files that stay for a good while yet.

    Args:
        now: The time; UTC now by default.
    """
    oldest = (now or datetime.now(timezone.utc)) - timedelta(days=RENEWED_DAYS)
    found = aws.pages(
        "s3:ListObjectsV2", f"listing s3://{bucket}/{prefix}", "Contents", Bucket=bucket, Prefix=prefix
    )
    return frozenset(str(one["Key"]) for one in found if one["LastModified"] > oldest)


def put_file(aws: Aws, bucket: str, key: str, content: bytes | Path, notes: Notes | None = None) -> None:
    """Put a file; its key holds a hash, so that another one of that key has the same content.

    Args:
        notes: Where a large file's upload is written down, so that it can go on; without, it goes in one
            call.
    """
    what = f"writing s3://{bucket}/{key}"
    if isinstance(content, bytes):
        aws.call("s3:PutObject", what, Bucket=bucket, Key=key, Body=content)
        return
    if notes is not None and content.stat().st_size > LARGE:
        put_parts(aws, bucket, key, content, notes)
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
    """Delete files; those that are not there are fine, and one that S3 keeps keeps no other.

    Raises:
        AwsError: If one stays: S3 answers such a call with success, and names in it what it did not delete.
            https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
    """
    what = f"deleting {len(keys)} files of bucket ({bucket})"
    stayed: list[dict[str, str]] = []
    for chunk in batches(keys, OBJECTS):
        listed = {"Objects": [{"Key": key} for key in chunk], "Quiet": True}
        reply = aws.call("s3:DeleteObjects", what, Bucket=bucket, Delete=listed)
        stayed += [e for e in reply.get("Errors", ()) if e.get("Code") != "NoSuchKey"]
    if stayed:
        first = stayed[0]
        message = f"{first.get('Message', '')} ({first.get('Key')}, and {len(stayed) - 1} more)"
        reason = {"Error": {"Code": first.get("Code", ""), "Message": message}}
        raise aws_error(what, "s3:DeleteObjects", {**reply, **reason})


def delete_bucket(aws: Aws, name: str) -> bool:
    """Empty the bucket and delete it. Returns whether it was there.

    Raises:
        AwsError: If S3 keeps a file, or somebody puts files there all the time.
    """
    found = find_bucket(aws, name)
    if found is None:
        return False
    check_ours(aws, f"bucket ({name})", tags.from_aws(found["Tags"]), aws.number)
    what = f"deleting bucket ({name})"
    for _ in range(_ROUNDS):
        if not (keys := _files(aws, name)):
            break
        delete_files(aws, name, keys)
    aws.call("s3:DeleteBucket", what, Bucket=name)
    return True


def _find(aws: Aws, scope: Scope) -> Iterator[Item]:
    found = find_bucket(aws, own_name(aws))
    if found is not None:
        yield {**found, "Number": aws.number}


BUCKET = Kind(
    name="bucket",
    find=_find,
    id_of=lambda item: str(item["Name"]),
    owner=lambda item: str(item["Number"]),
    asked=lambda want: True,
    lacks=lambda item, want, there: "it is not closed yet" if item.get("open") else "",
    create=lambda aws, place, want, there: _create(aws, own_name(aws)),
    update=lambda aws, item, want, there: _close(aws, item),
    delete=lambda aws, items: delete_bucket(aws, str(items[0]["Name"])),
)
