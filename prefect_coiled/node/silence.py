"""How long a connection may be silent: a network may be gone for a while, and a laptop may change it.

The kernel counts a peer as lost when what was sent is not acknowledged for so long
(`TCP_USER_TIMEOUT`, https://man7.org/linux/man-pages/man7/tcp.7.html). Until then it sends again, after times
that double: what comes back after so many seconds is noticed within as many more. A peer that ends says so,
and is not waited for. Both ends of a connection have to allow it.

Imports nothing of Dask: a client of a cluster uses it too.
"""

from __future__ import annotations

import socket

# What a scheduler says of itself beside what Dask's does: the seconds for its clients' ends.
TOLD = "prefect_coiled_silence"
# Dask's own, which is the least; and that of a cluster that never ends for want of a client.
LEAST, _WITHOUT_END = 30.0, 240.0
_PROBES = 10
# Linux takes no more seconds for either of the two (`MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`), and an `int`
# of milliseconds: a longer silence is borne as long as that.
_MOST_S, _MOST_MS = 32767, 2**31 - 1


def patience(no_client_timeout: float | None) -> float:
    """Seconds that a scheduler waits for a silent client: so that one may be away for `no_client_timeout`."""
    return _WITHOUT_END if no_client_timeout is None else max(2 * no_client_timeout, LEAST)


def bear(sock: socket.socket, seconds: float) -> None:
    """Have a TCP connection bear silence for so long, and no longer, where this system knows how."""
    interval = min(max(1, int(seconds * 3 / 4 / _PROBES)), _MOST_S)
    values = {
        "TCP_KEEPCNT": _PROBES,
        "TCP_KEEPINTVL": interval,
        "TCP_KEEPIDLE": min(max(1, int(seconds) - _PROBES * interval), _MOST_S),
        "TCP_USER_TIMEOUT": min(int(1000 * seconds), _MOST_MS),
    }
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in values.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
