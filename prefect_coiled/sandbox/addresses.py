"""One address of 127.0.0.0/8 for each instance, where the loopback has more than one.

On Linux every address of the block answers without privilege. Elsewhere there is 127.0.0.1 alone: all
instances share it, and what listens on them has to take free ports.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from typing import Literal

from prefect_coiled.errors import SandboxError

__all__ = ["Addresses", "free_port"]

# Above Linux's range of ephemeral ports, so that no client socket sits on it by chance.
_CLAIM_PORT = 61047
# 250 in each of the 256 parts of a block; the address of the claim is none of them.
_NUMBERS = range(10, 250 * 256)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class Addresses:
    """The addresses that one sandbox hands out.

    Two sandboxes on one machine keep apart by each holding a bound socket in its own 127.x block.

    Args:
        form: "many" or "one"; by default what the platform has.
    """

    def __init__(self, form: Literal["many", "one"] | None = None) -> None:
        self.form: Literal["many", "one"] = form or ("many" if sys.platform == "linux" else "one")
        self._claim: socket.socket | None = None
        self._block = 0
        # Addresses are used again only after the whole block: a late client must not meet a stranger.
        self._numbers = itertools.cycle(_NUMBERS)
        self._used: set[str] = set()
        if self.form == "many":
            self._block = self._claim_block()

    def take(self) -> str:
        """An address for a new instance."""
        if self.form == "one":
            return "127.0.0.1"
        for number in itertools.islice(self._numbers, len(_NUMBERS)):
            address = f"127.{self._block}.{number // 250}.{number % 250 + 1}"
            if address not in self._used:
                self._used.add(address)
                return address
        raise SandboxError("giving an address to an instance", "all addresses of the sandbox are in use")

    def give_back(self, address: str) -> None:
        """The instance that had the address is gone."""
        self._used.discard(address)

    def close(self) -> None:
        """Release the block."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _claim_block(self) -> int:
        first = 16 + os.getpid() % 230
        for block in itertools.chain(range(first, 246), range(16, first)):
            claim = socket.socket()
            try:
                claim.bind((f"127.{block}.255.254", _CLAIM_PORT))
            except OSError:
                claim.close()
                continue
            self._claim = claim
            return block
        raise SandboxError("starting the sandbox", "every block of loopback addresses is taken")
