"""The command line of one virtual machine. Pure.

https://www.qemu.org/docs/master/system/invocation.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect_coiled.sandbox.qemu.host import QEMU

__all__ = ["Hardware", "command", "identity"]

# Of the kernel: its console is the instance's; guards against other guests and other users cost time.
_KERNEL = "root=/dev/nvme0n1 rw console=ttyS0 mitigations=off tsc=reliable audit=0"


@dataclass(frozen=True)
class Hardware:
    """What one machine is made of.

    Attributes:
        instance_id: Its id on EC2.
        accelerator: The options for its processor.
        memory: MiB.
        kernel: The file of the kernel that it boots.
        disk: The file of its disk.
        console: The file that its serial port writes to.
        mac: The address of its network card.
        tap: The open file of its network card.
        variables: What systemd inside shall give to every service.
    """

    instance_id: str
    accelerator: tuple[str, ...]
    memory: int
    kernel: Path
    disk: Path
    console: Path
    mac: str
    tap: int
    variables: Mapping[str, str]


def identity(instance_id: str) -> str:
    """The UUID that its firmware tells; on EC2 it begins with ec2.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
    """
    digits = "ec2" + hashlib.sha256(instance_id.encode()).hexdigest()[3:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def command(machine: Hardware) -> list[str]:
    """The command line.

    Args:
        machine: What it is made of.
    """
    variables = [f"systemd.setenv={name}={value}" for name, value in sorted(machine.variables.items())]
    words = [QEMU, *machine.accelerator, "-M", "q35", "-m", str(machine.memory), "-smp", "1"]
    words += ["-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-chardev", f"file,id=console,path={_file(machine.console)},append=on"]
    words += ["-serial", "chardev:console"]
    words += ["-kernel", str(machine.kernel), "-append", " ".join([_KERNEL, *variables])]
    words += _firmware(machine.instance_id)
    words += ["-drive", f"id=disk,if=none,format=qcow2,cache=unsafe,file={_file(machine.disk)}"]
    words += ["-device", f"nvme,drive=disk,serial=vol{identity(machine.instance_id)[-12:]}"]
    words += ["-netdev", f"tap,id=card,fd={machine.tap}"]
    words += ["-device", f"virtio-net-pci,netdev=card,mac={machine.mac},romfile="]
    words += ["-device", "virtio-rng-pci"]
    return words


def _firmware(instance_id: str) -> list[str]:
    """Who the machine is, as Amazon's firmware tells it."""
    name, vendor = identity(instance_id), "Amazon EC2"
    tables = [
        f"type=0,vendor={vendor},version=1.0",
        f"type=1,manufacturer={vendor},uuid={name},serial={name}",
        f"type=2,manufacturer={vendor},asset={instance_id}",
        f"type=3,manufacturer={vendor},asset={vendor}",
    ]
    return [word for table in tables for word in ("-smbios", table)]


def _file(path: Path) -> str:
    # In QEMU's lists of options a comma is written twice.
    return str(path).replace(",", ",,")
