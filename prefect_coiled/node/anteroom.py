"""Where connections wait that have not shown yet what they may: not many, and not for long.

The ports of a scheduler may be open to everybody. Whoever opens connections and says nothing would hold
memory and a file for each; here they are sent away after a while, and where they are too many, at once: the
oldest of the address that has the most. So somebody who comes with a thousand keeps out nobody but himself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from prefect_coiled.internals.distributed import prepare_streams

_log = logging.getLogger(__name__)

# Connections, and seconds in which one has to have shown its certificate or its token.
_ROOM, _PATIENCE_S = 256, 20.0


class Anteroom:
    """Connections that have not shown yet what they may. For one event loop.

    Args:
        origin: Gives the address that a connection comes from by its port, where it was passed on by this
            machine itself; empty for others.
    """

    def __init__(
        self,
        room: int = _ROOM,
        patience_s: float = _PATIENCE_S,
        origin: Callable[[int], str] = lambda port: "",
    ) -> None:
        self._room = room
        self._origin = origin
        self._patience_s = patience_s
        self._waiting: dict[Hashable, tuple[str, Callable[[], object], asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, visitor: Hashable, address: str, send_away: Callable[[], object], port: int = 0) -> None:
        """A connection came."""
        address = self._origin(port) or address
        if len(self._waiting) >= self._room:
            counted = Counter(one for one, _, _ in self._waiting.values())
            most = max(counted.values())
            crowded = {one for one, n in counted.items() if n == most}
            self._refuse(next(v for v, (one, _, _) in self._waiting.items() if one in crowded))
        timer = asyncio.get_running_loop().call_later(self._patience_s, self._refuse, visitor)
        self._waiting[visitor] = (address, send_away, timer)

    def leave(self, visitor: Hashable) -> bool:
        """It has shown it, or went. Returns whether it was still waiting."""
        found = self._waiting.pop(visitor, None)
        if found is not None:
            found[2].cancel()
        return found is not None

    def _refuse(self, visitor: Hashable) -> None:
        found = self._waiting.get(visitor)
        self.leave(visitor)
        if found is not None:
            found[1]()


def guard_http(server: Any, room: Anteroom) -> None:
    """Let connections to an HTTP server of Tornado's wait until whoever guards its routes lets one `leave`.

    Args:
        server: The server; seen in Tornado 6.5.
    """
    serve = server.handle_stream

    def handle_stream(stream: Any, address: tuple[Any, ...]) -> Any:
        room.enter(stream, str(address[0]), stream.close, int(address[1]))
        return serve(stream, address)

    server.handle_stream = handle_stream


def guard_dask(listener: Any, room: Anteroom) -> None:
    """Let connections to one of Dask's listeners wait until their TLS handshake is done.

    Args:
        listener: The listener, which by itself waits for the handshake without end.
    """

    async def prepared(stream: Any, address: str) -> Any:
        host, _, port = address.rpartition(":")
        room.enter(stream, host, stream.close, int(port))
        try:
            await stream.wait_for_handshake()
        except OSError as error:
            if room.leave(stream):  # who was sent away is not worth a line each
                why = getattr(error, "real_error", None) or error
                _log.warning("TLS handshake failed with %s: %s", address, why)
            return None
        room.leave(stream)
        return stream

    prepare_streams(listener, prepared)
