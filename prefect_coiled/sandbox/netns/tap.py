"""A network link whose other end is an open file, as virtual machines have it. Knows nothing of AWS.

https://docs.kernel.org/networking/tuntap.html
"""

from __future__ import annotations

import fcntl
import os
import struct

from prefect_coiled.errors import SandboxError

__all__ = ["open_tap"]

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000


def open_tap(name: str) -> int:
    """Make the link, in the network namespace of the caller; it goes when the file is closed everywhere.

    Args:
        name: What it is called.

    Returns:
        The open file: what is written to it comes in by the link.

    Raises:
        SandboxError: The kernel has no such links, or does not let this user make one.
    """
    try:
        file = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError("making a network card", str(error), "Load the module: modprobe tun.") from error
    try:
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(file)
        raise SandboxError("making a network card", f"{name}: {error.strerror}") from error
    return file
