"""The account's bucket in a region: wheels for the machines. Private and encrypted."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AlreadyExistsError, NotFoundError, ProvisionError
from prefect_coiled.plan import tags
from prefect_coiled.plan.policies import bucket_name

# Days after which a file goes; what is still wanted is put there again by the next launch.
KEPT_DAYS = 30


def find_bucket(aws: Aws, name: str) -> bool:
    """Whether the bucket is there and ours to read."""
    try:
        aws.call("s3:HeadBucket", f"finding bucket ({name})", Bucket=name)
    except NotFoundError:
        return False
    return True


def ensure_bucket(aws: Aws, aws_account_id: str) -> str:
    """Find or make the bucket. Returns its name, which holds the AWS account's number and the region.

    New buckets are encrypted by AWS itself (https://docs.aws.amazon.com/AmazonS3/latest/userguide/
    default-encryption-faq.html).
    """
    name = bucket_name(aws.account, aws_account_id, aws.region)
    if find_bucket(aws, name):
        return name
    what = f"creating bucket ({name})"
    # us-east-1 is the one region that must not be named.
    place = (
        {} if aws.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    )
    try:
        aws.call("s3:CreateBucket", what, Bucket=name, **place)
    except AlreadyExistsError:
        return name
    aws.call(
        "s3:PutPublicAccessBlock",
        what,
        Bucket=name,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    labels = tags.named(tags.account_tags(aws.account), name)
    aws.call("s3:PutBucketTagging", what, Bucket=name, Tagging={"TagSet": tags.to_aws(labels)})
    rule = {
        "ID": "expire",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "Expiration": {"Days": KEPT_DAYS},
    }
    aws.call(
        "s3:PutBucketLifecycleConfiguration",
        what,
        Bucket=name,
        LifecycleConfiguration={"Rules": [rule]},
    )
    return name


def put_file(aws: Aws, bucket: str, key: str, content: bytes) -> bool:
    """Put a file unless one of that key, which holds a hash, is there. Returns whether it was put."""
    try:
        aws.call("s3:HeadObject", f"finding s3://{bucket}/{key}", Bucket=bucket, Key=key)
    except NotFoundError:
        aws.call("s3:PutObject", f"writing s3://{bucket}/{key}", Bucket=bucket, Key=key, Body=content)
        return True
    return False


def delete_bucket(aws: Aws, name: str) -> bool:
    """Empty the bucket and delete it. Returns whether it was there.

    Raises:
        ProvisionError: If it does not carry our tags.
    """
    if not find_bucket(aws, name):
        return False
    what = f"deleting bucket ({name})"
    try:
        labels = tags.from_aws(aws.call("s3:GetBucketTagging", what, Bucket=name)["TagSet"])
    except NotFoundError:
        labels = {}
    if labels.get(tags.OWNER) != tags.OWNER_VALUE or labels.get(tags.ACCOUNT) != aws.account:
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
