"""Whatever dies, nothing is left: no process, no namespace, no link. And nobody needs to be root."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
AMI = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"

# Starts a sandbox and two instances, tells where, knocks at one, and waits to be killed.
PARENT = """
import json, socket, sys, time
from prefect_coiled.sandbox import Sandbox
listener = '''#!/usr/bin/env python
import socket, subprocess
subprocess.Popen(["setsid", "sleep", "601"])
server = socket.create_server(("", 7000))
while True:
    server.accept()[0].close()
'''
with Sandbox({"plane": "netns", "grace": 1}) as sandbox:
    ec2, ssm = sandbox.client("ec2"), sandbox.client("ssm")
    image = ssm.get_parameter(Name="AMI")["Parameter"]["Value"]
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    made = ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.0.0/20", AvailabilityZone="us-east-1a")
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"][0]
    ec2.create_route(
        RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway
    )
    group = ec2.create_security_group(GroupName="any", Description="any", VpcId=vpc)["GroupId"]
    interface = {
        "DeviceIndex": 0,
        "SubnetId": made["Subnet"]["SubnetId"],
        "Groups": [group],
        "AssociatePublicIpAddress": True,
    }
    launched = ec2.run_instances(
        ImageId=image, MinCount=2, MaxCount=2, UserData=listener, NetworkInterfaces=[interface]
    )
    ids = [i["InstanceId"] for i in launched["Instances"]]
    def addresses():
        found = [r["Instances"] for r in ec2.describe_instances(InstanceIds=ids)["Reservations"]]
        return [i.get("PublicIpAddress") for i in found[0]]
    def knock():
        try:
            socket.create_connection((addresses()[0] or "", 7000), 1).close()
            return "open"
        except OSError:
            return "nothing"
    end = time.monotonic() + 30
    while not all(addresses()) and time.monotonic() < end:
        time.sleep(0.05)
    before = knock()
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{
            "IpProtocol": "tcp",
            "FromPort": 7000,
            "ToPort": 7000,
            "IpRanges": [{"CidrIp": sandbox.info.client_address + "/32"}],
        }],
    )
    while knock() != "open" and time.monotonic() < end:
        time.sleep(0.05)
    after = knock()
    told = {
        "ids": ids,
        "pid": sandbox.info.pid,
        "folder": str(sandbox.info.state_dir),
        "client": sandbox.info.client_address,
        "before": before,
        "after": after,
    }
    print(json.dumps(told), flush=True)
    sys.stdin.read()
""".replace("AMI", AMI)


def marked(told):
    """Processes of the sandbox's instances."""
    keys = {"PREFECT_COILED_SANDBOX": [told["folder"]], "PREFECT_COILED_SANDBOX_INSTANCE": told["ids"]}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = process.environ()
            ours = any(environ.get(key) in values for key, values in keys.items())
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def namespaces(process):
    """The network namespaces that a process is in or holds."""
    found = set()
    for entry in [Path(f"/proc/{process.pid}/ns/net"), *Path(f"/proc/{process.pid}/fd").glob("*")]:
        with contextlib.suppress(OSError):
            found.add(os.readlink(entry))
    return {name for name in found if name.startswith("net:")}


def held(wanted):
    """Which of these namespaces any process on this machine is in or holds, or any mount names."""
    found = {name for process in psutil.process_iter() for name in namespaces(process)}
    mounts = Path("/proc/self/mountinfo").read_text()
    return (found & wanted) | {name for name in wanted if name in mounts}


@pytest.fixture
def parent(possible):
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    told = json.loads(process.stdout.readline())
    yield process, told
    process.stdin.close()  # the end of its input is the end of its sandbox, whose folder it removes
    try:
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("who", ["the sandbox", "its parent"])
def test_nothing_is_left_when_it_is_killed(parent, until, link_of, who):
    process, told = parent
    assert (told["before"], told["after"]) == ("nothing", "open")
    server = psutil.Process(told["pid"])
    own = namespaces(psutil.Process())
    inside = {name for one in [server, *marked(told)] for name in namespaces(one)} - own
    assert len(inside) == 4  # the internet, one VPC, two instances
    assert held(inside) == inside
    assert link_of(told["client"])
    assert len(marked(told)) >= 6
    os.kill(told["pid"] if who == "the sandbox" else process.pid, signal.SIGKILL)
    until(lambda: not link_of(told["client"]))
    until(lambda: not marked(told))
    until(lambda: not held(inside))


def test_it_works_without_being_root(possible, tmp_path):
    """In a user namespace root has no privilege outside of it, as no user has."""
    enter = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c"]
    if subprocess.run([*enter, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are refused here")
    inside = 'ip link set lo up; exec "$@"'
    done = subprocess.run(
        [*enter, inside, "sh", sys.executable, "-c", PARENT],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["before"], told["after"]) == ("nothing", "open")
    assert marked(told) == []


def test_a_user_who_may_make_no_namespaces_is_told_what_to_do(possible, tmp_path):
    script = 'from prefect_coiled.sandbox import Sandbox\nSandbox({"plane": "netns"})\n'
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--nnp", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode != 0
    assert "making network namespaces" in done.stderr
    assert "unshare --user --map-root-user --net" in done.stderr
