"""What this computer must have for virtual machines: tools, memory, and perhaps a processor that helps."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import threading
from pathlib import Path

import psutil

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.whole.machines import WHAT

__all__ = ["HELD", "PATH", "QEMU", "accelerator", "check", "memory"]

QEMU = "qemu-system-x86_64"
# Where Debian has its tools, whoever's path it is.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
# What is started so ends with the thread that started it, in whatever way that ends.
HELD = ("setpriv", "--pdeathsig", "KILL")

_log = logging.getLogger(__name__)
_PACKAGES = {
    QEMU: "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
}
# MiB of a machine. A node needs about 500; less than the least, and the kernel kills it.
_WANTED, _LEAST = 1024, 700
_EMULATED = ("-accel", "tcg,thread=multi", "-cpu", "Nehalem")
_ASSISTED = ("-accel", "kvm", "-cpu", "host")
_PROBE_S = 30
_probing = threading.Lock()


def check() -> None:
    """See that machines can be had here.

    Raises:
        SandboxError: They cannot, and what to install.
    """
    if os.geteuid() != 0:
        raise SandboxError(WHAT, "it needs root")
    missing = [tool for tool in _PACKAGES if not shutil.which(tool, path=PATH)]
    if missing:
        packages = " ".join(dict.fromkeys(_PACKAGES[tool] for tool in missing))
        raise SandboxError(
            WHAT, f"not installed: {', '.join(missing)}", f"On Debian: apt-get install {packages}."
        )


def memory() -> int:
    """MiB for the next machine: what one wants, or less where others need it.

    Raises:
        SandboxError: Not even the least is free.
    """
    free = int(psutil.virtual_memory().available) // 2**20
    if free < _LEAST:
        raise SandboxError(
            "starting a virtual machine",
            f"it needs {_LEAST} MiB of memory, and {free} are free",
            "Ask for fewer workers, or end what needs memory.",
        )
    # Room for as many again: a cluster is started at once.
    return max(_LEAST, min(_WANTED, free // 4))


def accelerator(kernel: Path) -> tuple[str, ...]:
    """The options for the processor: that of this computer if it really runs a guest, else an emulated one.

    Args:
        kernel: A kernel to try it with. /dev/kvm may answer where no guest ever runs.
    """
    with _probing:
        return _accelerator(kernel)


@functools.cache
def _accelerator(kernel: Path) -> tuple[str, ...]:
    found = _ASSISTED if os.access("/dev/kvm", os.R_OK | os.W_OK) and _runs(kernel) else _EMULATED
    _log.info("virtual machines run with %s", " ".join(found))
    return found


def _runs(kernel: Path) -> bool:
    """Whether a kernel gets so far that it looks for its disk, of which it has none."""
    command = [*HELD, QEMU, *_ASSISTED, "-M", "q35", "-m", "256", "-nodefaults", "-no-user-config"]
    command += ["-display", "none", "-serial", "stdio", "-no-reboot"]
    command += ["-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, env={"PATH": PATH}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.info("/dev/kvm runs no guest: %s", error)
        return False
    if b"Unable to mount root fs" not in done.stdout:
        _log.info("/dev/kvm runs no guest: %s", done.stderr.decode(errors="replace").strip()[-300:])
        return False
    return True
