"""What is told of an account's resources as they come and go: rows of time, level, type and data.

The types are named after what is made, not after AWS's calls, so that automations can be written for them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import Field

from prefect_coiled.errors import OptionsError, printable
from prefect_coiled.options.base import near
from prefect_coiled.records import Record

_log = logging.getLogger(__name__)

# The stream in the account's log group.
STREAM = "notifications"

OF_CALLS = {
    "ec2:CreateVpc": "create_network",
    "ec2:CreateSubnet": "create_subnet",
    "ec2:CreateInternetGateway": "create_gateway",
    "ec2:AttachInternetGateway": "attach_gateway_to_router",
    "ec2:CreateRouteTable": "create_router",
    "ec2:CreateVpcEndpoint": "create_endpoint",
    "ec2:CreateNatGateway": "create_nat_gateway",
    "ec2:DeleteNatGateway": "delete_nat_gateway",
    "ec2:CreateSecurityGroup": "create_fw",
    "ec2:AuthorizeSecurityGroupIngress": "create_fw_rule",
    "ec2:RevokeSecurityGroupIngress": "delete_fw_rule",
    "ec2:DeleteSecurityGroup": "delete_fw",
    "ec2:DeleteVpc": "delete_network",
    "ec2:DeleteSubnet": "delete_subnet",
    "ec2:CreateImage": "create_image",
    "ec2:DeregisterImage": "delete_image",
    "ec2:RunInstances": "create_vm",
    "ec2:TerminateInstances": "delete_vm",
    "iam:CreateRole": "create_iam_role",
    "iam:DeleteRole": "delete_iam_role",
    "iam:AttachRolePolicy": "attach_policy",
    "iam:CreateInstanceProfile": "create_instance_profile",
    "logs:CreateLogGroup": "create_log_group",
    "ecr:CreateRepository": "create_repository",
    "ecr:DeleteRepository": "delete_repository",
    "s3:CreateBucket": "create_bucket",
}
# Told by the library itself, about more than one call.
_OF_STEPS = (
    "create_scheduler",
    "create_worker",
    "create_cluster",
    "cluster_ready",
    "scale",
    "worker_lost",
    "replace_worker",
    "spot_notice",
    "change_ingress",
    "delete_cluster",
    "sweep_cluster",
    "sweep",
)
EVENT_TYPES: tuple[str, ...] = tuple(sorted({*OF_CALLS.values(), *_OF_STEPS}))


class Notification(Record):
    """One row.

    Attributes:
        time: When it was over, UTC.
        id: Unique.
        level: A level of `logging`: INFO, WARNING or ERROR.
        event_type: One of `EVENT_TYPES`.
        elapsed: Seconds that it took.
        msg: What was done, for a person.
        data: Ids and names; of a failure, its text as "error".
    """

    time: datetime
    id: str
    level: int = logging.INFO
    event_type: str
    elapsed: float = 0.0
    msg: str
    data: dict[str, Any] = Field(default_factory=dict)

    def encode(self) -> str:
        """One line of JSON, as it is kept."""
        return self.model_dump_json()

    @classmethod
    def decode(cls, line: str) -> Notification | None:
        """Read what `encode` wrote; None for a line of another kind, or one whose time cannot be shown."""
        try:
            row = cls.model_validate(_cleaned(json.loads(line)), strict=False)
            row.time.astimezone()  # in the first and the last year there may be none here
        except (ValueError, RecursionError, OverflowError, OSError):
            return None
        return row if row.time.tzinfo is not None else None

    @property
    def uid(self) -> str:
        """The cluster that it tells of; empty where it says none."""
        said = self.data.get("uid", "")
        return said if isinstance(said, str) else ""

    @property
    def machines(self) -> tuple[str, ...]:
        """Ids of the machines that it tells of."""
        said = self.data.get("InstanceIds")
        return tuple(one for one in said if isinstance(one, str)) if isinstance(said, list) else ()

    def row(self) -> dict[str, Any]:
        """The row as plain values, with the level's name."""
        return {**json.loads(self.model_dump_json()), "level": logging.getLevelName(self.level)}

    @property
    def local_time(self) -> str:
        """The time of day where the reader is."""
        return self.time.astimezone().strftime("%H:%M:%S")


def _cleaned(value: Any) -> Any:
    """What was read, without what a terminal would obey."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _cleaned(one) for key, one in value.items()}
    return [_cleaned(one) for one in value] if isinstance(value, list) else value


_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def level_number(level: int | str) -> int:
    """The number of a level of `logging`, given by number or name.

    Raises:
        OptionsError: If there is no such level.
    """
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    number = logging.getLevelName(str(level).upper())
    if not isinstance(number, int):
        raise OptionsError(f"level {level!r}", f"must be one of {', '.join(_LEVELS)}.", near(level, _LEVELS))
    return number


def choose(
    lines: Iterable[str], *, limit: int, level: int = logging.NOTSET, event_type: str | None = None
) -> list[Notification]:
    """The newest `limit` rows from a level on and of a type, oldest first.

    Raises:
        OptionsError: If there is no such type, or the limit is no number of rows.
    """
    if event_type is not None and event_type not in EVENT_TYPES:
        hint = near(event_type, EVENT_TYPES)
        raise OptionsError(f"event_type {event_type!r}", f"must be one of {', '.join(EVENT_TYPES)}.", hint)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise OptionsError(f"limit {limit!r}", "is a number of rows, 1 or more.")
    read = [Notification.decode(line) for line in lines]
    rows = [row for row in read if row is not None]
    if len(rows) < len(read):
        _log.warning("skipped %d lines of the notifications that are no rows of ours", len(read) - len(rows))
    wanted = [n for n in rows if n.level >= level and event_type in (None, n.event_type)]
    return sorted(wanted, key=lambda n: n.time)[-limit:]
