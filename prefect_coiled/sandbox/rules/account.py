"""What rules look at: the account as it is in moto, a launch with its template, and what happened when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from prefect_coiled.sandbox.settings import Settings

__all__ = ["Account", "History", "Launch"]


class History:
    """When what is young, or just gone, came about; the clock can be replaced.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._since: dict[tuple[str, str], float] = {}

    def note(self, what: str, name: str) -> None:
        """It happened now."""
        with self._lock:
            self._since[what, name] = self.clock()

    def note_first(self, what: str, name: str) -> None:
        """It happened now, if it did not before."""
        with self._lock:
            self._since.setdefault((what, name), self.clock())

    def forget(self, what: str, name: str) -> None:
        """It is as if it had never happened."""
        with self._lock:
            self._since.pop((what, name), None)

    def age(self, what: str, name: str) -> float:
        """Seconds since it happened; endless where it did not."""
        with self._lock:
            since = self._since.get((what, name))
        return float("inf") if since is None else self.clock() - since

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._since.clear()


class Account(NamedTuple):
    """An AWS account in one region.

    Attributes:
        number: Its number.
        region: The region of the call.
        settings: The sandbox's.
        history: What happened when.
    """

    number: str
    region: str
    settings: Settings
    history: History

    @property
    def ec2(self) -> Any:
        """EC2 as moto holds it."""
        from moto.ec2.models import ec2_backends

        return ec2_backends[self.number][self.region]

    @property
    def iam(self) -> Any:
        """IAM as moto holds it."""
        from moto.iam.models import iam_backends

        return iam_backends[self.number]["aws"]

    @property
    def logs(self) -> Any:
        """CloudWatch Logs as moto holds it."""
        from moto.logs.models import logs_backends

        return logs_backends[self.number][self.region]


class Launch(NamedTuple):
    """A launch, by RunInstances or by a fleet.

    Attributes:
        params: The template's parameters under those of the call.
        account: The account.
    """

    params: Mapping[str, Any]
    account: Account

    @property
    def spot(self) -> bool:
        """Whether it asks for spot machines."""
        return (self.params.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"

    @property
    def instance_type(self) -> str:
        """The type that it asks for; EC2's own default where it says none."""
        return str(self.params.get("InstanceType") or "m1.small")
