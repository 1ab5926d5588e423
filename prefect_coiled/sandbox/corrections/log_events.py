"""PutLogEvents says which events it left out as its reference does: too old up to one, too new from one on.

moto gives the last one of each instead. And FilterLogEvents keeps to the streams whose names begin as it
is told, which moto does not read.
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_RejectedLogEventsInfo.html
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
"""

from __future__ import annotations

import json
import time
from typing import Any

from moto.logs.models import LogsBackend
from moto.logs.responses import LogsResponse

__all__ = ["install"]

_OLD, _NEW = 14 * 86_400_000, 2 * 3_600_000  # milliseconds


def install() -> None:
    """Count as the reference says."""
    moto_put = LogsBackend.put_log_events

    def put_log_events(self: Any, log_group_name: str, log_stream_name: str, log_events: Any) -> Any:
        token, info = moto_put(self, log_group_name, log_stream_name, log_events)
        now = time.time() * 1000
        times = [int(event["timestamp"]) for event in log_events] if info else []
        old, new = sum(at < now - _OLD for at in times), sum(at > now + _NEW for at in times)
        if "tooOldLogEventEndIndex" in info:
            info["tooOldLogEventEndIndex"] = old
        if "tooNewLogEventStartIndex" in info:
            info["tooNewLogEventStartIndex"] = len(times) - new
        return token, info

    LogsBackend.put_log_events = put_log_events
    moto_filter = LogsResponse.filter_log_events

    def filter_log_events(self: Any) -> str:
        prefix = self._get_param("logStreamNamePrefix")
        group = self.logs_backend.groups.get(self._get_param("logGroupName"))
        if not prefix or group is None:
            return str(moto_filter(self))
        names = [name for name in group.streams if name.startswith(prefix)]
        if not names:
            return json.dumps({"events": [], "searchedLogStreams": []})
        read = self._get_param
        self._get_param = lambda name, *rest: names if name == "logStreamNames" else read(name, *rest)
        return str(moto_filter(self))

    LogsResponse.filter_log_events = filter_log_events
