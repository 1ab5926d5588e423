"""The whole life of an account on AWS emulators that others wrote: `make emulators`.

They think of AWS as other people do. Each runs in an environment of its own (`EMULATORS`, made by that
target), and nothing boots in them: a cluster's start fails there, and has to leave nothing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import httpx
import pytest
from typer.testing import CliRunner, Result

from prefect_coiled import Cluster, set_backend_options
from prefect_coiled.cli import app
from prefect_coiled.errors import PrefectCoiledError
from prefect_coiled.saved_accounts import reset_account

FOLDER = Path(os.environ.get("EMULATORS", ".emulators"))
COMMANDS = {
    "ministack": (["ministack"], "GATEWAY_PORT"),
    "localemu": (["localemu", "start", "--host", "127.0.0.1", "--port", "{port}"], ""),
}
KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "secret"}


class Emulator(NamedTuple):
    """One that runs."""

    name: str
    endpoint: str

    def client(self, service: str) -> Any:
        return boto3.client(service, "us-east-1", endpoint_url=self.endpoint, **KEYS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def emulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    command, variable = COMMANDS[request.param]
    program = FOLDER.absolute() / request.param / "bin" / command[0]
    if not program.exists():
        pytest.skip(f"{program} is not there: make emulators")
    port, home = free_port(), tmp_path_factory.mktemp(request.param)
    environ = {"HOME": str(home), "PATH": f"{program.parent}:/usr/bin:/bin", "LOCALEMU_VOLUME_DIR": str(home)}
    environ |= {variable: str(port)} if variable else {}
    arguments = [part.format(port=port) for part in command[1:]]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([program, *arguments], env=environ, cwd=home, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        limit = time.monotonic() + 120
        while True:
            try:
                httpx.get(endpoint, timeout=5)
                break
            except httpx.HTTPError:
                assert process.poll() is None, (home / "log").read_text()
                assert time.monotonic() < limit, (home / "log").read_text()
                time.sleep(0.2)
        yield Emulator(request.param, endpoint)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def account(emulator: Emulator, prefect_server: None) -> Iterator[str]:
    set_backend_options(account="emulated", endpoint_url=emulator.endpoint, aws_region="us-east-1", **KEYS)
    yield "emulated"
    reset_account("emulated")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def there(emulator: Emulator) -> dict[str, list[str]]:
    """What the emulator holds, whoever made it, but for what it has from the start."""
    ec2, iam = emulator.client("ec2"), emulator.client("iam")
    tables = [t for t in ec2.describe_route_tables()["RouteTables"] if t.get("Tags")]
    machines = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    groups = [g for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"]
    nats = [
        n for n in ec2.describe_nat_gateways()["NatGateways"] if n["State"] not in ("deleted", "deleting")
    ]
    parameters = [p["Name"] for p in emulator.client("ssm").describe_parameters()["Parameters"]]
    return {
        "vpcs": [v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"] if not v["IsDefault"]],
        "subnets": [s["SubnetId"] for s in ec2.describe_subnets()["Subnets"] if s.get("Tags")],
        "gateways": [
            g["InternetGatewayId"]
            for g in ec2.describe_internet_gateways()["InternetGateways"]
            if g.get("Tags")
        ],
        "route tables": [t["RouteTableId"] for t in tables],
        "NAT gateways": [n["NatGatewayId"] for n in nats],
        "addresses": [a["AllocationId"] for a in ec2.describe_addresses()["Addresses"]],
        "groups": [g["GroupId"] for g in groups],
        "templates": [t["LaunchTemplateId"] for t in ec2.describe_launch_templates()["LaunchTemplates"]],
        "instances": [
            i["InstanceId"] for i in machines if i["State"]["Name"] not in ("terminated", "shutting-down")
        ],
        "roles": [r["RoleName"] for r in iam.list_roles()["Roles"] if "/aws-service-role/" not in r["Path"]],
        "profiles": [p["InstanceProfileName"] for p in iam.list_instance_profiles()["InstanceProfiles"]],
        "buckets": [b["Name"] for b in emulator.client("s3").list_buckets()["Buckets"]],
        "log groups": [g["logGroupName"] for g in emulator.client("logs").describe_log_groups()["logGroups"]],
        "parameters": [p for p in parameters if not p.startswith("/aws/")],
    }


def test_the_whole_life_of_an_account(emulator: Emulator, account: str) -> None:
    before = there(emulator)
    for _ in range(2):
        done = run("setup", "region", "--account", account)
        assert done.exit_code == 0, done.output
    made = there(emulator)
    assert [len(made[kind]) - len(before[kind]) for kind in ("vpcs", "NAT gateways", "roles", "buckets")] == [
        1
    ] * 4
    listed = run("resources", "--account", account)
    assert listed.exit_code == 0, listed.output
    assert all(vpc in listed.output for vpc in made["vpcs"] if vpc not in before["vpcs"])

    with pytest.raises(PrefectCoiledError) as failed:
        Cluster(n_workers=1, name="nothing-boots", account=account, timeout=20, quiet=True)
    assert "Nothing is left running" in str(failed.value), failed.value
    assert there(emulator) == made

    destroyed = run("account", "destroy", account, "--yes")
    left = {kind: [x for x in ids if x not in before[kind]] for kind, ids in there(emulator).items()}
    left = {kind: ids for kind, ids in left.items() if ids}
    # Nothing of it is left; or what is left is said, with another status than 0.
    assert (destroyed.exit_code == 0) == (not left), (left, destroyed.output)
    assert all(one in destroyed.output for ids in left.values() for one in ids), (left, destroyed.output)
    # LocalEmu keeps the address of a deleted NAT gateway associated; AWS lets go of it.
    # https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-working-with.html
    assert set(left) <= ({"addresses"} if emulator.name == "localemu" else set()), (left, destroyed.output)
