"""One machine at a time: that it is a real one, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from prefect_coiled.sandbox import Sandbox
from tests.vm.conftest import _cgroups, disk
from tests.vm.images import Layer

Until = Callable[..., Any]
AMI = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"

# Looks around when cloud-init is done, and tells it in one line of JSON on the console.
LOOK = r"""#!/bin/bash
cat >/root/look.py <<'PYTHON'
import json, subprocess, urllib.request
def run(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
def imds(path, method="GET", **headers):
    request = urllib.request.Request(f"http://169.254.169.254/latest/{path}", method=method, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=5).read().decode()
    except urllib.error.HTTPError as error:
        return error.code
token = imds("api/token", "PUT", **{"X-aws-ec2-metadata-token-ttl-seconds": "60"})
print("LOOK " + json.dumps({
    "first": open("/proc/1/comm").read().strip(),
    "status": run("cloud-init", "status", "--wait", "--long"),
    "result": json.load(open("/run/cloud-init/result.json"))["v1"],
    "warnings": [line for line in open("/var/log/cloud-init.log") if "WARNING" in line or "ERROR" in line],
    "failed": run("systemctl", "list-units", "--failed", "--plain", "--no-legend"),
    "id": imds("meta-data/instance-id", **{"X-aws-ec2-metadata-token": token}),
    "without token": imds("meta-data/instance-id"),
    "address": run("hostname", "-I"),
    "resolver": open("/etc/resolv.conf").read(),
}), flush=True)
PYTHON
systemd-run --quiet --property=StandardOutput=journal+console /bin/sh -c 'python3 /root/look.py; THEN'
"""


@pytest.fixture(scope="module")
def subnet(sandbox: Sandbox) -> str:
    """A subnet that gives public addresses."""
    return str(sandbox.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"])


def boot(sandbox: Sandbox, user_data: str, **more: Any) -> str:
    """Launch one machine; gives its id."""
    ec2 = sandbox.client("ec2")
    image = sandbox.client("ssm").get_parameter(Name=AMI)["Parameter"]["Value"]
    made = ec2.run_instances(
        ImageId=image,
        InstanceType="m6i.large",
        MinCount=1,
        MaxCount=1,
        UserData=user_data,
        MetadataOptions={"HttpTokens": "required"},
        InstanceInitiatedShutdownBehavior="terminate",
        **more,
    )
    return str(made["Instances"][0]["InstanceId"])


def told(sandbox: Sandbox, instance_id: str) -> dict[str, Any] | None:
    """What the machine has seen, when it has told."""
    for line in sandbox.console(instance_id).splitlines():
        if "LOOK {" in line:
            found: dict[str, Any] = json.loads(line[line.index("LOOK {") + 5 :])
            return found
    return None


def test_a_machine_runs_systemd_and_cloud_init_has_nothing_to_complain_of(
    sandbox: Sandbox,
    subnet: str,
    until: Until,
    ends: Callable[..., list[str]],
    measured: Callable[[str], None],
) -> None:
    began = time.monotonic()
    name = boot(sandbox, LOOK.replace("THEN", "shutdown -h now"), SubnetId=subnet)
    seen = until(lambda: told(sandbox, name), 120)
    measured(f"power-on to the end of cloud-init: {time.monotonic() - began:.1f} s")
    assert seen["first"] == "systemd"
    assert seen["status"].startswith("status: done"), seen
    assert seen["result"] == {"datasource": "DataSourceEc2Local", "errors": []}
    assert seen["warnings"] == []
    assert seen["failed"] == ""
    assert seen["id"] == name
    assert seen["without token"] == 401
    private = sandbox.client("ec2").describe_instances(InstanceIds=[name])["Reservations"][0]["Instances"][0]
    assert seen["address"] == private["PrivateIpAddress"]
    # It powers itself off, and that is its termination.
    assert ends([name]) == ["Client.InstanceInitiatedShutdown"]


def test_user_data_runs_at_the_first_boot_only(sandbox: Sandbox, subnet: str, until: Until) -> None:
    script = "#!/bin/bash\necho run >>/root/runs\necho RUNS-$(wc -l </root/runs)-END\n"
    name = boot(sandbox, script, SubnetId=subnet)
    done = "Reached target cloud-init.target"
    until(lambda: done in sandbox.console(name), 120)
    assert "RUNS-1-END" in sandbox.console(name)
    sandbox.client("ec2").reboot_instances(InstanceIds=[name])
    until(lambda: sandbox.console(name).count(done) == 2, 120)
    assert "RUNS-2-END" not in sandbox.console(name)
    sandbox.client("ec2").terminate_instances(InstanceIds=[name])


def test_terminating_presses_the_power_button(
    sandbox: Sandbox, subnet: str, until: Until, ends: Callable[..., list[str]]
) -> None:
    name = boot(sandbox, "#!/bin/bash\necho UP-NOW\n", SubnetId=subnet)
    until(lambda: "UP-NOW" in sandbox.console(name), 120)
    sandbox.client("ec2").terminate_instances(InstanceIds=[name])
    assert ends([name]) == ["Client.UserInitiatedShutdown"]
    assert "Powering off." in sandbox.console(name)


@pytest.fixture
def doomed(complete: list[Layer]) -> Iterator[Sandbox]:
    """A sandbox of its own, to be killed."""
    with Sandbox({"plane": "nspawn", "root_disk": disk(complete), "grace": 2}) as running:
        yield running


def test_nothing_is_left_when_the_sandbox_is_killed(doomed: Sandbox, until: Until) -> None:
    subnet = doomed.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    # It does not hear the power button: so the plug has to be pulled.
    deaf = "#!/bin/bash\nsystemctl mask --runtime poweroff.target\nsetsid sleep 1000 &\necho UP-NOW\n"
    name = boot(doomed, deaf, SubnetId=subnet)
    until(lambda: "UP-NOW" in doomed.console(name), 120)
    root = psutil.Process(doomed.instances()[name]["pid"])
    inside = [root, *root.children(recursive=True)]
    assert "sleep" in {process.name() for process in inside}
    cards = {card for card in psutil.net_if_addrs() if card.startswith("pcsandbox")}
    os.kill(doomed.info.pid, signal.SIGKILL)
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in inside), 30)
    until(lambda: not cards & set(psutil.net_if_addrs()) or len(cards) > 1, 30)
    until(lambda: not [group for group in _cgroups() if name in group.name], 10)
