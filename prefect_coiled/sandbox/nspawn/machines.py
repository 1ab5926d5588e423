"""The plane of whole machines in containers, and an instance as one of them: a disk over that of its image.

Needs root, systemd-nspawn, iproute2 and nftables.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.netns.vpc import VpcNetwork
from prefect_coiled.sandbox.network import Interface
from prefect_coiled.sandbox.plane import Address, Machine
from prefect_coiled.sandbox.settings import Settings
from prefect_coiled.sandbox.whole.machines import WHAT, WholeMachine, WholePlane, check_disk

__all__ = ["NspawnMachine", "NspawnPlane"]

_INIT = Path(__file__).parent.parent / "instance" / "nspawn.sh"
_TOOLS = ("systemd-nspawn", "unshare", "mount")
_GONE_S = 10.0


class NspawnMachine(WholeMachine):
    """One instance.

    Args:
        plane: Where it is connected.
        instance_id: See `Machine`.
        address: See `Machine`.
        folder: See `Machine`; its disk is in it.
        user_data: See `Machine`; cloud-init fetches it.
        disk: The root file systems under its disk, the upper first.
    """

    files = ("disk", "work", "root")

    @property
    def _name(self) -> str:
        """What systemd-nspawn calls it."""
        return f"coiled-{self.instance_id}"

    def _connect(self, network: VpcNetwork, interface: Interface) -> None:
        self._namespace = network.plug(interface)
        # The card is called as it is on AWS, and has no address yet.
        self._namespace.ip("link set eth0 down", "addr flush dev eth0", "link set eth0 name ens5")

    def _switch_on(self, aws: Mapping[str, str], outside: dict[str, str]) -> None:
        self._write_environment(aws)
        outside |= {
            "MACHINE_LAYERS": self._disk,
            "MACHINE_NAME": self._name,
            "MACHINE_UUID": hashlib.sha256(self.instance_id.encode()).hexdigest()[:32],
        }
        self._run(_INIT, (), outside)

    def _write_environment(self, variables: Mapping[str, str]) -> None:
        """What systemd gives to every service of the machine, cloud-init's scripts too."""
        folder = self.folder / "disk" / "etc" / "systemd" / "system.conf.d"
        folder.mkdir(parents=True, exist_ok=True)
        words = " ".join(f'"{name}={_escaped(value)}"' for name, value in sorted(variables.items()))
        (folder / "50-sandbox.conf").write_text(f"[Manager]\nDefaultEnvironment={words}\n")

    def wait(self) -> None:
        """See `Machine`."""
        super().wait()
        _remove_cgroup(self._name)


class NspawnPlane(WholePlane):
    """Whole machines, each in a container of systemd-nspawn.

    Args:
        settings: For the disk that machines boot from; it may change while the sandbox runs.

    Raises:
        SandboxError: It cannot be had here.
    """

    def __init__(self, settings: Settings) -> None:
        if os.geteuid() != 0:
            raise SandboxError(WHAT, "it needs root")
        if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
            raise SandboxError(
                WHAT,
                f"not installed: {', '.join(missing)}",
                "On Debian: apt-get install systemd-container.",
            )
        check_disk(settings.root_disk)
        super().__init__(settings)

    def machine(
        self, instance_id: str, address: Address, folder: Path, scratch: Path, user_data: bytes
    ) -> Machine:
        """See `DataPlane`."""
        check_disk(self._settings.root_disk)
        return NspawnMachine(self, instance_id, address, folder, user_data, self._settings.root_disk)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _remove_cgroup(name: str) -> None:
    """Where the machine was killed, so that its first process could not do it itself."""
    for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        end = time.monotonic() + _GONE_S
        # What was killed takes a moment to be gone, and until then its cgroup is busy.
        while os.path.isdir(f"{base}/{name}") and time.monotonic() < end:
            for folder, _, _ in os.walk(f"{base}/{name}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            time.sleep(0.02)
