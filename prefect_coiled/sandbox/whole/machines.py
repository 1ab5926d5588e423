"""An instance that is a whole machine, and the plane of such instances, whatever it is that they run in.

A machine boots from the root file systems that the setting `root_disk` names; cloud-init finds its address by
DHCP and its user data at 169.254.169.254, as on AWS. Needs root, iproute2 and nftables.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.netns.machines import NetnsMachine, NetnsPlane
from prefect_coiled.sandbox.netns.ruleset import RESOLVER
from prefect_coiled.sandbox.netns.vpc import VpcNetwork
from prefect_coiled.sandbox.network import Interface
from prefect_coiled.sandbox.plane import Address
from prefect_coiled.sandbox.settings import Settings
from prefect_coiled.sandbox.whole import dhcp, way_out

__all__ = ["WHAT", "WholeMachine", "WholePlane", "check_disk"]

WHAT = "starting a sandbox of whole machines"
_RELAY_PORT = 9
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")


class WholeMachine(NetnsMachine):
    """One instance.

    Args:
        plane: Where it is connected.
        instance_id: See `Machine`.
        address: See `Machine`.
        folder: See `Machine`; its disk is in it.
        user_data: See `Machine`; cloud-init fetches it.
        disk: The root file systems that it boots from, the upper first.
    """

    files: tuple[str, ...] = ()
    """What of its folder is the disk."""

    def __init__(
        self,
        plane: NetnsPlane,
        instance_id: str,
        address: Address,
        folder: Path,
        user_data: bytes,
        disk: str,
    ) -> None:
        super().__init__(plane, instance_id, address, folder, folder / "scratch", user_data)
        self._disk = disk
        self._requests: socket.socket | None = None

    def power_on(self, environ: Mapping[str, str], grace: float) -> None:
        """See `Machine`. That user data runs once is cloud-init's own affair."""
        self._network, self._interface = self._plane.place(self.instance_id)
        self._connect(self._network, self._interface)
        # Its address is told by DHCP.
        self._requests = self._network.requests(self._interface)
        dhcp.serve(self._requests, _lease_of(self._interface))
        aws = {name: value for name, value in environ.items() if name.startswith("AWS_")}
        outside = {name: value for name, value in environ.items() if name.startswith("PREFECT_COILED_")}
        outside |= {
            "PATH": os.environ.get("PATH", os.defpath),
            "MACHINE_DIR": str(self.folder),
            "MACHINE_GRACE": f"{grace:g}",
        }
        self._switch_on(aws, outside)
        self.unplugged = False
        self.on = True

    @abstractmethod
    def _connect(self, network: VpcNetwork, interface: Interface) -> None:
        """Put the cable in."""

    @abstractmethod
    def _switch_on(self, aws: Mapping[str, str], outside: dict[str, str]) -> None:
        """Start it.

        Args:
            aws: What services inside shall have in their environment.
            outside: The environment of what runs it.
        """

    def _run(
        self, script: Path, arguments: Sequence[str], environ: dict[str, str], files: Sequence[int] = ()
    ) -> None:
        """Start the script that is its hardware, with a pid and a mount namespace that end with it."""
        self._lifeline = self._spawn([*_UNSHARE, "/bin/sh", str(script), *arguments], environ, files)

    def unplug(self) -> None:
        """See `Machine`: the cable is out, so that no packet comes or goes, whatever happens inside."""
        self.unplugged = True
        if self._network is not None and self._interface is not None:
            self._network.cut(self._interface)

    def replug(self) -> None:
        """See `Machine`."""
        self.unplugged = False
        if self._network is not None and self._interface is not None:
            self._network.mend(self._interface)

    def forget(self) -> None:
        """See `Machine`."""
        if self._requests is not None:
            dhcp.stop(self._requests)
            self._requests = None
        super().forget()

    def erase(self) -> None:
        """See `Machine`."""
        super().erase()

        def remove() -> None:
            for name in self.files:
                place = self.folder / name
                if place.is_dir():
                    shutil.rmtree(place, ignore_errors=True)
                else:
                    place.unlink(missing_ok=True)

        # A disk may have tens of thousands of files, and the sandbox's lock is held here.
        threading.Thread(target=remove, daemon=True, name=f"erase {self.instance_id}").start()


class WholePlane(NetnsPlane):
    """Whole machines, on the network of `NetnsPlane`, with a way out to where this computer gets.

    Args:
        settings: For the disk that machines boot from; it may change while the sandbox runs.

    Raises:
        SandboxError: It cannot be had here.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._questions: dict[str, socket.socket] = {}
        inside = self._internet.namespace
        self._leaving = inside.do(lambda: socket.create_server(("", _RELAY_PORT), backlog=128))
        way_out.relay(self._leaving)
        self._internet.lead_out(_RELAY_PORT)

    def changed(self) -> None:
        """See `DataPlane`."""
        super().changed()
        for vpc_id in set(self._networks) - set(self._questions):
            self._questions[vpc_id] = self._networks[vpc_id].questions()
            way_out.resolve(self._questions[vpc_id])
        for vpc_id in set(self._questions) - set(self._networks):
            dhcp.stop(self._questions.pop(vpc_id))

    def close(self) -> None:
        """See `DataPlane`."""
        for listener in (*self._questions.values(), self._leaving):
            dhcp.stop(listener)
        self._questions.clear()
        super().close()


def check_disk(disk: str) -> None:
    """See that machines can boot from it.

    Args:
        disk: The setting `root_disk`.

    Raises:
        SandboxError: They cannot.
    """
    folders = disk.split(":")
    if not disk or not (Path(folders[-1]) / "usr/lib/systemd/systemd").exists():
        raise SandboxError(
            "making a machine", f"the setting root_disk ({disk!r}) names no root file system with systemd"
        )


def _lease_of(interface: Interface) -> Callable[[str], dhcp.Lease | None]:
    lease = dhcp.Lease(
        ipaddress.IPv4Address(interface.address),
        ipaddress.IPv4Network(interface.subnet),
        ipaddress.IPv4Address(RESOLVER),
    )
    return lambda mac: lease if mac == interface.mac else None
