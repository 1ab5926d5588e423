"""CloudWatch Logs' rules that its model does not hold."""

from __future__ import annotations

from prefect_coiled.sandbox.rules.account import Account
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import kept, rule

__all__: list[str] = []

_API = "https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_{}.html"
_PUT = _API.format("PutLogEvents")
_DAYS = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)
_BATCH = 1048576  # bytes
_EVENT = 1048576  # bytes, with what each event costs
_EACH = 26  # bytes that each event costs
_DAY = 24 * 3600 * 1000  # ms
_YEAR_2024 = 1704067200000  # ms

kept(
    "once",
    "logs",
    "CreateLogGroup CreateLogStream",
    "ResourceAlreadyExistsException",
    "A name is there once.",
    _API.format("CreateLogStream"),
)
kept("no-such", "logs", "*", "ResourceNotFoundException", "What is named is there.", _PUT)
kept(
    "too-old-or-new",
    "logs",
    "PutLogEvents",
    "rejectedLogEventsInfo",
    "Events more than 14 days old or 2 hours ahead are left out, and the answer says which.",
    _PUT,
)


@rule(
    "logs",
    "PutRetentionPolicy",
    "InvalidParameterException",
    "Only some numbers of days can be kept.",
    _API.format("PutRetentionPolicy"),
)
def retention(asked: Asked) -> str | None:
    days = asked.get("retentionInDays")
    if days in _DAYS:
        return None
    allowed = ", ".join(map(str, _DAYS))
    return (
        f"1 validation error detected: Value '{days}' at 'retentionInDays' failed to satisfy constraint: "
        f"Member must satisfy enum value set: [{allowed}]"
    )


@rule(
    "logs",
    "CreateLogGroup",
    "InvalidParameterException",
    "A group's name does not begin with aws/.",
    _API.format("CreateLogGroup"),
)
def group_name(asked: Asked) -> str | None:
    if str(asked.get("logGroupName") or "").startswith("aws/"):
        return "Log groups starting with AWS/ are reserved for AWS."
    return None


@rule(
    "logs",
    "CreateLogGroup TagResource TagLogGroup",
    "InvalidParameterException",
    "aws: is AWS's own.",
    _API.format("TagResource"),
)
def tags(asked: Asked) -> str | None:
    if any(str(key).lower().startswith("aws:") for key in asked.get("tags") or {}):
        return "aws: prefixed tag key names are not allowed for external use."
    return None


@rule(
    "logs",
    "PutLogEvents",
    "InvalidParameterException",
    "A batch has at most 1,048,576 bytes, 26 for each event counted with them.",
    _PUT,
)
def batch_size(asked: Asked) -> str | None:
    size = sum(len(str(event["message"]).encode()) + _EACH for event in asked.all("logEvents"))
    return f"Upload too large: {size} bytes exceeds limit of {_BATCH}" if size > _BATCH else None


@rule("logs", "PutLogEvents", "InvalidParameterException", "An event has at most 1 MB.", _PUT)
def event_size(asked: Asked) -> str | None:
    for event in asked.all("logEvents"):
        size = len(str(event["message"]).encode()) + _EACH
        if size > _EVENT:
            return f"Log event too large: {size} bytes exceeds limit of {_EVENT}"
    return None


@rule("logs", "PutLogEvents", "InvalidParameterException", "Events are in the order of their times.", _PUT)
def event_order(asked: Asked) -> str | None:
    times = [event["timestamp"] for event in asked.all("logEvents")]
    if times == sorted(times):
        return None
    return "Log events in a single PutLogEvents request must be in chronological order."


@rule("logs", "PutLogEvents", "InvalidParameterException", "A batch spans at most 24 hours.", _PUT)
def batch_span(asked: Asked) -> str | None:
    times = [event["timestamp"] for event in asked.all("logEvents")]
    if not times or max(times) - min(times) <= _DAY:
        return None
    return "The batch of log events in a single PutLogEvents request cannot span more than 24 hours."


@rule(
    "logs",
    "DescribeLogGroups",
    "InvalidParameterException",
    "A prefix does not go with a pattern.",
    _API.format("DescribeLogGroups"),
)
def group_search(asked: Asked) -> str | None:
    if asked.get("logGroupNamePrefix") and asked.get("logGroupNamePattern"):
        return "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters."
    return None


@rule(
    "logs",
    "GetLogEvents FilterLogEvents",
    "InvalidParameterException",
    "A group is named by its name or its ARN.",
    _API.format("GetLogEvents"),
)
def group_once(asked: Asked) -> str | None:
    if bool(asked.get("logGroupName")) == bool(asked.get("logGroupIdentifier")):
        return "Exactly one of logGroupName and logGroupIdentifier must be given."
    return None


@rule(
    "logs",
    "FilterLogEvents",
    "InvalidParameterException",
    "Streams are named by their names or by a prefix.",
    _API.format("FilterLogEvents"),
)
def streams_once(asked: Asked) -> str | None:
    if asked.all("logStreamNames") and asked.get("logStreamNamePrefix"):
        return "logStreamNames and logStreamNamePrefix are mutually exclusive parameters."
    return None


@rule(
    "logs",
    "FilterLogEvents",
    "InvalidParameterException",
    "From the end one reads what is of 2024 or later.",
    _API.format("FilterLogEvents"),
)
def from_the_end(asked: Asked) -> str | None:
    if asked.get("startFromHead") is not False or int(asked.get("startTime") or 0) >= _YEAR_2024:
        return None
    return "startFromHead set to false is only supported for a startTime on or after January 1, 2024."


@rule(
    "logs",
    "FilterLogEvents",
    "ResourceNotFoundException",
    "Each stream that is named is there.",
    _API.format("FilterLogEvents"),
    needs="account",
)
def streams_there(asked: Asked, account: Account) -> str | None:
    group = account.logs.groups.get(asked.get("logGroupName"))
    if group is None or set(asked.all("logStreamNames")) <= set(group.streams):
        return None
    return "The specified log stream does not exist."


@rule(
    "logs",
    "ListTagsForResource",
    "ResourceNotFoundException",
    "Only what is there has tags.",
    _API.format("ListTagsForResource"),
    needs="account",
)
def tags_of_nothing(asked: Asked, account: Account) -> str | None:
    name = str(asked.get("resourceArn") or "").partition(":log-group:")[2].removesuffix(":*")
    return None if name in account.logs.groups else "The specified resource does not exist."
