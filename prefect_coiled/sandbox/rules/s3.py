"""S3's rules that its model does not hold: names, tags, keys, documents."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from typing import Any

from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__: list[str] = []

_NAMES = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html"
_ERRORS = "https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"
_TAGS = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/tagging-and-policies.html"
_BUCKET_TAGS = "https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/allocation-tag-restrictions.html"
_KEYS = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"
_METADATA = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html"
_API = "https://docs.aws.amazon.com/AmazonS3/latest/API/API_{}.html"

kept(
    "not-empty",
    "s3",
    "DeleteBucket",
    "BucketNotEmpty",
    "A bucket with objects is not deleted.",
    _API.format("DeleteBucket"),
)
kept("no-such", "s3", "*", "NoSuchBucket, NoSuchKey, NoSuchTagSet", "What is named is there.", _ERRORS)
kept(
    "name-taken",
    "s3",
    "CreateBucket",
    "BucketAlreadyExists, BucketAlreadyOwnedByYou",
    "A bucket's name is there once in the world; in us-east-1 one's own is made again in silence.",
    _API.format("CreateBucket"),
)


@rule(
    "s3",
    "CreateBucket",
    "InvalidBucketName",
    "A bucket's name has 3 to 63 lower-case letters, digits, dots and dashes, and looks like no address.",
    _NAMES,
)
def bucket_name(asked: Asked) -> str | None:
    name = str(asked.get("Bucket") or "")
    odd = name.startswith(("xn--", "sthree-", "amzn-s3-demo-")) or name.endswith(
        ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
    )
    if re.fullmatch(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]", name) and ".." not in name and not odd:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return None
    return "The specified bucket is not valid."


@rule(
    "s3",
    "CreateBucket",
    "IllegalLocationConstraintException",
    "A bucket is made at its region's endpoint, which is named everywhere but in us-east-1.",
    _API.format("CreateBucket"),
)
def location(asked: Asked) -> Refusal | str | None:
    named = asked.get("CreateBucketConfiguration", "LocationConstraint")
    if asked.region == "us-east-1":
        if named == "us-east-1":
            return Refusal("InvalidLocationConstraint", "The specified location-constraint is not valid")
        return None
    if named is None:
        return (
            "The unspecified location constraint is incompatible for the region specific endpoint this "
            "request "
            "was sent to."
        )
    if named != asked.region and not (named == "EU" and asked.region == "eu-west-1"):
        return (
            f"The {named} location constraint is incompatible for the region specific endpoint this "
            f"request was "
            "sent to."
        )
    return None


@rule(
    "s3",
    "PutBucketTagging PutObjectTagging CreateBucket",
    "InvalidTag",
    "Tags have letters, digits, spaces and _.:/=+-@, keys to 128 and values to 256; each key is there "
    "once, and "
    "aws: is AWS's own.",
    _TAGS,
)
def tags(asked: Asked) -> str | None:
    given = _tags(asked)
    for tag in given:
        key, value = str(tag.get("Key") or ""), str(tag.get("Value") or "")
        if key.lower().startswith("aws:"):
            return "System tags cannot be added/updated by requester"
        if not re.fullmatch(r"[\w\s.:/=+\-@]{1,128}", key):
            return "The TagKey you have provided is invalid"
        if not re.fullmatch(r"[\w\s.:/=+\-@]{0,256}", value):
            return "The TagValue you have provided is invalid"
    if any(many > 1 for many in Counter(tag.get("Key") for tag in given).values()):
        return "Cannot provide multiple Tags with the same key"
    return None


@rule(
    "s3",
    "PutBucketTagging PutObjectTagging",
    "BadRequest",
    "At most 50 tags on a bucket, and 10 on an object.",
    _BUCKET_TAGS,
)
def tag_count(asked: Asked) -> str | None:
    most, what = (50, "Bucket") if asked.action == "PutBucketTagging" else (10, "Object")
    return f"{what} tags cannot be greater than {most}" if len(_tags(asked)) > most else None


def _tags(asked: Asked) -> list[dict[str, Any]]:
    found = asked.get("Tagging", "TagSet") or asked.get("CreateBucketConfiguration", "Tags") or []
    return list(found)


@rule(
    "s3",
    "PutObject CopyObject CreateMultipartUpload",
    "KeyTooLongError",
    "A key has at most 1,024 bytes.",
    _KEYS,
)
def key_length(asked: Asked) -> str | None:
    return "Your key is too long" if len(str(asked.get("Key") or "").encode()) > 1024 else None


@rule(
    "s3",
    "PutObject CopyObject CreateMultipartUpload",
    "MetadataTooLarge",
    "An object's own metadata has at most 2 KB.",
    _METADATA,
)
def metadata(asked: Asked) -> str | None:
    given = asked.get("Metadata") or {}
    if sum(len(str(key).encode()) + len(str(value).encode()) for key, value in given.items()) > 2048:
        return "Your metadata headers exceed the maximum allowed metadata size"
    return None


@rule(
    "s3",
    "PutObject UploadPart",
    "EntityTooLarge",
    "An object is sent in one call up to 5 GB.",
    _API.format("PutObject"),
)
def object_size(asked: Asked) -> str | None:
    return "Your proposed upload exceeds the maximum allowed size" if asked.size > 5 * 1024**3 else None


_UPLOADS = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"
kept(
    "parts",
    "s3",
    "UploadPart CompleteMultipartUpload",
    "NoSuchUpload, InvalidPart, EntityTooSmall",
    "An upload is there, its parts are those that were sent, and all but the last have 5 MB.",
    _API.format("CompleteMultipartUpload"),
)


@rule("s3", "UploadPart", "InvalidArgument", "Parts have numbers from 1 to 10,000.", _UPLOADS)
def part_number(asked: Asked) -> str | None:
    if 1 <= int(asked.get("PartNumber") or 0) <= 10_000:
        return None
    return "Part number must be an integer between 1 and 10000, inclusive"


@rule(
    "s3",
    "ListObjectsV2",
    "InvalidArgument",
    "A page has no negative number of keys.",
    _API.format("ListObjectsV2"),
)
def page(asked: Asked) -> str | None:
    if int(asked.get("MaxKeys") or 0) >= 0:
        return None
    return "Argument maxKeys must be an integer between 0 and 2147483647"


@rule("s3", "DeleteObjects", "MalformedXML", "At most 1,000 keys in a call.", _API.format("DeleteObjects"))
def deleted(asked: Asked) -> str | None:
    if 0 < len(asked.get("Delete", "Objects") or [0]) <= 1000:
        return None
    return "The XML you provided was not well-formed or did not validate against our published schema"


@rule(
    "s3",
    "PutBucketPolicy",
    "MalformedPolicy",
    "A bucket's policy is JSON whose statements have an effect, a principal, actions and resources of "
    "the bucket.",
    "https://docs.aws.amazon.com/AmazonS3/latest/userguide/example-bucket-policies.html",
)
def policy(asked: Asked) -> str | None:
    text = asked.get("Policy")
    text = text.decode() if isinstance(text, bytes) else str(text or "")
    if len(text.encode()) > 20 * 1024:
        return "The policy is larger than 20 KB."
    try:
        found = json.loads(text)
        statements = found["Statement"]
        statements = statements if isinstance(statements, list) else [statements]
        for statement in statements:
            resources = statement.get("Resource", statement.get("NotResource"))
            resources = resources if isinstance(resources, list) else [resources]
            if statement["Effect"] not in ("Allow", "Deny"):
                return "Invalid effect in policy"
            if not {"Principal", "NotPrincipal"} & set(statement) or not {"Action", "NotAction"} & set(
                statement
            ):
                return "Missing required field in policy"
            for resource in resources:
                if not re.match(
                    rf"arn:[\w\-]+:s3:::{re.escape(str(asked.get('Bucket')))}(/|\Z)", str(resource)
                ):
                    return "Policy has invalid resource"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "Policies must be valid JSON and the first byte must be '{'"
    return None


@rule(
    "s3",
    "PutBucketLifecycleConfiguration",
    "InvalidRequest",
    "At most 1,000 rules, each with an id of its own and an action, and days above 0.",
    _API.format("PutBucketLifecycleConfiguration"),
)
def lifecycle(asked: Asked) -> Refusal | str | None:
    rules = asked.get("LifecycleConfiguration", "Rules") or []
    ids = [entry["ID"] for entry in rules if entry.get("ID")]
    if len(rules) > 1000:
        return "The number of lifecycle rules must not exceed the allowed limit of 1000 rules"
    if len(set(ids)) < len(ids):
        return Refusal("InvalidArgument", "Rule ID must be unique. Found same ID for more than one rule")
    actions = (
        "Expiration",
        "Transitions",
        "NoncurrentVersionExpiration",
        "NoncurrentVersionTransitions",
        "AbortIncompleteMultipartUpload",
    )
    for entry in rules:
        if not any(entry.get(action) for action in actions):
            return "At least one action needs to be specified in a rule"
        if (entry.get("Expiration") or {}).get("Days", 1) <= 0:
            return Refusal("InvalidArgument", "'Days' for Expiration action must be a positive integer")
        if entry.get("Filter") is not None and entry.get("Prefix") is not None:
            return Refusal("MalformedXML", "The XML you provided was not well-formed")
        if entry.get("Filter") is None and entry.get("Prefix") is None:
            return Refusal("MalformedXML", "The XML you provided was not well-formed")
    return None
