"""Whose process is at the other end of a connection: on a shared machine, others get no answer.

A second lock on the door: who may do what is settled by secrets (see `authentication`). Linux tells the owner
of each local socket in /proc/net/tcp; elsewhere there is no such check. A peer that is not listed, because it
closed its end in the meantime, is refused.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["may_ask", "owner"]

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def _hex(address: tuple[str, int]) -> tuple[str, str]:
    """How the two tables write an IPv4 address: little-endian words, the second one IPv4-mapped."""
    word = socket.inet_aton(address[0])[::-1].hex().upper()
    port = f"{address[1]:04X}"
    return f"{word}:{port}", f"0000000000000000FFFF0000{word}:{port}"


def owner(local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The user id that owns the local socket connected from `local` to `remote`; None if unknown.

    Args:
        local: Address and port of the socket asked about.
        remote: Address and port of its peer.
    """
    for table, mine, other in zip(_TABLES, _hex(local), _hex(remote), strict=True):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            # A socket that its process has closed already (inode 0) is shown as root's.
            if fields[1] == mine and fields[2] == other and fields[9] != "0":
                return int(fields[7])
    return None


def may_ask(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Whether the process at `client` belongs to this user or to root.

    Args:
        client: Address and port of the client's end.
        server: Address and port of our end.
    """
    if not any(table.exists() for table in _TABLES):
        return True
    return owner(client, server) in (os.getuid(), 0)
