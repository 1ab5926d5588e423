"""Addresses, routes, security groups and metadata as instances meet them."""

from __future__ import annotations

import json
import socket

import pytest

from prefect_coiled.errors import SandboxError

IDLE = "#!/bin/sh\nexec sleep 600\n"

# Tells whether AWS's endpoints answer, whenever that changes.
WAY_OUT = """#!/usr/bin/env python
import os, time, urllib.error, urllib.request
def ask(url):
    try:
        urllib.request.urlopen(url, timeout=0.7)
    except urllib.error.HTTPError:
        pass  # without a signature it is refused, and that is an answer
    except OSError:
        return "nothing"
    return "answer"
seen = {}
while True:
    for name, url in (("api", "AWS_ENDPOINT_URL"), ("s3", "AWS_ENDPOINT_URL_S3")):
        found = ask(os.environ[url])
        if seen.get(name) != found:
            seen[name] = found
            print(name, found, flush=True)
    time.sleep(0.05)
"""

METADATA = """#!/usr/bin/env python
import json, subprocess, urllib.error, urllib.request
HOST = "http://169.254.169.254/latest/"
def ask(path, method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(HOST + path, None, headers, method=method)
    try:
        return urllib.request.urlopen(request, timeout=2)
    except urllib.error.HTTPError as error:
        return error
bare = ask("meta-data/instance-id")
token = ask("api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60").read().decode()
def ip(*what):
    return subprocess.run(["ip", *what, "show", "eth0"], capture_output=True, text=True).stdout
def told(path):
    return ask(path, X_aws_ec2_metadata_token=token).read().decode()
print("TOLD", json.dumps({
    "bare": bare.status,
    "instance-id": told("meta-data/instance-id"),
    "local-ipv4": told("meta-data/local-ipv4"),
    "mac": told("meta-data/mac"),
    "document": json.loads(told("dynamic/instance-identity/document"))["instanceId"],
    "eth0": ip("link"),
    "addresses": ip("-4", "addr"),
}), flush=True)
"""


def told(box):
    line = next(line for line in box.says("TOLD").splitlines() if line.startswith("TOLD"))
    return json.loads(line.removeprefix("TOLD"))


def test_metadata_answers_at_its_real_address_to_each_its_own_and_only_with_a_token(network):
    group = network.group("any")
    boxes = [network.launch(METADATA, group), network.launch(METADATA, group)]
    assert len({box.address for box in boxes}) == 2
    for box in boxes:
        found = told(box)
        assert found["bare"] == 401
        assert found["instance-id"] == found["document"] == box.name
        assert found["local-ipv4"] == box.address
        assert f" {box.address}/20 " in found["addresses"]
        assert f" {found['mac']} " in found["eth0"]


def test_metadata_does_not_depend_on_security_groups(network):
    group = network.group("mute")
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    network.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
    assert told(network.launch(METADATA, group))["bare"] == 401


def test_nobody_is_another_by_taking_its_address(network):
    group = network.group("any")
    victim = network.launch(IDLE, group)
    thief = network.launch(
        f"#!/bin/bash\nip addr add {victim.address}/32 dev eth0\n"
        "python - <<'PY'\n"
        "import socket\n"
        f"for mine in ('', '{victim.address}'):\n"
        "    try:\n"
        "        socket.create_connection(('169.254.169.254', 80), 1, (mine, 0)).close()\n"
        "        print('as', mine or 'itself', 'open', flush=True)\n"
        "    except OSError:\n"
        "        print('as', mine or 'itself', 'nothing', flush=True)\n"
        "print('done', flush=True)\n"
        "PY\nexec sleep 600\n",
        group,
    )
    printed = thief.says("done")
    assert "as itself open" in printed
    assert f"as {victim.address} nothing" in printed


# Says what datagrams come in.
HEARS = """#!/usr/bin/env python
import socket
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(("", 5000))
while True:
    data, peer = ear.recvfrom(100)
    print("got", data.decode(), "from", peer[0], flush=True)
"""

# Sends one all the time.
SPEAKS = """#!/usr/bin/env python
import socket, time
mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    mouth.sendto(b"true", ("{target}", 5000))
    time.sleep(0.05)
"""

# Says that it has another's address, to all of its link and to the router, in the words of ARP; sends
# datagrams with addresses that are not its own; and listens for what is meant for the other.
LIES = """#!/usr/bin/env python
import socket, struct, subprocess, time
victim, target = "{victim}", "{target}"
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
wire.bind(("eth0", 0))
wire.setblocking(False)
mac = wire.getsockname()[4]
def arp(operation, of, to):
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + socket.inet_aton(of)
    return b"\\xff" * 6 + mac + b"\\x08\\x06" + body + b"\\xff" * 6 + socket.inet_aton(to)
subprocess.run(["ip", "addr", "add", victim + "/32", "dev", "eth0"], check=True)
for other in (target, "203.0.113.9"):
    subprocess.run(["ip", "addr", "add", other + "/32", "dev", "eth0"])
sniffed, end = 0, time.monotonic() + 3
while time.monotonic() < end:
    for frame in (arp(1, victim, victim), arp(2, victim, target), arp(2, victim, "{router}")):
        wire.send(frame)
    for source in (victim, "203.0.113.9"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            mouth.bind((source, 0))
            try:
                mouth.sendto(b"forged", (target, 5000))
            except OSError:
                pass
    try:
        while True:
            frame = wire.recv(2000)
            if frame[6:12] != mac and socket.inet_aton(victim) in frame[26:34]:
                sniffed += 1
    except BlockingIOError:
        pass
    time.sleep(0.05)
print("sniffed", sniffed, flush=True)
time.sleep(600)
"""


def test_nobody_speaks_or_listens_for_another_by_lies_about_addresses(network):
    trusted, heard, other = network.group("trusted"), network.group("heard"), network.group("other")
    peers = [{"GroupId": trusted}]
    flow = {"IpProtocol": "udp", "FromPort": 5000, "ToPort": 5000, "UserIdGroupPairs": peers}
    network.ec2.authorize_security_group_ingress(GroupId=heard, IpPermissions=[flow])
    target = network.launch(HEARS, heard)
    victim = network.launch(SPEAKS.format(target=target.address), trusted)
    target.says(f"got true from {victim.address}")
    router = ".".join([*victim.address.split(".")[:2], "16", "1"])
    told = {"victim": victim.address, "target": target.address, "router": router}
    thief = network.launch(LIES.format(**told), other)
    assert thief.says("sniffed ").split("sniffed ")[1].split()[0] == "0"
    before = network.sandbox.console(target.name).count("got true")
    network.until(lambda: network.sandbox.console(target.name).count("got true") > before)
    assert "forged" not in network.sandbox.console(target.name)


def test_a_private_subnet_has_no_way_out_until_its_route_to_the_nat_gateway_is_there(network):
    box = network.launch(WAY_OUT, network.group("any"))
    box.says("api nothing")
    box.says("s3 nothing")
    gateway, _ = network.nat()
    network.route(network.private_table, NatGatewayId=gateway)
    network.until(lambda: box.last("api") == box.last("s3") == "answer")
    network.ec2.delete_route(RouteTableId=network.private_table, DestinationCidrBlock="0.0.0.0/0")
    network.until(lambda: box.last("api") == box.last("s3") == "nothing")


def test_a_route_to_a_nat_gateway_that_is_gone_leads_nowhere(network):
    gateway, _ = network.nat()
    network.route(network.private_table, NatGatewayId=gateway)
    box = network.launch(WAY_OUT, network.group("any"))
    box.says("api answer")
    network.ec2.delete_nat_gateway(NatGatewayId=gateway)
    network.until(lambda: box.last("api") == "nothing")


def test_the_endpoint_of_s3_leads_to_s3_and_to_nothing_else(network):
    network.ec2.create_vpc_endpoint(
        VpcId=network.vpc,
        ServiceName="com.amazonaws.us-east-1.s3",
        VpcEndpointType="Gateway",
        RouteTableIds=[network.private_table],
    )
    network.sandbox.client("s3").create_bucket(Bucket=f"kept-{network.vpc}")
    secret = network.sandbox.info.secret_access_key
    box = network.launch(
        "#!/usr/bin/env python\n"
        "import os, boto3, botocore.config\n"
        "quick = botocore.config.Config(connect_timeout=1, retries={'total_max_attempts': 1})\n"
        f"keys = {{'aws_access_key_id': 'sandbox', 'aws_secret_access_key': {secret!r}}}\n"
        "def client(service, **options):\n"
        "    return boto3.client(service, 'us-east-1', config=quick, **keys, **options)\n"
        "print('buckets', [b['Name'] for b in client('s3').list_buckets()['Buckets']], flush=True)\n"
        "for name, options in (('api', {}), ('s3', {'endpoint_url': os.environ['AWS_ENDPOINT_URL_S3']})):\n"
        "    try:\n"
        "        client('ec2', **options).describe_vpcs()\n"
        "        print('ec2 at', name, 'answers', flush=True)\n"
        "    except Exception as error:\n"
        "        print('ec2 at', name, type(error).__name__, flush=True)\n"
        "print('done', flush=True)\n",
        network.group("any"),
    )
    printed = box.says("done")
    assert f"kept-{network.vpc}" in printed
    assert "ec2 at api ConnectTimeoutError" in printed
    assert "ec2 at s3 ClientError" in printed


def test_the_narrowest_route_wins(network, sandbox):
    gateway, _ = network.nat()
    network.route(network.private_table, NatGatewayId=gateway)
    box = network.launch(WAY_OUT, network.group("any"))
    box.says("api answer")
    other, _ = network.nat()
    block = f"{sandbox.info.client_address.rsplit('.', 1)[0]}.3/32"
    network.route(network.private_table, to=block, NatGatewayId=other)
    network.ec2.delete_nat_gateway(NatGatewayId=other)
    network.until(lambda: box.last("api") == "nothing")
    assert box.last("s3") == "answer"


def test_the_client_sees_instances_come_from_their_public_addresses(network, sandbox):
    """From a public subnet by their own, from a private one by that of the NAT gateway."""
    with socket.create_server((sandbox.info.client_address, 0)) as server:
        server.settimeout(20)
        target = (sandbox.info.client_address, server.getsockname()[1])
        group = network.group("any")
        open_box = network.looker(group, public=True, client=target)
        assert server.accept()[1][0] == open_box.public
        open_box.says("client open")
        network.ec2.terminate_instances(InstanceIds=[open_box.name])
        network.until(lambda: sandbox.instances()[open_box.name]["state"] == "terminated")
        gateway, address = network.nat()
        network.route(network.private_table, NatGatewayId=gateway)
        network.looker(group, client=target)
        network.until(lambda: server.accept()[1][0] == address)


def test_a_rule_for_a_group_lets_in_its_members_and_nobody_else(network):
    server_group, friends, others = (network.group(name) for name in ("server", "friends", "others"))
    network.allow(server_group, 7000, 7010, members=friends)
    server = network.looker(server_group, ports=(7000, 7010, 7011))
    targets = {f"p{port}": (server.address, port) for port in (7000, 7010, 7011)}
    friend = network.looker(friends, **targets)
    other = network.looker(others, **targets)
    for port, found in ((7000, "open"), (7010, "open"), (7011, "nothing")):
        friend.says(f"p{port} {found}")
        other.says(f"p{port} nothing")


def test_a_group_that_names_itself_lets_its_members_reach_each_other(network):
    group = network.group("cluster")
    one = network.looker(group, ports=(7000,))
    other = network.looker(group, one=(one.address, 7000))
    other.says("one nothing")
    network.allow(group, 1024, 65535, members=group)
    other.says("one open")


def test_what_may_not_go_out_does_not(network):
    server_group, mute = network.group("server"), network.group("mute")
    network.allow(server_group, 7000, cidr="10.77.0.0/16")
    server = network.looker(server_group, ports=(7000,))
    box = network.looker(mute, server=(server.address, 7000))
    box.says("server open")
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    network.ec2.revoke_security_group_egress(GroupId=mute, IpPermissions=everything)
    network.until(lambda: box.last("server") == "nothing")
    network.ec2.authorize_security_group_egress(
        GroupId=mute,
        IpPermissions=[
            {
                "IpProtocol": "tcp",
                "FromPort": 7000,
                "ToPort": 7000,
                "UserIdGroupPairs": [{"GroupId": server_group}],
            }
        ],
    )
    network.until(lambda: box.last("server") == "open")


def test_a_group_is_not_recognised_by_public_addresses(network):
    """https://docs.aws.amazon.com/vpc/latest/userguide/security-group-rules.html: private addresses count."""
    server_group, friends = network.group("server"), network.group("friends")
    network.allow(server_group, 7000, members=friends)
    server = network.looker(server_group, ports=(7000,), public=True)
    friend = network.looker(
        friends, public=True, private=(server.address, 7000), outside=(server.public, 7000)
    )
    friend.says("private open")
    friend.says("outside nothing")
    network.allow(server_group, 7000, cidr=f"{friend.public}/32")
    friend.says("outside open")


def test_two_vpcs_of_one_block_do_not_know_each_other(network, sandbox, until):
    other = type(network)(sandbox, until)
    try:
        here, there = network.group("any"), other.group("any")
        network.allow(here, 7000, cidr="0.0.0.0/0")
        server = network.looker(here, ports=(7000,))
        near = network.looker(here, server=(server.address, 7000))
        twin = other.launch(METADATA, there)
        far = other.looker(there, server=(server.address, 7000))
        assert twin.address == server.address
        assert far.address == near.address
        assert told(twin)["instance-id"] == twin.name
        near.says("server open")
        # There it is the twin's address, where nobody listens.
        far.says("server nothing")
    finally:
        other.end()


def test_the_admin_interface_is_not_reached_from_inside(network):
    box = network.launch(
        "#!/usr/bin/env python\n"
        "import os, urllib.request, urllib.error\n"
        "try:\n"
        "    urllib.request.urlopen(os.environ['AWS_ENDPOINT_URL'] + '/_sandbox/health', timeout=5)\n"
        "    print('answered', flush=True)\n"
        "except urllib.error.HTTPError as error:\n"
        "    print('refused with', error.code, flush=True)\n",
        network.group("any"),
        public=True,
    )
    assert "refused with 403" in box.says("refused with")


def test_names_are_not_found_and_that_at_once(network):
    box = network.launch(
        "#!/usr/bin/env python\n"
        "import socket, time\n"
        "begun = time.monotonic()\n"
        "try:\n"
        "    socket.getaddrinfo('s3.amazonaws.com', 80)\n"
        "except socket.gaierror:\n"
        "    print('not found', time.monotonic() - begun < 4, flush=True)\n",
        network.group("any"),
    )
    assert "not found True" in box.says("not found")


def test_the_client_reaches_no_private_address_even_with_a_route_to_it(network, way_in, knock):
    group = network.group("open")
    network.allow(group, 7000, cidr="0.0.0.0/0")
    box = network.looker(group, ports=(7000,), public=True)
    network.until(lambda: knock(box.public, 7000) == "open")
    assert knock(box.address, 7000) == "nothing"


def test_a_machine_that_is_unplugged_says_nothing_and_goes_on_later(network, sandbox, knock):
    group = network.group("open")
    network.allow(group, 7000, cidr="0.0.0.0/0")
    box = network.launch(
        "#!/usr/bin/env python\n"
        "import socket\n"
        "server = socket.create_server(('', 7000))\n"
        "while True:\n"
        "    peer = server.accept()[0]\n"
        "    while said := peer.recv(10):\n"
        "        peer.sendall(said)\n",
        group,
        public=True,
    )
    network.until(lambda: knock(box.public, 7000) == "open")
    with socket.create_connection((box.public, 7000), 5) as peer:
        peer.settimeout(0.7)
        peer.sendall(b"one")
        assert peer.recv(10) == b"one"
        sandbox.unplug(box.name)
        peer.sendall(b"two")
        with pytest.raises(TimeoutError):  # neither an answer nor an end
            peer.recv(10)
        assert knock(box.public, 7000) == "nothing"
        sandbox.replug(box.name)
        peer.settimeout(30)
        assert peer.recv(10) == b"two"


def test_the_data_plane_is_settled_at_the_start(sandbox):
    with pytest.raises(SandboxError, match=r'plane is ."netns." since the start'):
        sandbox.set(plane="process")
    sandbox.set(plane="netns", grace=2)


def test_an_elastic_address_leads_to_the_instance_that_has_it(network, sandbox, knock):
    group = network.group("open")
    network.allow(group, 7000, cidr=f"{sandbox.info.client_address}/32")
    box = network.looker(group, ports=(7000,), public=True)
    network.until(lambda: knock(box.public, 7000) == "open")
    made = network.ec2.allocate_address(Domain="vpc")
    assert knock(made["PublicIp"], 7000) == "nothing"
    network.ec2.associate_address(InstanceId=box.name, AllocationId=made["AllocationId"])
    assert knock(made["PublicIp"], 7000) == "open"
    assert knock(box.public, 7000) == "nothing"
