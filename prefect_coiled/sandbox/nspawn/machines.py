"""The plane of whole machines, and an instance as one of them: a disk over that of its image, a cable, power.

A machine boots from the root file systems that the setting `root_disk` names; cloud-init finds its address by
DHCP and its user data at 169.254.169.254, as on AWS. Needs root, systemd-nspawn, iproute2 and nftables.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.netns.machines import NetnsMachine, NetnsPlane
from prefect_coiled.sandbox.netns.ruleset import RESOLVER
from prefect_coiled.sandbox.network import Interface
from prefect_coiled.sandbox.nspawn import dhcp, way_out
from prefect_coiled.sandbox.plane import Address, Machine
from prefect_coiled.sandbox.settings import Settings

__all__ = ["NspawnMachine", "NspawnPlane"]

_INIT = Path(__file__).parent.parent / "instance" / "nspawn.sh"
_TOOLS = ("systemd-nspawn", "unshare", "mount")
_RELAY_PORT = 9
_GONE_S = 10.0
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")


class NspawnMachine(NetnsMachine):
    """One instance.

    Args:
        plane: Where it is connected.
        instance_id: See `Machine`.
        address: See `Machine`.
        folder: See `Machine`; its disk is in it.
        user_data: See `Machine`; cloud-init fetches it.
        disk: The root file systems under its disk, the upper first.
    """

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
        self._name = f"coiled-{instance_id}"
        self._requests: socket.socket | None = None

    def power_on(self, environ: Mapping[str, str], grace: float) -> None:
        """See `Machine`. That user data runs once is cloud-init's own affair."""
        self._network, self._interface = self._plane.place(self.instance_id)
        self._namespace = self._network.plug(self._interface)
        # Its address is told by DHCP; the card is called as it is on AWS.
        self._namespace.ip("link set eth0 down", "addr flush dev eth0", "link set eth0 name ens5")
        self._requests = self._network.requests(self._interface)
        dhcp.serve(self._requests, _lease_of(self._interface))
        aws = {name: value for name, value in environ.items() if name.startswith("AWS_")}
        marks = {name: value for name, value in environ.items() if name.startswith("PREFECT_COILED_")}
        self._write_environment(aws)
        inside = {
            **marks,
            "PATH": os.environ.get("PATH", os.defpath),
            "MACHINE_DIR": str(self.folder),
            "MACHINE_LAYERS": self._disk,
            "MACHINE_NAME": self._name,
            "MACHINE_UUID": hashlib.sha256(self.instance_id.encode()).hexdigest()[:32],
            "MACHINE_GRACE": f"{grace:g}",
        }
        self._lifeline = self._spawn([*_UNSHARE, "/bin/sh", str(_INIT)], inside)
        self.unplugged = False
        self.on = True

    def _write_environment(self, variables: Mapping[str, str]) -> None:
        """What systemd gives to every service of the machine, cloud-init's scripts too."""
        folder = self.folder / "disk" / "etc" / "systemd" / "system.conf.d"
        folder.mkdir(parents=True, exist_ok=True)
        words = " ".join(f'"{name}={_escaped(value)}"' for name, value in sorted(variables.items()))
        (folder / "50-sandbox.conf").write_text(f"[Manager]\nDefaultEnvironment={words}\n")

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

    def wait(self) -> None:
        """See `Machine`."""
        super().wait()
        _remove_cgroup(self._name)

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
            for name in ("disk", "work", "root"):
                shutil.rmtree(self.folder / name, ignore_errors=True)

        # A disk has tens of thousands of files, and the sandbox's lock is held here.
        threading.Thread(target=remove, daemon=True, name=f"erase {self.instance_id}").start()


class NspawnPlane(NetnsPlane):
    """Whole machines, on the network of `NetnsPlane`, with a way out to where this computer gets.

    Args:
        settings: For the disk that machines boot from; it may change while the sandbox runs.

    Raises:
        SandboxError: It cannot be had here.
    """

    def __init__(self, settings: Settings) -> None:
        if os.geteuid() != 0:
            raise SandboxError("starting a sandbox of whole machines", "it needs root")
        if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
            raise SandboxError(
                "starting a sandbox of whole machines",
                f"not installed: {', '.join(missing)}",
                "On Debian: apt-get install systemd-container.",
            )
        _check_disk(settings.root_disk)
        super().__init__()
        self._settings = settings
        self._questions: dict[str, socket.socket] = {}
        inside = self._internet.namespace
        self._leaving = inside.do(lambda: socket.create_server(("", _RELAY_PORT), backlog=128))
        way_out.relay(self._leaving)
        self._internet.lead_out(_RELAY_PORT)

    def machine(
        self, instance_id: str, address: Address, folder: Path, scratch: Path, user_data: bytes
    ) -> Machine:
        """See `DataPlane`."""
        _check_disk(self._settings.root_disk)
        return NspawnMachine(self, instance_id, address, folder, user_data, self._settings.root_disk)

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


def _check_disk(disk: str) -> None:
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
