"""The KMS key with which an AWS account encrypts disks where none is named: AWS's, or one of its own."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError


def find_disk_key(aws: Aws) -> str:
    """The ARN of the customer's key that encrypts disks in the region; empty for AWS's own (alias/aws/ebs).

    Empty too where AWS does not say, or may not be asked: the end of a machine says it then.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetEbsDefaultKmsKeyId.html
    """
    try:
        reply = aws.call("ec2:GetEbsDefaultKmsKeyId", f"asking which key encrypts disks in {aws.region}")
    except AwsError:
        return ""
    key = str(reply.get("KmsKeyId") or "")
    return key if ":key/" in key else ""
