"""The policies of the machines' role and of the bucket: who may be a machine of ours, and what it may do."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from prefect_coiled.plan import tags
from prefect_coiled.plan.boundary import boundary_arn, boundary_policy
from prefect_coiled.plan.containers import repository_name

# Where the bucket has results of tasks.
RESULTS = "results/"
# What EC2 does with the key of a disk, beside granting it.
# https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html#ebs-encryption-permissions
KEY_USES = ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncrypt*")
# Bytes of a bucket's hash, which become 16 characters, and how much of a slug its name shows.
_HASHED, _SHOWN = 10, 11
# A policy with these opens the AWS account to whatever runs on a machine.
NEVER_ATTACHED = ("AdministratorAccess", "IAMFullAccess", "PowerUserAccess")
# What the set-up policy lets be attached to the machines' role: reads, S3, and what somebody who makes
# policies in the AWS account put under this path for machines.
OWN_PATH = "coiled"
ATTACHABLE = (
    "arn:*:iam::aws:policy/*ReadOnly*",
    "arn:*:iam::aws:policy/AmazonS3*",
    f"arn:*:iam::*:policy/{OWN_PATH}/*",
)


def ec2_principal(partition: str = "aws") -> str:
    """What EC2 is called where a policy names a service; China has another name.

    https://docs.amazonaws.cn/en_us/aws/latest/userguide/iam.html
    """
    return "ec2.amazonaws.com.cn" if partition == "aws-cn" else "ec2.amazonaws.com"


def trust_policy(partition: str = "aws") -> str:
    """The trust policy of the machines' role: EC2 alone may assume it."""
    principal = {"Service": ec2_principal(partition)}
    return _document({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"})


def instance_policy(account: str, aws_account_id: str, partition: str = "aws") -> str:
    """What a machine of the account may do: write logs, read its keys, fetch wheels and images, keep results.

    A cluster's scheduler may also launch its workers: by launch templates that name its own machine, and
    what they say, unchanged. Nobody with this policy can name a machine in a template: tags are given to what
    is launched alone. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ExamplePolicies_EC2.html#iam-example-runinstances-launch-templates,
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/iam-policies-for-amazon-ec2.html

    Args:
        account: The account's slug, which is also the name of the log group.
    """
    logs = f"arn:{partition}:logs:*:{aws_account_id}:log-group:{account}"
    keys = f"arn:{partition}:ssm:*:{aws_account_id}:parameter/prefect-coiled/{account}/*/node/*"
    images = f"arn:{partition}:ecr:*:{aws_account_id}:repository/{repository_name(account)}"
    # A role serves all regions.
    wheels = f"arn:{partition}:s3:::{bucket_name(account, aws_account_id, '*')}"
    owned = owned_by(aws_account_id)
    ec2 = f"arn:{partition}:ec2:*:{aws_account_id}"
    templates = f"{ec2}:launch-template/*"
    kinds = ("instance", "key-pair", "network-interface", "security-group", "volume")
    made = [f"arn:{partition}:ec2:*::image/*", *(f"{ec2}:{kind}/*" for kind in kinds)]
    # One that another AWS account shares is that account's.
    # https://docs.aws.amazon.com/vpc/latest/userguide/vpc-sharing.html
    made.append(f"arn:{partition}:ec2:*:*:subnet/*")
    disk_keys = f"arn:{partition}:kms:*:{aws_account_id}:key/*"
    by_services = {"StringLike": {"kms:ViaService": ["ec2.*.amazonaws.com*", "ssm.*.amazonaws.com*"]}}
    as_said = {"ArnLike": {"ec2:LaunchTemplate": templates}, "Bool": {"ec2:IsLaunchTemplateResource": "true"}}
    own = {"StringEquals": {f"aws:ResourceTag/{tags.LAUNCHER}": "${ec2:SourceInstanceARN}"}}
    while_made = {
        "StringEquals": {"ec2:CreateAction": "RunInstances"},
        "StringEqualsIfExists": {f"aws:RequestTag/{tags.ACCOUNT}": account},
    }
    rows: list[tuple[str, list[str], str | list[str], dict[str, Any] | None]] = [
        # Streams of machines are named as they are; that of the notifications is not theirs. IAM has no
        # variable that is an instance's id alone, so a machine may write the streams of others.
        ("ShipLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], f"{logs}:log-stream:i-*", None),
        ("ReadOwnKeys", ["ssm:GetParameter"], keys, None),
        ("ListWheels", ["s3:ListBucket"], wheels, owned),
        ("FetchWheels", ["s3:GetObject"], f"{wheels}/wheels/*", owned),
        ("KeepResults", ["s3:GetObject", "s3:PutObject"], f"{wheels}/{RESULTS}*", owned),
        # AWS knows no narrower resource for this one; what the token opens, the next statement says.
        ("LogInToRegistry", ["ecr:GetAuthorizationToken"], "*", None),
        ("PullImages", ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], images, None),
        # Nor for a look at what runs.
        ("CountMachines", ["ec2:DescribeInstances"], "*", None),
        ("LaunchByOwnTemplate", ["ec2:RunInstances"], templates, own),
        # The template itself is in no list with others: it is of itself, whosever it is.
        (
            "LaunchAsItSays",
            ["ec2:RunInstances"],
            made,
            as_said,
        ),
        # Where disks are encrypted by a key of the AWS account's own, EC2 asks it of whoever launches.
        ("UseKeys", list(KEY_USES), disk_keys, by_services),
        ("GrantDiskKeys", ["kms:CreateGrant"], disk_keys, {"Bool": {"kms:GrantIsForAWSResource": "true"}}),
        ("TagWhatIsLaunched", ["ec2:CreateTags"], f"{ec2}:*/*", while_made),
        (
            "PassOwnRole",
            ["iam:PassRole"],
            f"arn:{partition}:iam::{aws_account_id}:role/{account}",
            {"StringEquals": {"iam:PassedToService": ec2_principal(partition)}},
        ),
    ]
    return _document(
        *(
            {
                "Sid": sid,
                "Effect": "Allow",
                "Action": actions,
                "Resource": [resource] if isinstance(resource, str) else resource,
                **({"Condition": condition} if condition else {}),
            }
            for sid, actions, resource, condition in rows
        )
    )


def boundary_of(
    account: str, aws_account_id: str, partition: str = "aws", services: Iterable[str] = ()
) -> tuple[str, dict[str, Any]]:
    """A permissions boundary for the machines' role: its ARN and its document.

    Args:
        services: What the work on the machines may use beside S3, in full; see `plan.boundary`.

    Raises:
        OptionsError: If a service is none that may be in it.
    """
    instance = json.loads(instance_policy(account, aws_account_id, partition))
    document = boundary_policy(instance, services, partition)
    return boundary_arn(account, aws_account_id, partition), document


def attachable(arn: str, number: str) -> bool:
    """Whether the set-up policy lets a managed policy be attached to the machines' role."""
    # IAM takes those of the AWS account itself, beside AWS's.
    return arn.split(":")[4] in ("aws", number) and any(fnmatch.fnmatchcase(arn, one) for one in ATTACHABLE)


def owned_by(number: str) -> dict[str, Any]:
    """The condition that a resource is in an AWS account; with "*", in that of whoever asks.

    Names of buckets say nothing of whose they are.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-resourceaccount
    """
    whose = "${aws:PrincipalAccount}" if number == "*" else number
    return {"StringEquals": {"aws:ResourceAccount": whose}}


def bucket_name(account: str, aws_account_id: str, region: str) -> str:
    """Name of the account's bucket in a region, such as coiled-123456789012-us-east-1-my-team-HASH.

    The hash is of the whole slug and ends the name. So long slugs, of which only the beginning is shown, have
    buckets of their own; and a pattern over regions or AWS accounts ("*") fits the buckets of no other slug.
    At most 63 characters: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    digest = base64.b32encode(hashlib.sha256(account.encode()).digest()[:_HASHED]).decode().lower()
    return f"coiled-{aws_account_id}-{region}-{account[:_SHOWN].rstrip('-')}-{digest}"


def bucket_policy(name: str, partition: str = "aws") -> str:
    """The bucket's own policy: nobody comes by plain HTTP."""
    bucket = f"arn:{partition}:s3:::{name}"
    return _document(
        {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [bucket, f"{bucket}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    )


def _document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, indent=1)
