"""A sandbox in network namespaces: here the firewall is real. `make netns-test` runs this folder.

It is skipped, with the reason, where namespaces cannot be had. What decides that is asked of the system and
not of the sandbox, so that a sandbox that fails is a failure.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from prefect_coiled.sandbox import Sandbox

AMI = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
SETTINGS = {"plane": "netns", "grace": 2}

# What instances run to look around: it tells what answers, and whenever that changes.
LOOKER = """#!/usr/bin/env python
import socket, sys, threading, time
def knock(host, port):
    try:
        socket.create_connection((host, port), 0.7).close()
        return "open"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "nothing"
def listen(port):
    server = socket.create_server(("", port))
    while True:
        peer, address = server.accept()
        with peer:
            peer.sendall(address[0].encode())
for port in {ports}:
    threading.Thread(target=listen, args=(port,), daemon=True).start()
seen = {{}}
while True:
    for name, (host, port) in {targets}.items():
        found = knock(host, port)
        if seen.get(name) != found:
            seen[name] = found
            print(name, found, flush=True)
    time.sleep(0.05)
"""


def _why_not() -> str:
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    for name in ("ip", "nft", "unshare"):
        if shutil.which(name, path=PATH) is None:
            return f"the command {name} is not there: apt-get install iproute2 nftables util-linux"
    made = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "name", "one", "type", "veth"],
        capture_output=True,
        text=True,
        env={"PATH": PATH},
    )
    return f"network namespaces are refused here: {made.stderr.strip()}" if made.returncode else ""


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    if reason := _why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def sandbox(possible: None) -> Iterator[Sandbox]:
    with Sandbox(SETTINGS) as running:
        yield running
        log = (running.info.state_dir / "server.log").read_text()
        assert "Traceback" not in log, log[-4000:]
    assert link_of(running.info.client_address) == "", "the client's link is left behind"


def link_of(client_address: str) -> str:
    """The name of the client's link to the sandbox, or nothing."""
    listed = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, env={"PATH": PATH})
    lines = [line.split() for line in listed.stdout.splitlines()]
    return next((line[1] for line in lines if client_address in line), "")


@pytest.fixture(scope="session", name="link_of")
def link_of_fixture() -> Callable[[str], str]:
    return link_of


@pytest.fixture
def way_in(sandbox: Sandbox) -> Iterator[None]:
    """Lead the client's packets for private addresses into the sandbox, not out of this machine."""
    gateway = f"{sandbox.info.client_address.rsplit('.', 1)[0]}.2"
    route = ["10.77.0.0/16", "via", gateway, "dev", link_of(sandbox.info.client_address)]
    subprocess.run(["ip", "route", "add", *route], check=True, env={"PATH": PATH})
    yield
    subprocess.run(["ip", "route", "del", *route], check=True, env={"PATH": PATH})


@pytest.fixture(scope="session")
def knock() -> Callable[[str, int], str]:
    """What a client finds at an address and port: "open", "refused" or "nothing"."""

    def knock(host: str, port: int) -> str:
        try:
            socket.create_connection((host, port), 0.7).close()
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "nothing"
        return "open"

    return knock


@pytest.fixture
def recorded_of() -> Callable[[Any], Any]:
    """What the API has of a flow run: its task runs, and what its log says."""
    from prefect.client.orchestration import get_client

    def recorded(flow_run_id: Any) -> tuple[Any, set[str]]:
        with get_client(sync_client=True) as client:

            def ask(kind: str) -> Any:
                body = {kind: {"flow_run_id": {"any_": [str(flow_run_id)]}}}
                return client.request("POST", f"/{kind}/filter", json=body).json()

            return ask("task_runs"), {line["message"] for line in ask("logs")}

    return recorded


@dataclass
class Network:
    """A VPC with a public and a private subnet, and short ways to launch into it and look."""

    sandbox: Sandbox
    until: Callable[..., Any]
    ec2: Any = field(init=False)

    def __post_init__(self) -> None:
        self.ec2 = ec2 = self.sandbox.client("ec2")
        self.image = self.sandbox.client("ssm").get_parameter(Name=AMI)["Parameter"]["Value"]
        self.vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
        self.gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.vpc)
        self.public, self.public_table = self._subnet("10.77.0.0/20")
        self.private, self.private_table = self._subnet("10.77.16.0/20")
        self.route(self.public_table, GatewayId=self.gateway)
        self.launched: list[str] = []

    def _subnet(self, block: str) -> tuple[str, str]:
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=block, AvailabilityZone="us-east-1a")
        subnet = made["Subnet"]["SubnetId"]
        table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        self.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        return subnet, table

    def route(self, table: str, to: str = "0.0.0.0/0", **through: str) -> None:
        self.ec2.create_route(RouteTableId=table, DestinationCidrBlock=to, **through)

    def nat(self) -> tuple[str, str]:
        """A NAT gateway, and its address."""
        made = self.ec2.allocate_address(Domain="vpc")
        gateway = self.ec2.create_nat_gateway(SubnetId=self.public, AllocationId=made["AllocationId"])
        return gateway["NatGateway"]["NatGatewayId"], made["PublicIp"]

    def group(self, name: str) -> str:
        made = self.ec2.create_security_group(GroupName=name, Description=name, VpcId=self.vpc)
        return str(made["GroupId"])

    def allow(self, group: str, first: int, last: int | None = None, **peer: str) -> None:
        self.ec2.authorize_security_group_ingress(
            GroupId=group, IpPermissions=[permission(first, last, **peer)]
        )

    def revoke(self, group: str, first: int, last: int | None = None, **peer: str) -> None:
        self.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[permission(first, last, **peer)])

    def launch(self, user_data: str, *groups: str, public: bool = False) -> Box:
        interface = {
            "DeviceIndex": 0,
            "SubnetId": self.public if public else self.private,
            "Groups": list(groups),
            "AssociatePublicIpAddress": public,
        }
        launched = self.ec2.run_instances(
            ImageId=self.image,
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            UserData=user_data,
            NetworkInterfaces=[interface],
            MetadataOptions={"HttpTokens": "required"},
        )["Instances"][0]
        name = str(launched["InstanceId"])
        self.launched.append(name)
        at = self.until(lambda: (at := self._see(name))["State"]["Name"] == "running" and at)
        return Box(self, name, str(at["PrivateIpAddress"]), str(at.get("PublicIpAddress", "")))

    def looker(self, *groups: str, ports: tuple[int, ...] = (), public: bool = False, **targets: Any) -> Box:
        """An instance that listens on ports, and tells what it finds at targets, as (host, port)."""
        return self.launch(LOOKER.format(ports=ports, targets=targets), *groups, public=public)

    def _see(self, name: str) -> dict[str, Any]:
        found = self.ec2.describe_instances(InstanceIds=[name])["Reservations"]
        return dict(found[0]["Instances"][0])

    def end(self) -> None:
        if self.launched:
            self.ec2.terminate_instances(InstanceIds=self.launched)
            states = self.sandbox.instances
            self.until(lambda: all(states()[name]["state"] == "terminated" for name in self.launched))


@dataclass
class Box:
    """An instance."""

    network: Network
    name: str
    address: str
    public: str

    def says(self, text: str, seconds: float = 30.0) -> str:
        """Wait until it printed the text; gives all that it printed."""
        console = self.network.sandbox.console
        return str(self.network.until(lambda: text in (printed := console(self.name)) and printed, seconds))

    def last(self, name: str) -> str:
        """What it found last at a target."""
        lines = [line.split() for line in self.network.sandbox.console(self.name).splitlines()]
        return next((line[1] for line in reversed(lines) if line[:1] == [name]), "")


def permission(first: int, last: int | None = None, *, cidr: str = "", members: str = "") -> dict[str, Any]:
    """A permission for TCP, for a network or the members of a group."""
    made: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": first, "ToPort": last or first}
    if cidr:
        made["IpRanges"] = [{"CidrIp": cidr}]
    else:
        made["UserIdGroupPairs"] = [{"GroupId": members}]
    return made


@pytest.fixture
def network(sandbox: Sandbox, until: Callable[..., Any]) -> Iterator[Network]:
    made = Network(sandbox, until)
    yield made
    made.end()
