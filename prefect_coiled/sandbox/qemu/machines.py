"""The plane of virtual machines, and an instance as one of them.

Needs root, QEMU, mke2fs, iproute2 and nftables. QEMU has no network but the file that is the machine's card;
it runs in a pid namespace of its own whose first process ends with the sandbox, in whatever way that ends.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prefect_coiled.sandbox.netns.machines import NetnsPlane
from prefect_coiled.sandbox.netns.namespace import Namespace
from prefect_coiled.sandbox.netns.vpc import VpcNetwork
from prefect_coiled.sandbox.network import Interface
from prefect_coiled.sandbox.plane import Address, Machine
from prefect_coiled.sandbox.qemu import host
from prefect_coiled.sandbox.qemu.command import Hardware, command
from prefect_coiled.sandbox.qemu.disks import Disks, kernel_of
from prefect_coiled.sandbox.settings import Settings
from prefect_coiled.sandbox.whole.machines import WholeMachine, WholePlane, check_disk

__all__ = ["QemuMachine", "QemuPlane"]

_INIT = Path(__file__).parent.parent / "instance" / "qemu.sh"


class QemuMachine(WholeMachine):
    """One instance.

    Args:
        plane: Where it is connected.
        instance_id: See `Machine`.
        address: See `Machine`.
        folder: See `Machine`; its disk is in it.
        user_data: See `Machine`; cloud-init fetches it.
        disk: The root file systems that it boots from, the upper first.
        disks: The disks of images.
    """

    files = ("disk.qcow2", "monitor")

    def __init__(
        self,
        plane: NetnsPlane,
        instance_id: str,
        address: Address,
        folder: Path,
        user_data: bytes,
        disk: str,
        disks: Disks,
    ) -> None:
        super().__init__(plane, instance_id, address, folder, user_data, disk)
        self._disks = disks
        self._tap = -1

    def _connect(self, network: VpcNetwork, interface: Interface) -> None:
        self._namespace = Namespace()
        self._tap = network.tap(interface)

    def _switch_on(self, aws: Mapping[str, str], outside: dict[str, str]) -> None:
        try:
            assert self._interface is not None
            kernel = kernel_of(self._disk)
            target = self.folder / self.files[0]
            self._disks.write_over(self._disks.of(self._disk, self.folder.parent / "disks"), target)
            machine = Hardware(
                instance_id=self.instance_id,
                accelerator=host.accelerator(kernel),
                memory=host.memory(),
                kernel=kernel,
                disk=target,
                console=self.console,
                mac=self._interface.mac,
                tap=self._tap,
                variables=aws,
            )
            self._run(_INIT, command(machine), {**outside, "PATH": host.PATH}, [self._tap])
        finally:
            # QEMU alone holds it, so that the link goes with QEMU.
            os.close(self._tap)
            self._tap = -1


class QemuPlane(WholePlane):
    """Whole machines with hardware of their own.

    Args:
        settings: For the disk that machines boot from; it may change while the sandbox runs.

    Raises:
        SandboxError: It cannot be had here.
    """

    def __init__(self, settings: Settings) -> None:
        host.check()
        _check(settings)
        super().__init__(settings)
        self._disks = Disks()

    def machine(
        self, instance_id: str, address: Address, folder: Path, scratch: Path, user_data: bytes
    ) -> Machine:
        """See `DataPlane`."""
        _check(self._settings)
        disk = self._settings.root_disk
        return QemuMachine(self, instance_id, address, folder, user_data, disk, self._disks)

    def close(self) -> None:
        """See `DataPlane`."""
        super().close()
        self._disks.remove()


def _check(settings: Settings) -> None:
    check_disk(settings.root_disk)
    kernel_of(settings.root_disk)
