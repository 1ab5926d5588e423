"""What network namespaces cost, and how fast the firewall follows, in the sandbox.

    python benchmarks/netns.py [--instances 20] [--rounds 20]

Needs what `make netns-test` needs. It measures; it judges nothing. The machine under it should be idle.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import threading
import time
from typing import Any

from prefect_coiled.sandbox import Sandbox

AMI = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
LISTENER = """#!/usr/bin/env python
import socket
server = socket.create_server(("", 7000))
while True:
    server.accept()[0].close()
"""


def network(sandbox: Sandbox) -> tuple[Any, str, str]:
    """A VPC with a public subnet; gives the client for EC2, the subnet and a security group."""
    ec2 = sandbox.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    made = ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.0.0/20", AvailabilityZone="us-east-1a")
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"][0]
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    group = ec2.create_security_group(GroupName="any", Description="any", VpcId=vpc)["GroupId"]
    return ec2, str(made["Subnet"]["SubnetId"]), str(group)


def launch(sandbox: Sandbox, ec2: Any, subnet: str, group: str, count: int) -> tuple[list[str], float]:
    """Launch instances; gives their ids and the seconds until all are running."""
    image = sandbox.client("ssm").get_parameter(Name=AMI)["Parameter"]["Value"]
    interface = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": True}
    begun = time.perf_counter()
    launched = ec2.run_instances(
        ImageId=image, MinCount=count, MaxCount=count, UserData=LISTENER, NetworkInterfaces=[interface]
    )
    ids = [i["InstanceId"] for i in launched["Instances"]]
    while {state["state"] for state in sandbox.instances().values()} != {"running"}:
        time.sleep(0.005)
    return ids, time.perf_counter() - begun


def knock(host: str, seconds: float = 0.02) -> bool:
    """Whether port 7000 answers."""
    try:
        socket.create_connection((host, 7000), seconds).close()
    except OSError:
        return False
    return True


def revoke(sandbox: Sandbox, ec2: Any, host: str, group: str) -> tuple[float, float]:
    """Milliseconds from the call that revokes a rule to the last connection, and to its reply."""
    permissions = [
        {
            "IpProtocol": "tcp",
            "FromPort": 7000,
            "ToPort": 7000,
            "IpRanges": [{"CidrIp": f"{sandbox.info.client_address}/32"}],
        }
    ]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)
    while not knock(host):
        pass
    last = [time.perf_counter()]
    closed = threading.Event()

    def watch() -> None:
        while not closed.is_set():
            if knock(host):
                last[0] = time.perf_counter()

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=permissions)
    replied = time.perf_counter()
    closed.wait(0.1)
    closed.set()
    watcher.join()
    return 1000 * (max(last[0], begun) - begun), 1000 * (replied - begun)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    for plane in ("process", "netns"):
        with Sandbox({"plane": plane, "grace": 1}) as sandbox:
            ec2, subnet, group = network(sandbox)
            first, alone = launch(sandbox, ec2, subnet, group, 1)
            ids, together = launch(sandbox, ec2, subnet, group, options.instances)
            print(
                f"{plane:8} the first instance {1000 * alone:.0f} ms, then {options.instances} at once ",
                end="",
            )
            print(f"{1000 * together / options.instances:.0f} ms each, until they are running")
            if plane == "netns":
                found = ec2.describe_instances(InstanceIds=first)["Reservations"][0]["Instances"][0]
                host = found["PublicIpAddress"]
                took = [revoke(sandbox, ec2, host, group) for _ in range(options.rounds)]
                for name, values in zip(("last connection", "reply"), zip(*took, strict=True), strict=True):
                    middle, most = statistics.median(values), max(values)
                    print(f"revoke to {name}: median {middle:.0f} ms, most {most:.0f} ms of {len(values)}")
            ec2.terminate_instances(InstanceIds=[*first, *ids])


if __name__ == "__main__":
    main()
