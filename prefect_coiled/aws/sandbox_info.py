"""What the library needs of a sandbox, where an account runs in one: a port, and nothing behind it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SandboxInfo(Protocol):
    """What is needed of a running sandbox."""

    @property
    def endpoint(self) -> str:
        """The address of its AWS API."""

    @property
    def addresses(self) -> str:
        """Says "many" where each machine has an address of its own, "one" where they share one."""

    @property
    def secret_access_key(self) -> str:
        """The secret key of its administrator."""

    @property
    def image(self) -> str:
        """Says "ready" where machines hold this very environment, "bare" where they install it."""

    @property
    def client_address(self) -> str:
        """The address from which its machines see clients of this machine."""

    @property
    def shares_loopback(self) -> bool:
        """Whether its machines reach what listens on the loopback of this one."""

    def free_port(self) -> int:
        """A port that is free for a machine, where they share one address."""
