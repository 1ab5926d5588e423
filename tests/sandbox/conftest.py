"""One sandbox for the whole folder; each test has a network of its own and leaves no instance."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from prefect_coiled.sandbox import Sandbox

AMI = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
DEFAULTS: dict[str, Any] = {
    "profile": "fast",
    "account": "used",
    "boot": "process",
    "boot_delay": 0,
    "grace": 2,
    "nat_pending": 0,
    "nat_deleting": 0,
    "image_pending": 0,
    "address_limit": None,
    "vpc_limit": None,
    "capacity": [],
    "most_machines": None,
}


def until(check: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Poll until the check gives something true; the bound is generous because CI is slow."""
    end = time.monotonic() + 5 * seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} s: {check}"
        time.sleep(0.02)


def marked(value: str, key: str = "PREFECT_COILED_SANDBOX_INSTANCE") -> list[psutil.Process]:
    """Live processes with the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(key) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture(scope="session", name="until")
def until_fixture() -> Callable[..., Any]:
    return until


@pytest.fixture(scope="session", name="marked")
def marked_fixture() -> Callable[..., list[psutil.Process]]:
    return marked


@pytest.fixture(scope="session")
def shared() -> Iterator[Sandbox]:
    with Sandbox(DEFAULTS) as sandbox:
        folder = str(sandbox.info.state_dir)
        yield sandbox
    assert not Path(folder).exists()
    assert marked(folder, "PREFECT_COILED_SANDBOX") == []


@pytest.fixture(scope="session")
def image(shared: Sandbox) -> str:
    return shared.client("ssm").get_parameter(Name=AMI)["Parameter"]["Value"]


@pytest.fixture
def sandbox(shared: Sandbox) -> Iterator[Sandbox]:
    yield shared
    shared.faults([])
    shared.set(**DEFAULTS)
    ec2 = shared.client("ec2")
    alive = [name for name, at in shared.instances().items() if at["state"] != "terminated" and "pid" in at]
    alive = [name for name in alive if shared.instances()[name]["region"] == "us-east-1"]
    if alive:
        ec2.terminate_instances(InstanceIds=alive)
        until(lambda: all(shared.instances()[name]["state"] == "terminated" for name in alive))
        assert not [process for name in alive for process in marked(name)]
    shared.clear_calls()


@pytest.fixture
def ec2(sandbox: Sandbox) -> Any:
    return sandbox.client("ec2")


@dataclass
class World:
    """A network of the test's own, and short ways to launch into it and look."""

    sandbox: Sandbox
    ec2: Any
    image: str
    vpc: str = ""
    subnet: str = ""
    group: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.add_subnet("10.0.0.0/20", "us-east-1a")
        self.group = self.add_group("workers")

    def add_subnet(self, block: str, zone: str) -> str:
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=block, AvailabilityZone=zone)
        return made["Subnet"]["SubnetId"]

    def add_group(self, name: str) -> str:
        made = self.ec2.create_security_group(GroupName=name, Description=name, VpcId=self.vpc)
        return made["GroupId"]

    def run(self, user_data: str | None = None, count: int = 1, **options: Any) -> list[dict[str, Any]]:
        if user_data is not None:
            options["UserData"] = user_data
        if "LaunchTemplate" not in options:
            options.setdefault("ImageId", self.image)
            options.setdefault("InstanceType", "t3.micro")
            if "NetworkInterfaces" not in options:
                options.setdefault("SubnetId", self.subnet)
        options.setdefault("MinCount", count)
        options.setdefault("MaxCount", count)
        return self.ec2.run_instances(**options)["Instances"]

    def boot(self, user_data: str = "#!/bin/sh\nexec sleep 600\n", **options: Any) -> str:
        name = self.run(user_data, **options)[0]["InstanceId"]
        self.reach(name, "running")
        return name

    def see(self, name: str) -> dict[str, Any]:
        found = self.ec2.describe_instances(InstanceIds=[name])["Reservations"]
        return found[0]["Instances"][0]

    def reach(self, name: str, state: str, seconds: float = 15.0) -> dict[str, Any]:
        return until(lambda: (at := self.see(name))["State"]["Name"] == state and at, seconds)

    def prints(self, name: str, text: str) -> str:
        return until(lambda: text in (printed := self.sandbox.console(name)) and printed)


@pytest.fixture(scope="session")
def trust() -> str:
    """The trust policy of a role for machines."""
    statement = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def world(sandbox: Sandbox, ec2: Any, image: str) -> World:
    return World(sandbox, ec2, image)


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Call, and give the code of the error that must come."""

    def call(operation: Callable[..., Any], **options: Any) -> str:
        with pytest.raises(ClientError) as caught:
            operation(**options)
        return str(caught.value.response["Error"]["Code"])

    return call
