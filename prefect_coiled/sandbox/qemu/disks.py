"""Disks of virtual machines: one of each image, which nobody writes to, and over it what one machine writes.

An image is folders, the upper first, as with overlayfs. It is made into a file system without mounting that:
the folders are put together in a mount namespace that ends with the program which copies them.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.qemu.host import HELD, PATH

__all__ = ["Disks", "kernel_of"]

_log = logging.getLogger(__name__)
_FREE_MIB = 1024
# mke2fs reads the folder; names of places come as arguments, so that no character in them matters.
_MAKE = """
set -e
[ -z "$1" ] || mount -t overlay -o "ro,lowerdir=$1" image "$2"
exec mke2fs -q -F -t ext4 -L image -m 0 -O ^has_journal -E lazy_itable_init=0 -d "$2" "$3" "$4M"
"""


def kernel_of(image: str) -> Path:
    """The kernel that an image boots.

    Args:
        image: Its folders, the upper first, with colons between them.

    Raises:
        SandboxError: It has none.
    """
    for folder in image.split(":"):
        if found := sorted(Path(folder).glob("boot/vmlinuz-*")):
            return found[-1]
    raise SandboxError(
        "making a virtual machine",
        f"no folder of the setting root_disk ({image!r}) has a kernel, as boot/vmlinuz-*",
        "Unpack Debian's package linux-image-cloud-amd64 into a folder of its own, and name that first.",
    )


class Disks:
    """The disks of images, each made when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Path] = {}

    def of(self, image: str, folder: Path) -> Path:
        """The disk of an image; machines that ask meanwhile wait for it.

        Args:
            image: Its folders, the upper first, with colons between them.
            folder: Where disks are kept, and nothing else.

        Raises:
            SandboxError: It cannot be made.
        """
        with self._lock:
            if not self._made:
                # What a sandbox left there that was killed.
                shutil.rmtree(folder, ignore_errors=True)
            if image not in self._made:
                folder.mkdir(parents=True, exist_ok=True)
                self._made[image] = _make(image, folder)
            return self._made[image]

    def remove(self) -> None:
        """Remove them all."""
        with self._lock:
            for disk in self._made.values():
                disk.unlink(missing_ok=True)
            self._made.clear()

    @staticmethod
    def write_over(disk: Path, target: Path) -> None:
        """Make a disk that holds what one machine writes, if it is not there yet.

        Args:
            disk: What it reads where it has written nothing.
            target: The new one, as QEMU's qcow2.

        Raises:
            SandboxError: It cannot be made.
        """
        if not target.exists():
            _run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "raw", str(target)])


def _make(image: str, folder: Path) -> Path:
    began = time.monotonic()
    layers = image.split(":")
    name = hashlib.sha256(f"{image}{began}".encode()).hexdigest()[:16]
    disk, place = folder / f"{name}.ext4", folder / name
    used = _run(["du", "-smc", *layers]).split("\n")[-2].split()[0]
    size = str(int(used) * 5 // 4 + _FREE_MIB)
    # An overlay wants two folders at the least.
    lower, source = (image, str(place)) if len(layers) > 1 else ("", image)
    place.mkdir()
    try:
        _run([*HELD, "unshare", "--mount", "sh", "-c", _MAKE, "mke2fs", lower, source, str(disk), size])
    except SandboxError:
        disk.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(place)
    seconds = time.monotonic() - began
    _log.info("made the disk of an image, %s MiB with %s used, in %.1f s", size, used, seconds)
    return disk


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": PATH})
    if done.returncode != 0:
        raise SandboxError("making a disk", f"{command[0]}: {done.stderr.strip()[-500:]}")
    return done.stdout
