"""A sandbox of virtual machines that is killed leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from prefect_coiled.sandbox import Sandbox
from tests.qemu.conftest import leftovers
from tests.vm.conftest import disk
from tests.vm.images import Layer
from tests.vm.test_machines import boot

Until = Callable[..., Any]


@pytest.fixture
def doomed(kernel: Layer, bare: list[Layer]) -> Iterator[Sandbox]:
    """A sandbox of its own, to be killed; its machines are bare."""
    with Sandbox({"plane": "qemu", "root_disk": disk([kernel, *bare]), "grace": 2}) as running:
        yield running


def namespaces() -> set[str]:
    """The network namespaces that some process is in."""
    found = set()
    for pid in psutil.pids():
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue
    return found


def open_files(pid: int) -> set[str]:
    """What a process has open."""
    return {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}


def link_of(address: str) -> str | None:
    """The link of this computer that has an address."""
    links = psutil.net_if_addrs().items()
    return next((link for link, held in links if address in {one.address for one in held}), None)


def test_nothing_is_left_when_the_sandbox_is_killed(doomed: Sandbox, until: Until) -> None:
    subnet = doomed.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    name = boot(doomed, "#!/bin/bash\n", SubnetId=subnet)
    # So early that it hears no power button: the plug has to be pulled.
    until(lambda: "Linux version" in doomed.console(name), 180)
    root = psutil.Process(doomed.instances()[name]["pid"])
    inside = [root, *root.children(recursive=True)]
    (machine,) = [process for process in inside if process.name().startswith("qemu-system")]
    # The network link goes with the last process that has it open.
    assert "/dev/net/tun" in open_files(machine.pid)
    assert "/dev/net/tun" not in open_files(doomed.info.pid)
    apart = os.readlink(f"/proc/{machine.pid}/ns/net")
    assert apart != os.readlink("/proc/self/ns/net")
    folder, address = doomed.info.state_dir, doomed.info.client_address
    assert link_of(address)
    os.kill(doomed.info.pid, signal.SIGKILL)
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in inside), 30)
    until(lambda: apart not in namespaces(), 10)
    until(lambda: link_of(address) is None, 30)
    assert leftovers(folder) == []
