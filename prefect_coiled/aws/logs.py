"""CloudWatch Logs: the account's log group (30 days), and writing there; `log_events` reads.

Each machine makes its own stream, named as itself: CreateLogStream is limited to 50 an account and second
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html).
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.governed import set_if_permitted
from prefect_coiled.errors import AlreadyExistsError, NotFoundError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import ALL, Item, Kind, Scope, There, Wanted

RETENTION_DAYS = 30
_PROTECTED = (
    "it is protected from deletion; take that off (CloudWatch console > Log Management > Actions > Edit "
    "deletion protection), then run again"
)


def find_log_group(aws: Aws, scope: Scope = ALL) -> list[Item]:
    """The log group named as the account, if there is one, with its tags as "Labels"."""
    what = f"finding log group ({aws.account})"
    groups = aws.pages("logs:DescribeLogGroups", what, "logGroups", logGroupNamePrefix=aws.account)
    found = (g for g in groups if g["logGroupName"] == aws.account)
    with_labels = ((g, _labels(aws, g["arn"])) for g in found)
    return [{**g, "Labels": labels} for g, labels in with_labels if labels is not None]


def _labels(aws: Aws, arn: str) -> dict[str, str] | None:
    """The tags of a log group; None for one that is gone by now."""
    what = f"reading tags of log group ({aws.account})"
    try:
        reply = aws.call("logs:ListTagsForResource", what, resourceArn=arn.removesuffix(":*"))
    except NotFoundError:
        return None
    return dict(reply["tags"])


def _create(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    labels = tags.plain(aws.labels())
    what = f"creating log group ({aws.account})"
    aws.call("logs:CreateLogGroup", what, logGroupName=aws.account, tags=labels)
    return {"logGroupName": aws.account, "Labels": labels}


def _keep_days(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    what = f"setting retention of log group ({aws.account})"
    without = f"log group {aws.account} keeps its logs as the AWS account has it"
    wanted: dict[str, Any] = {"logGroupName": aws.account, "retentionInDays": RETENTION_DAYS}
    if not set_if_permitted(aws, "logs:PutRetentionPolicy", what, without, **wanted):
        return item
    return {**item, "retentionInDays": RETENTION_DAYS}


def _held(item: Item) -> str:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/protecting-log-groups-from-deletion.html
    return _PROTECTED if item.get("deletionProtectionEnabled") else ""


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


LOG_GROUP = Kind(
    name="log group",
    find=find_log_group,
    id_of=lambda item: str(item["logGroupName"]),
    labels=lambda item: item["Labels"],
    owner=lambda item: str(item["arn"]),
    note=lambda item: f"{item.get('retentionInDays', '')} days",
    held=_held,
    asked=lambda want: True,
    lacks=lambda item, want, there: (
        "" if item.get("retentionInDays") == RETENTION_DAYS else f"it does not keep {RETENTION_DAYS} days"
    ),
    create=_create,
    update=_keep_days,
    delete=lambda aws, items: aws.call(
        "logs:DeleteLogGroup", f"deleting log group ({aws.account})", logGroupName=aws.account
    ),
)
