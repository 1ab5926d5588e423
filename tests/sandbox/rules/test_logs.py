"""CloudWatch Logs' rules."""

from __future__ import annotations

import pytest

from .here import Case, Here, check, events, story

CASES: list[Case] = [
    (
        "logs-model",
        "logs",
        "create_log_stream",
        lambda h: {"logGroupName": "group", "logStreamName": "a:b"},
        "InvalidParameterException",
        None,
    ),
    (
        "logs-model",
        "logs",
        "create_log_group",
        lambda h: {"logGroupName": "g", "tags": {"team": "R&D"}},
        "InvalidParameterException",
        lambda h: {"logGroupName": "g", "tags": {"team": "R and D"}},
    ),
    (
        "logs-retention",
        "logs",
        "put_retention_policy",
        lambda h: {"logGroupName": "group", "retentionInDays": 31},
        "InvalidParameterException",
        lambda h: {"logGroupName": "group", "retentionInDays": 30},
    ),
    (
        "logs-group-name",
        "logs",
        "create_log_group",
        lambda h: {"logGroupName": "aws/x"},
        "InvalidParameterException",
        None,
    ),
    (
        "logs-tags",
        "logs",
        "create_log_group",
        lambda h: {"logGroupName": "h", "tags": {"aws:a": "1"}},
        "InvalidParameterException",
        None,
    ),
    (
        "logs-batch-size",
        "logs",
        "put_log_events",
        lambda h: events(*[(0, 524300)] * 2),
        "InvalidParameterException",
        lambda h: events(*[(0, 524000)] * 2),
    ),
    (
        "logs-event-size",
        "logs",
        "put_log_events",
        lambda h: events((0, 1048576)),
        "InvalidParameterException",
        None,
    ),
    (
        "logs-event-order",
        "logs",
        "put_log_events",
        lambda h: events((0, 1), (-1, 1)),
        "InvalidParameterException",
        lambda h: events((-1, 1), (0, 1)),
    ),
    (
        "logs-batch-span",
        "logs",
        "put_log_events",
        lambda h: events((-24 * 3600_000 - 1, 1), (0, 1)),
        "InvalidParameterException",
        None,
    ),
    (
        "logs-group-search",
        "logs",
        "describe_log_groups",
        lambda h: {"logGroupNamePrefix": "a", "logGroupNamePattern": "b"},
        "InvalidParameterException",
        None,
    ),
    (
        "logs-group-once",
        "logs",
        "get_log_events",
        lambda h: {"logStreamName": "stream"},
        "InvalidParameterException",
        lambda h: {"logGroupName": "group", "logStreamName": "stream"},
    ),
    (
        "logs-streams-once",
        "logs",
        "filter_log_events",
        lambda h: {"logGroupName": "group", "logStreamNames": ["stream"], "logStreamNamePrefix": "s"},
        "InvalidParameterException",
        lambda h: {"logGroupName": "group", "logStreamNames": ["stream"]},
    ),
    (
        "logs-from-the-end",
        "logs",
        "filter_log_events",
        lambda h: {"logGroupName": "group", "startFromHead": False},
        "InvalidParameterException",
        lambda h: {"logGroupName": "group", "startFromHead": False, "startTime": 1704067200000},
    ),
    (
        "logs-streams-there",
        "logs",
        "filter_log_events",
        lambda h: {"logGroupName": "group", "logStreamNames": ["stream", "nobody"]},
        "ResourceNotFoundException",
        lambda h: {"logGroupName": "group", "logStreamNames": ["stream"]},
    ),
    (
        "logs-once",
        "logs",
        "create_log_stream",
        lambda h: {"logGroupName": "group", "logStreamName": "stream"},
        "ResourceAlreadyExistsException",
        None,
    ),
    (
        "logs-no-such",
        "logs",
        "create_log_stream",
        lambda h: {"logGroupName": "nobody", "logStreamName": "stream"},
        "ResourceNotFoundException",
        None,
    ),
    (
        "logs-tags-of-nothing",
        "logs",
        "list_tags_for_resource",
        lambda h: {"resourceArn": "arn:aws:logs:us-east-1:123456789012:log-group:nobody"},
        "ResourceNotFoundException",
        lambda h: {"resourceArn": "arn:aws:logs:us-east-1:123456789012:log-group:group"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


@story("logs-too-old-or-new")
def test_events_that_are_too_old_or_too_new_are_left_out(here: Here) -> None:
    day = 24 * 3600_000
    answer = here.of("logs").put_log_events(**events((-15 * day, 1)))
    assert answer["rejectedLogEventsInfo"]["tooOldLogEventEndIndex"] == 1
    answer = here.of("logs").put_log_events(**events((0, 1), (3 * 3600_000, 1), (4 * 3600_000, 1)))
    assert answer["rejectedLogEventsInfo"]["tooNewLogEventStartIndex"] == 1
