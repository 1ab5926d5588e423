"""When a scheduler should close by itself. Pure: told the time and the number of clients."""

from __future__ import annotations

from dataclasses import dataclass, field

# A cluster that nobody ever connected to is one that its maker lost: seconds from start.
CLIENT_GRACE_S = 600.0


@dataclass
class Timers:
    """The no-client and the cluster timeout of one scheduler (Dask has its own idle timeout).

    Attributes:
        started: When the scheduler started, on a monotonic clock in seconds.
        no_client_timeout: Seconds without any client; None means never. Counted from when the first
            client was seen, or from `grace` after the start.
        cluster_timeout: Seconds from the start; None means never.
        grace: Seconds from the start until a cluster without a first client starts to count.
    """

    started: float
    no_client_timeout: float | None
    cluster_timeout: float | None
    grace: float = CLIENT_GRACE_S
    _alone_since: float | None = field(default=None, init=False)
    _seen: bool = field(default=False, init=False)

    def client_came(self) -> None:
        """Note a client as it comes: it may be gone again before the next check."""
        self._seen, self._alone_since = True, None

    def check(self, now: float, clients: int, heard: float | None = None) -> str | None:
        """The reason to close now ("no-client", "cluster-timeout"), if there is one.

        Args:
            now: The time on the same clock as `started`.
            clients: How many clients and cluster objects are connected.
            heard: When one was last heard of; counted from then once there is none. Now by default.
        """
        if self.cluster_timeout is not None and now - self.started >= self.cluster_timeout:
            return "cluster-timeout"
        if clients:
            self.client_came()
            return None
        if self._alone_since is None and (self._seen or now - self.started >= self.grace):
            self._alone_since = now if heard is None else heard
        if self.no_client_timeout is None or self._alone_since is None:
            return None
        return "no-client" if now - self._alone_since >= self.no_client_timeout else None
