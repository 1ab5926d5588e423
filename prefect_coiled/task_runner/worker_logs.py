"""The machines behind a flow run, for a person: where their logs are, and what a lost one last said.

Knows a cluster of this library only by what `prefect_coiled.cluster.Cluster` offers; of other clusters it
says nothing.
"""

from __future__ import annotations

import threading
from typing import Any

from prefect_coiled.events.links import log_group_url, log_stream_url

# Machines whose logs are fetched at most, of a flow run in which hundreds may be lost.
_ASKED = 5
_LINES = 200


class WorkerLogs:
    """What can be said of the machines of a cluster."""

    def __init__(self, cluster: Any, log: Any) -> None:
        self._launched: Any = getattr(cluster, "launched", None)
        self._log = log
        self._said: dict[str, str] = {}
        self._lock = threading.Lock()

    def where(self) -> str:
        """Where the logs of all of them are; empty for a cluster of another kind."""
        if self._launched is None:
            return ""
        record = self._launched.record
        command = f"`prefect-coiled logs {record.name} --account {record.account} --region {record.region}`"
        return command if self._local() else f"{command}, {log_group_url(record.region, record.log_group)}"

    def last_words(self, name: str | None) -> str:
        """What a worker's machine last said, as the end of a sentence; it is in the flow run's log too.

        Args:
            name: The worker's name, which is its machine's id; None for the scheduler.
        """
        if self._launched is None:
            return ""
        record = self._launched.record
        machine = name or record.scheduler.instance_id
        with self._lock:
            if machine not in self._said:
                if len(self._said) >= _ASKED:
                    return ""
                self._said[machine] = self._ask(machine)
            return self._said[machine]

    def _ask(self, machine: str) -> str:
        from prefect_coiled.cluster.last_words import why_it_ended

        try:
            said = why_it_ended(lambda: str(self._launched.log(machine, _LINES)))
        except Exception as error:  # the loss itself is what is to be told
            said = f"(its log could not be read: {error})"
        text = f"{machine} last said: {said}" if said else f"{machine} said nothing"
        record = self._launched.record
        link = log_stream_url(record.region, record.log_group, machine)
        if not self._local():
            text = f"{text}; all of it: {link}"
        self._log.warning("A worker was lost. %s", text)
        return text

    def _local(self) -> bool:
        return bool(self._launched.aws.in_sandbox)
