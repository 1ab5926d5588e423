"""Read what happened in an account: its notifications, and the logs of its clusters, gone ones too."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from dask.utils import parse_timedelta
from distributed.utils import Log, Logs
from rich.table import Table

from prefect_coiled.aws import instances, log_events
from prefect_coiled.aws.door import Aws
from prefect_coiled.blocks import load_account
from prefect_coiled.errors import OptionsError, PrefectCoiledError
from prefect_coiled.events.rows import STREAM, Notification, choose, level_number
from prefect_coiled.terminal import Terminal

# As many rows as one call gives; older ones are in the log group, for CloudWatch's own search.
_LOOKED_AT = 10_000
_TIMES = 'must be a time such as "10m" or "2026-01-31T09:00".'
_SHOWN = (*instances.LIVE, "shutting-down", "terminated")
_STYLES = {logging.ERROR: "red", logging.WARNING: "yellow"}
# What a line has that tells of an error.
_ERRORS = ("ERROR", "CRITICAL", "Traceback", "Error:", "Exception")


def get_notifications(
    json: bool = False,
    account: str | None = None,
    limit: int = 100,
    level: int | str = logging.NOTSET,
    event_type: str | None = None,
    *,
    region: str | None = None,
) -> list[dict[str, Any]] | None:
    """Show what was made and removed for an account, and what failed. Rows are kept for 30 days.

    Args:
        json: Return the rows instead of printing them.
        account: Slug of the account.
        limit: The newest so many rows.
        level: From this level of `logging` on.
        event_type: Of this type only, such as "create_vm".
        region: The AWS region; the account's by default.

    Returns:
        With `json`, a dict a row: time, id, level, event_type, elapsed (seconds), msg, data.

    Raises:
        OptionsError: If there is no such level or type.
        AwsError: If AWS does not give them.
    """
    door = _door(account, region)
    rows = read_notifications(door, limit=limit, level=level_number(level), event_type=event_type)
    if json:
        return [row.row() for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("TIME", "LEVEL", "EVENT TYPE", "ELAPSED", "MESSAGE", "DATA"):
        table.add_column(column, overflow="fold")
    for row in rows:
        data = ", ".join(f"{k}={v}" for k, v in row.data.items() if k not in ("region", "spans"))
        name = logging.getLevelName(row.level)
        table.add_row(
            row.local_time,
            name,
            row.event_type,
            f"{row.elapsed:.1f} s",
            row.msg,
            data,
            style=_STYLES.get(row.level, ""),
        )
    Terminal().print(table)
    return None


def read_notifications(
    aws: Aws, *, limit: int = 100, level: int = logging.NOTSET, event_type: str | None = None
) -> list[Notification]:
    """The rows as records, oldest first; see `get_notifications`."""
    choose([], limit=limit, event_type=event_type)  # what is wrong is said before AWS is asked
    lines = log_events.read_log(aws, STREAM, tail=_LOOKED_AT)
    return choose(lines, limit=limit, level=level, event_type=event_type)


def machines_of(aws: Aws, name: str) -> dict[str, str]:
    """The machines of a cluster by id, with "scheduler" or "worker"; also of one that is gone.

    Of several that had the name one after the other, those of the newest. EC2 forgets terminated machines
    after an hour; the account's notifications know them for 30 days.
    """
    return _known(aws, name).machines


class _Known(NamedTuple):
    """What is known of the newest cluster of a name.

    Attributes:
        machines: The role of each machine, by id.
        begun: Since when there are any; None if that is not known.
    """

    uid: str
    machines: dict[str, str]
    begun: datetime | None


def _known(aws: Aws, name: str, uid: str | None = None) -> _Known:
    made = ("create_scheduler", "create_worker")
    rows = read_notifications(aws, limit=_LOOKED_AT)
    rows = [r for r in rows if r.data.get("cluster") == name and r.event_type in made]
    there = instances.find_instances(aws, name, states=_SHOWN)
    if uid is None:  # what EC2 still shows is newer than what it has forgotten
        newest = [*(row.uid for row in rows), *(m.cluster_uid for m in there)]
        uid = newest[-1] if newest else ""
    rows = [row for row in rows if row.uid == uid]
    there = [m for m in there if m.cluster_uid == uid]
    found = {one: row.event_type.removeprefix("create_") for row in rows for one in row.machines}
    told_of_all = all(m.instance_id in found for m in there)
    found |= {m.instance_id: m.role for m in there}
    return _Known(uid, found, rows[0].time if rows and told_of_all else None)


def follow_logs(
    aws: Aws,
    name: str,
    *,
    since: datetime | None = None,
    wanted: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda machines: machines,
    interval: float = 2.0,
) -> Iterator[tuple[str, str, str]]:
    """Yield (role, instance id, line) as lines come, until the cluster has ended.

    Args:
        since: To begin with what was logged from then on.
        wanted: Chooses from the cluster's machines and their roles.
        interval: Seconds between two looks.
    """
    follower = log_events.Follower(aws, since)
    uid = _known(aws, name).uid
    while True:
        alive = bool(instances.find_instances(aws, name, uid=uid, states=_SHOWN[:-1]))
        heard = False
        roles = wanted(_known(aws, name, uid).machines)
        for instance_id, line in follower.more(list(roles)):
            heard = True
            yield roles[instance_id], instance_id, line
        if not alive and not heard:
            return
        if not heard and aws.stop.wait(interval):
            return


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """A moment from "10m", "2 hours" (before now) or an ISO time.

    Raises:
        OptionsError: If it is neither.
    """
    try:
        # Python 3.10 does not know the "Z" that most programs write for UTC.
        found = datetime.fromisoformat(re.sub(r"(?<=\d)[Zz]\Z", "+00:00", text.strip()))
    except ValueError:
        pass
    else:
        try:
            return found if found.tzinfo else found.astimezone()
        except (
            ValueError,
            OverflowError,
            OSError,
        ) as error:  # a year that this machine's clock does not know
            raise OptionsError(f"since {text!r}", _TIMES) from error
    if not text.strip():
        raise OptionsError(f"since {text!r}", f"is blank: it {_TIMES}")
    try:
        seconds = float(parse_timedelta(text, default="s"))
        return (now or datetime.now(timezone.utc)) - timedelta(seconds=seconds)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise OptionsError(f"since {text!r}", _TIMES) from error
    except OverflowError as error:
        raise OptionsError(f"since {text!r}", f"is before there were years. It {_TIMES}") from error


def cluster_logs(
    name: str,
    account: str | None = None,
    *,
    region: str | None = None,
    scheduler: bool = True,
    workers: bool = True,
    errors_only: bool = False,
    since: datetime | None = None,
) -> Logs:
    """The logs of a cluster, whether it runs or is gone. They are kept for 30 days.

    Of several that had the name one after the other, those of the newest. A machine that never came
    up has its console output instead.

    Args:
        name: The cluster's name.
        account: Slug of the account.
        region: The AWS region; the account's by default.
        scheduler: Whether the scheduler's is wanted.
        workers: Whether the workers' are.
        errors_only: Only lines that tell of an error.
        since: Only what was logged from then on.

    Raises:
        OptionsError: If the name is none.
        PrefectCoiledError: If nothing is known of such a cluster.
    """
    if not isinstance(name, str):
        raise OptionsError(f"cluster {name!r}", "it has to be the name of one, a text.")
    if since is not None and not isinstance(since, datetime):
        raise OptionsError(f"since {since!r}", "it has to be a datetime.")
    door = _door(account, region)
    _, machines, begun = _known(door, name)
    if not machines:
        raise PrefectCoiledError(
            f"logs of cluster {name!r}",
            f"account {door.account} had none of that name in {door.region} in the last 30 days.",
            "See `prefect-coiled ls` and `prefect-coiled notifications`.",
        )
    wanted = {"scheduler": scheduler, "worker": workers}
    out = Logs()
    chosen = [one for one, role in sorted(machines.items(), key=lambda item: item[::-1]) if wanted[role]]
    since = since or (begun - log_events.EARLIER if begun else None)
    for instance_id, lines in log_events.said(door, chosen, since=since):
        kept = [line for line in lines if not errors_only or any(word in line for word in _ERRORS)]
        out["Scheduler" if machines[instance_id] == "scheduler" else instance_id] = Log("\n".join(kept))
    return out


def _door(account: str | None, region: str | None) -> Aws:
    return load_account(account).door(region)
