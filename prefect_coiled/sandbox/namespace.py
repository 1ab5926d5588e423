"""A network namespace of Linux, and work in it: one thread at a time is there, the process stays where it is.

Needs root. What is started by a thread that is there stays there, and so do the sockets that it opens.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator

from prefect_coiled.errors import SandboxError

__all__ = ["Namespace"]

# https://man7.org/linux/man-pages/man2/setns.2.html; Python has it only from 3.12 on.
_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


class Namespace:
    """A new network namespace, empty but for its loopback. Gone when nothing is in it and it is closed.

    Attributes:
        descriptor: An open file of it.

    Raises:
        SandboxError: The system does not allow it.
    """

    def __init__(self) -> None:
        made: list[int | OSError] = []

        def make() -> None:
            try:
                _call("unshare", _CLONE_NEWNET)
                made.append(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make, name="namespace")
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise SandboxError("making a network namespace", str(made[0]), "It needs root.") from made[0]
        # A high number: a shell that inherits it has uses of its own for low ones.
        self.descriptor = fcntl.fcntl(made[0], fcntl.F_DUPFD_CLOEXEC, 64)
        os.close(made[0])
        self.run("ip", "link", "set", "lo", "up")

    @property
    def path(self) -> str:
        """Where other processes find it as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @property
    def inherited(self) -> str:
        """Where a process finds it that got the descriptor."""
        return f"/proc/self/fd/{self.descriptor}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace for the length of a block."""
        before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", self.descriptor, _CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a command in it.

        Args:
            command: The command with its arguments.
            text: What it gets on its standard input.

        Returns:
            What it printed.

        Raises:
            SandboxError: It failed, or is not there.
        """
        try:
            with self.entered():
                done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise SandboxError(f"running {command[0]}", "it is not installed") from error
        if done.returncode:
            raise SandboxError(f"running {' '.join(command)}", done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def set(self, name: str, value: str) -> None:
        """Set one of its parameters, such as "ipv4/ip_forward"."""
        with self.entered():
            descriptor = os.open(f"/proc/sys/net/{name}", os.O_WRONLY)
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
