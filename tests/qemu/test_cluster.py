"""A cluster of virtual machines through the public face: what a container has not, power-on to power-off.

The tests share one cluster, which takes minutes to boot; two of them take a worker away.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from distributed import Client

from prefect_coiled import Cluster
from prefect_coiled.sandbox import Sandbox
from tests.vm.images import Layer

Until = Callable[..., Any]
Measured = Callable[[str], None]
NAME = "virtual-machines"
# What consoles say, and what it means.
MARKS = {
    "the kernel's first line": r"Linux version \d",
    "user data": r"prefect-coiled: fetching the list",
    "the node": r"prefect-coiled: starting node",
    "the scheduler's port": r"Scheduler at:",
}


class Watch:
    """Notes how long after power-on the consoles of a sandbox first said something, in its own thread."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.seen: dict[str, float] = {}
        self._sandbox = sandbox
        self._on = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.5):
            on = [name for name, instance in self._sandbox.instances().items() if instance.get("pid")]
            if on and not self._on:
                self._on = time.monotonic()
            said = "\n".join(self._sandbox.console(name) for name in on)
            for mark, pattern in MARKS.items():
                if mark not in self.seen and re.search(pattern, said):
                    self.seen[mark] = time.monotonic() - self._on

    def close(self) -> float:
        """End it; gives the time since power-on."""
        self._done.set()
        self._thread.join()
        return time.monotonic() - self._on


def processor_seconds(sandbox: Sandbox) -> float:
    """What the machines that are on have used."""
    roots = [psutil.Process(i["pid"]) for i in sandbox.instances().values() if i.get("pid")]
    all_of = [process for root in roots for process in root.children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in all_of)


@pytest.fixture(scope="module")
def cluster(account: None, ignored: list[str], sandbox: Sandbox, measured: Measured) -> Iterator[Cluster]:
    """A scheduler and two workers."""
    more: Any = {"wait_for_workers": True, "package_sync_ignore": ignored, "quiet": True, "timeout": 1200}
    began = time.monotonic()
    watch = Watch(sandbox)
    try:
        running = Cluster(n_workers=2, name=NAME, nthreads=1, **more)
    finally:
        joined = watch.close()
        for mark, seconds in watch.seen.items():
            measured(f"power-on to {mark}: {seconds:.0f} s")
    measured(f"power-on to 2 workers joined: {joined:.0f} s, {processor_seconds(sandbox):.0f} CPU s")
    measured(f"Cluster(...) to 2 workers joined: {time.monotonic() - began:.0f} s")
    with running:
        yield running


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster, timeout=120) as connected:
        yield connected


def test_each_has_a_kernel_and_hardware_of_its_own_and_cloud_init_knows_it_by_its_firmware(
    cluster: Cluster, client: Client, kernel: Layer
) -> None:
    def look() -> dict[str, Any]:
        import json
        import os
        import platform
        import shutil
        import subprocess
        from pathlib import Path

        dmi = {file: Path("/sys/class/dmi/id", file).read_text().strip() for file in firmware}
        cards = [link for link in Path("/sys/class/net").iterdir() if link.name != "lo"]

        def told(*words: str) -> str:
            return subprocess.run(words, capture_output=True, text=True).stdout.strip()

        number = os.stat("/").st_dev
        return {
            "kernel": platform.release(),
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text(),
            "first": Path("/proc/1/comm").read_text().strip(),
            "virt": told("systemd-detect-virt"),
            "failed": told("systemctl", "list-units", "--failed", "--plain", "--no-legend"),
            "dmi": dmi,
            "stand-in": shutil.which("dmidecode", path="/usr/sbin"),
            "root": Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name,
            "cards": [(card / "device/driver").resolve().name for card in cards],
            "cloud-init": json.loads(Path("/run/cloud-init/result.json").read_text())["v1"],
        }

    firmware = ("sys_vendor", "product_uuid", "product_serial", "board_asset_tag", "chassis_asset_tag")
    seen = [*client.run(look).values(), client.run_on_scheduler(look)]
    (own,) = kernel.folder.glob("boot/vmlinuz-*")
    assert {one["kernel"] for one in seen} == {own.name.removeprefix("vmlinuz-")}
    assert len({one["boot"] for one in seen}) == len(seen)
    assert {one["first"] for one in seen} == {"systemd"}
    assert {one["virt"] for one in seen} == {"amazon"}  # that is what systemd takes it for
    assert {one["failed"] for one in seen} == {""}
    assert {one["dmi"]["sys_vendor"] for one in seen} == {"Amazon EC2"}
    assert all(one["dmi"]["product_uuid"].startswith("ec2") for one in seen)
    scheduler = cluster.started().record.scheduler.instance_id
    assert {one["dmi"]["board_asset_tag"] for one in seen} == {scheduler, *cluster.observed}
    assert {one["stand-in"] for one in seen} == {None}
    assert {one["root"] for one in seen} == {"nvme0n1"}
    assert all(one["cards"] == ["virtio_net"] for one in seen)
    assert all(one["cloud-init"] == {"datasource": "DataSourceEc2Local", "errors": []} for one in seen)


def test_the_console_of_an_instance_is_its_serial_port(cluster: Cluster, sandbox: Sandbox) -> None:
    scheduler = cluster.started().record.scheduler.instance_id
    assert scheduler is not None
    printed = sandbox.client("ec2").get_console_output(InstanceId=scheduler)["Output"]
    assert re.search(r"\[ +\d+\.\d+\] ", printed)  # the kernel's own lines
    assert "systemd[1]: Hostname set to" in printed or "Welcome to" in printed
    assert "prefect-coiled: starting node" in printed


def test_it_computes_and_what_the_machines_log_is_in_cloudwatch(
    cluster: Cluster, client: Client, sandbox: Sandbox, until: Until
) -> None:
    assert all(address.startswith("tls://10.77.") for address in client.scheduler_info()["workers"])

    def average(start: int) -> float:
        import logging

        import pandas

        logging.getLogger("distributed.worker").warning("average from %s", start)
        return float(pandas.DataFrame({"x": range(start, start + 10)})["x"].mean())

    assert client.gather(client.map(average, [0, 10, 20])) == [4.5, 14.5, 24.5]

    def arrived() -> bool:
        texts = "\n".join(str(text) for text in cluster.get_logs().values())
        return all(f"average from {start}" in texts for start in (0, 10, 20)) and "Scheduler at:" in texts

    until(arrived, 120)
    found = sandbox.client("logs").describe_log_streams(logGroupName="default")["logStreams"]
    streams = {stream["logStreamName"] for stream in found}
    assert {cluster.started().record.scheduler.instance_id, *cluster.observed} <= streams


def test_a_machine_that_switches_itself_off_is_terminated(
    cluster: Cluster, client: Client, sandbox: Sandbox, ends: Callable[..., list[str]], measured: Measured
) -> None:
    def switch_off() -> None:
        import subprocess

        # In a second: the answer to this call shall get out.
        subprocess.run(["systemd-run", "--quiet", "--on-active=1s", "shutdown", "-h", "now"], check=True)

    name = max(cluster.observed)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    (address,) = [address for address, worker in workers.items() if worker["name"] == name]
    began = time.monotonic()
    client.run(switch_off, workers=[address])
    assert ends([name], 240) == ["Client.InstanceInitiatedShutdown"]
    measured(f"`shutdown` inside to terminated: {time.monotonic() - began:.0f} s")
    assert "reboot: Power down" in sandbox.console(name)


def test_a_machine_whose_plug_is_pulled_is_noticed(
    cluster: Cluster, client: Client, sandbox: Sandbox, until: Until, measured: Measured
) -> None:
    lost = min(cluster.observed)
    began = time.monotonic()
    sandbox.unplug(lost)
    until(lambda: lost not in cluster.observed, 240)
    noticed = time.monotonic() - began
    measured(f"pulled plug to noticed: {noticed:.0f} s")
    # With a FIN it would be a fraction of a second.
    assert noticed > 5
    assert sandbox.instances()[lost]["state"] == "running"  # as AWS sees it


def test_closing_ends_every_machine_and_the_scheduler_by_its_power_button(
    cluster: Cluster, sandbox: Sandbox, until: Until, measured: Measured
) -> None:
    scheduler = cluster.started().record.scheduler.instance_id
    assert scheduler is not None
    measured(f"machines still on at the end: {processor_seconds(sandbox):.0f} CPU s since their power-on")
    began = time.monotonic()
    cluster.close()
    until(lambda: {i["state"] for i in sandbox.instances().values()} == {"terminated"}, 180)
    measured(f"closing to all machines off: {time.monotonic() - began:.0f} s")
    assert "reboot: Power down" in sandbox.console(scheduler)
