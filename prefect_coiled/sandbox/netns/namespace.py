"""One network namespace: made, entered, configured. Knows the kernel, nothing of AWS.

A namespace is entered by a thread that ends with what it had to do, so that nothing else in this process ever
runs in the wrong one. What is started inside (a process, a socket) stays inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefect_coiled.errors import SandboxError

__all__ = ["Namespace", "check", "run_ip"]

_CLONE_NEWNET = 0x40000000
_PATH = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"])
_WHAT = "making network namespaces"
_ROOTLESS = (
    "Run as root, or run your whole program in namespaces of its own: "
    "unshare --user --map-root-user --net sh -c 'ip link set lo up; exec python ...'"
)
T = TypeVar("T")


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _command(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise SandboxError(
            _WHAT,
            f"the command {name!r} is not there",
            "Install it: apt-get install iproute2 nftables (or the like).",
        )
    return found


def check() -> None:
    """See that namespaces can be had here.

    Raises:
        SandboxError: They cannot, and why.
    """
    if sys.platform != "linux":
        raise SandboxError(_WHAT, f"{sys.platform} has none", 'Use plane="process".')
    for name in ("ip", "nft"):
        _command(name)
    Namespace().close()


def _failing(number: int, doing: str) -> None:
    if number != 0:
        error = ctypes.get_errno()
        hint = _ROOTLESS if error in (1, 13) else ""
        raise SandboxError(_WHAT, f"{doing}: {os.strerror(error)}", hint)


def _apart(work: Callable[[], T]) -> T:
    """Do it in a thread of its own; gives or raises what it does."""
    done: list[T] = []
    failed: list[BaseException] = []

    def go() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go, name="namespace")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _run(command: Sequence[str], text: str, pass_fds: Sequence[int] = ()) -> None:
    done = subprocess.run(
        command, input=text, text=True, capture_output=True, pass_fds=pass_fds, env={"PATH": _PATH}
    )
    if done.returncode != 0:
        raise SandboxError("setting up a network", f"{' '.join(command)}: {done.stderr.strip()}", _hint(done))


def _hint(done: subprocess.CompletedProcess[str]) -> str:
    return _ROOTLESS if "Operation not permitted" in done.stderr else ""


def run_ip(lines: Sequence[str], *others: Namespace) -> None:
    """Run a batch of `ip` in the namespace of the caller.

    Args:
        lines: The commands, without "ip".
        others: Namespaces whose `ref` is in the commands.

    Raises:
        SandboxError: One of them fails; those before it took effect.
    """
    _run([_command("ip"), "-batch", "-"], "".join(f"{line}\n" for line in lines), [o.number for o in others])


class Namespace:
    """A network namespace, which is there as long as it is not closed, or something runs in it.

    Raises:
        SandboxError: It cannot be made.
    """

    def __init__(self) -> None:
        def make() -> int:
            _failing(_libc().unshare(_CLONE_NEWNET), "unshare")
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self.number = _apart(make)

    @property
    def ref(self) -> str:
        """How a command that was given this namespace calls it."""
        return f"/proc/self/fd/{self.number}"

    def do(self, work: Callable[[], T]) -> T:
        """Do something inside.

        Args:
            work: What to do; short, because it is waited for.
        """

        def inside() -> T:
            _failing(_libc().setns(self.number, _CLONE_NEWNET), "setns")
            return work()

        return _apart(inside)

    def ip(self, *lines: str, others: Sequence[Namespace] = ()) -> None:
        """Run a batch of `ip` inside; see `run_ip`."""
        self.do(lambda: run_ip(lines, *others))

    def nft(self, text: str) -> None:
        """Apply a file of nftables inside: all of it, or nothing.

        Args:
            text: The file.
        """
        self.do(lambda: _run([_command("nft"), "-f", "-"], text))

    def set(self, **values: int) -> None:
        """Write settings of the kernel inside.

        Args:
            values: As under /proc/sys/net, with "__" for "/".
        """

        def write() -> None:
            for name, value in values.items():
                file = Path("/proc/sys/net") / name.replace("__", "/")
                if file.exists():  # a kernel may be without IPv6
                    file.write_text(str(value))

        try:
            self.do(write)
        except OSError as error:
            raise SandboxError("setting up a network", str(error), _ROOTLESS) from error

    def close(self) -> None:
        """Let go of it. It ends when nothing runs in it any more."""
        number, self.number = self.number, -1
        if number >= 0:
            with contextlib.suppress(OSError):
                os.close(number)
