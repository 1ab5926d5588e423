"""CloudWatch Logs: the account's log group (30 days), and writing there; `log_events` reads.

Each machine makes its own stream, named as itself: CreateLogStream is limited to 50 an account and second
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html).
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

from prefect_coiled.aws import ownership
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AlreadyExistsError, NotFoundError
from prefect_coiled.plan import tags

RETENTION_DAYS = 30


def find_log_group(aws: Aws) -> dict[str, str] | None:
    """The log group named as the account, if there is one."""
    groups = aws.pages(
        "logs:DescribeLogGroups",
        f"finding log group ({aws.account})",
        "logGroups",
        logGroupNamePrefix=aws.account,
    )
    for group in groups:
        if group["logGroupName"] == aws.account:
            return {"arn": group["arn"], "retention": str(group.get("retentionInDays", ""))}
    return None


def ensure_log_group(aws: Aws) -> str:
    """Find or make the log group and see that it keeps 30 days. Returns its name.

    Raises:
        ProvisionError: If a group of that name exists that does not carry our tags.
    """
    group = find_log_group(aws)
    if group is None:
        try:
            aws.call(
                "logs:CreateLogGroup",
                f"creating log group ({aws.account})",
                logGroupName=aws.account,
                tags=tags.account_tags(aws.account),
            )
        except AlreadyExistsError:
            group = find_log_group(aws)
    if group is not None and not is_ours(aws, group["arn"]):
        raise ownership.foreign(f"log group ({aws.account})")
    if group is None or group["retention"] != str(RETENTION_DAYS):
        aws.call(
            "logs:PutRetentionPolicy",
            f"setting retention of log group ({aws.account})",
            logGroupName=aws.account,
            retentionInDays=RETENTION_DAYS,
        )
    return aws.account


def is_ours(aws: Aws, arn: str) -> bool:
    """Whether the log group of that ARN carries our tags."""
    reply = aws.call(
        "logs:ListTagsForResource",
        f"reading tags of log group ({aws.account})",
        resourceArn=arn.removesuffix(":*"),
    )
    return ownership.is_ours(aws, reply["tags"], arn)


def write_log(aws: Aws, stream: str, lines: list[tuple[datetime, str]]) -> None:
    """Write lines into a stream of the account's log group; the stream is made if need be.

    Raises:
        NotFoundError: If the log group is not there.
    """
    what = f"writing log stream ({stream})"
    events = [{"timestamp": int(at.timestamp() * 1000), "message": text} for at, text in sorted(lines)]
    wanted: dict[str, Any] = {"logGroupName": aws.account, "logStreamName": stream, "logEvents": events}
    try:
        aws.call("logs:PutLogEvents", what, **wanted)
    except NotFoundError:
        with suppress(AlreadyExistsError):
            aws.call(
                "logs:CreateLogStream",
                f"creating log stream ({stream})",
                logGroupName=aws.account,
                logStreamName=stream,
            )
        aws.call("logs:PutLogEvents", what, **wanted)


def delete_log_group(aws: Aws) -> bool:
    """Delete the account's log group. Returns whether it was there and ours."""
    group = find_log_group(aws)
    if group is None or not is_ours(aws, group["arn"]):
        return False
    try:
        aws.call("logs:DeleteLogGroup", f"deleting log group ({aws.account})", logGroupName=aws.account)
    except NotFoundError:
        return False
    return True
