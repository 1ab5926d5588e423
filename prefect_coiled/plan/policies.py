"""IAM documents: who may be a machine of ours, and what such a machine may do."""

from __future__ import annotations

import json
from typing import Any


def trust_policy() -> str:
    """The trust policy of the machines' role: EC2 alone may assume it."""
    return _document(
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    )


def instance_policy(account: str, aws_account_id: str, partition: str = "aws") -> str:
    """What a machine of the account may do: write its logs, read its keys, fetch its wheels.

    Args:
        account: The account's slug, which is also the name of the log group.
        aws_account_id: The 12 digits of the AWS account.
        partition: "aws", or that of China or GovCloud.
    """
    logs = f"arn:{partition}:logs:*:{aws_account_id}:log-group:{account}"
    keys = f"arn:{partition}:ssm:*:{aws_account_id}:parameter/prefect-coiled/{account}/*/node/*"
    # Bucket names end in the region, which a role serves all of.
    wheels = f"arn:{partition}:s3:::{bucket_name(account, aws_account_id, '*')}"
    return _document(
        {
            "Sid": "ShipLogs",
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": [f"{logs}:log-stream:*", f"{logs}:*"],
        },
        {"Sid": "ReadOwnKeys", "Effect": "Allow", "Action": "ssm:GetParameter", "Resource": keys},
        {"Sid": "ListWheels", "Effect": "Allow", "Action": "s3:ListBucket", "Resource": wheels},
        {"Sid": "FetchWheels", "Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{wheels}/wheels/*"},
    )


def bucket_name(account: str, aws_account_id: str, region: str) -> str:
    """Name of the account's bucket in a region: unique in AWS by its number, at most 63 characters."""
    return f"coiled-{aws_account_id}-{region}-{account}"[:63].rstrip("-")


def _document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, indent=1)
