"""Images of machines that have a kernel: those of `tests/vm`, with a layer that lets them boot."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.qemu import host
from tests.vm.images import Images, Layer, no_image

RECIPE = Path(__file__).parent / "kernel.sh"
TOOLS = ("mmdebstrap", "unshare", "ip", "nft", "apt-get", "dpkg-deb", "depmod")


def reason() -> str:
    """Why virtual machines cannot run here; empty where they can."""
    if why := no_image(TOOLS):
        return why
    if platform.machine() != "x86_64":
        return f"the images are for x86_64, not for {platform.machine()}"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    try:
        host.check()
        host.memory()
    except SandboxError as error:
        return str(error)
    return ""


class BootableImages(Images):
    """The layers of images that boot on hardware."""

    def kernel(self) -> Layer:
        """What goes over all other layers: the kernel."""
        root = self.bare()[-1].folder
        parts = [RECIPE.read_bytes(), root.name.encode()]
        return self._layer(
            "kernel", parts, lambda folder: self._run([str(RECIPE), str(root), str(folder)], "kernel")
        )
