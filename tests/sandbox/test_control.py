import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from typer.testing import CliRunner

from prefect_coiled.cli import app
from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox import Sandbox, control
from prefect_coiled.sandbox.addresses import Addresses
from prefect_coiled.sandbox.info import ask

ENSURE = "from prefect_coiled.sandbox import ensure_started as e; i = e(); print(i.pid, i.endpoint)"


def python(code, environ=None):
    """What a program of its own prints."""
    environ = {**os.environ, **(environ or {})}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environ).stdout.strip()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without a background sandbox."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path
    control.stop()
    assert control.status() is None


def test_importing_the_package_loads_neither_moto_nor_boto3():
    heavy = {"moto", "boto3", "psutil"}
    code = f"import sys, prefect_coiled.sandbox; print({heavy} & set(sys.modules))"
    assert python(code) == "set()"


@pytest.mark.long
def test_two_that_start_at_once_get_the_same_sandbox(home):
    with ThreadPoolExecutor(3) as pool:
        told = set(pool.map(python, [ENSURE] * 3))
    assert len(told) == 1
    info = control.status()
    assert info is not None
    assert told == {f"{info.pid} {info.endpoint}"}
    assert control.ensure_started() == info
    assert info.state_dir.is_relative_to(home)

    # A dead one is replaced.
    os.kill(info.pid, signal.SIGKILL)
    again = control.ensure_started()
    assert again.pid != info.pid
    assert control.status() == again

    assert control.stop() is True
    assert control.status() is None
    assert control.stop() is False
    left = sorted(path.name for path in info.state_dir.iterdir())
    assert left == ["lock", "server.log"]


def test_the_background_sandbox_ends_by_itself_without_calls_and_instances(home, until):
    info = control.start(idle=2.0)
    until(lambda: control.status() is None)
    until(lambda: not psutil.pid_exists(info.pid))


@pytest.mark.long
def test_a_sandbox_whose_folder_is_gone_ends_and_leaves_the_next_one_alone(home, until):
    info = control.start()
    shutil.rmtree(info.state_dir)
    until(lambda: not psutil.pid_exists(info.pid))
    again = control.start()
    info.state_dir.rename(home / "elsewhere")
    other = control.start()
    until(lambda: not psutil.pid_exists(again.pid))
    assert control.status() == other


@pytest.mark.long
def test_a_start_that_fails_tells_what_it_said_itself_and_not_an_earlier_one(home):
    control.start()
    control.stop()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SandboxError) as told:
        control.start(port=taken.getsockname()[1])
    assert "in use" in str(told.value)
    assert "sandbox at" not in str(told.value)


@pytest.mark.parametrize("place", ["/proc/nope", "/dev/null"])
def test_a_folder_that_cannot_be_made_is_told_in_one_line(place, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", place)
    for words in ("sandbox start", "ls"):
        told = CliRunner().invoke(app, words.split())
        assert told.exit_code == 1
        assert f"its folder {place}/prefect-coiled/" in told.stderr
        assert "Set XDG_STATE_HOME to a folder of your own." in told.stderr


# A user whom the machine does not know, as one has it in a container that runs by a number.
HOMELESS = "import pwd; pwd.getpwuid = lambda uid: {}[uid]\nfrom prefect_coiled.cli import app, names\n"
OWN_FOLDER = (
    "Error: finding the sandbox: it keeps its files in the home folder, and this user has none. "
    "Set XDG_STATE_HOME to a folder of your own.\n"
)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("app(['sandbox', 'status'])", OWN_FOLDER),
        ("app(['sandbox', 'start'])", OWN_FOLDER),
        (
            "app(['account', 'list'])",
            "Error: prefect-coiled account list: Prefect needs a home folder, and this user has none. "
            "Set HOME to a folder of your own.\n",
        ),
        ("names.saw_clusters('a', 'b', ['c']); assert names.clusters('') == []", ""),
    ],
)
def test_who_has_no_home_is_told_so_in_one_line_and_completion_does_without(code, said):
    environ = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_STATE_HOME")}
    command = [sys.executable, "-c", HOMELESS + code]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (bool(said), "")
    assert done.stderr.endswith(said)
    assert "Traceback" not in done.stderr


def test_the_command_line_starts_a_realistic_sandbox_of_a_fresh_account(home):
    asked = ["sandbox", "start", "--profile", "realistic", "--account", "fresh"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    info = control.status()
    assert (info.profile, info.account) == ("realistic", "fresh")
    settings = ask(info.endpoint, "GET", "settings", secret=info.secret_access_key)
    assert (settings["rates"], settings["nat_pending"], settings["free_plan"]) == ("on", 90.0, True)
    # What asks for nothing takes it as it is; what asks for another one is told.
    assert control.ensure_started() == info
    with pytest.raises(SandboxError, match='whose account is "fresh"'):
        control.start(settings={"account": "used"})


@pytest.mark.long
def test_an_attached_sandbox_ends_with_its_process(home, until):
    code = (
        "import gc; from prefect_coiled.sandbox import start, status; pid = start(detach=False).pid\n"
        "gc.collect(); assert status().pid == pid; print(pid)"
    )
    pid = int(python(code))
    until(lambda: not psutil.pid_exists(pid))


def test_a_sandbox_that_cannot_start_says_why():
    with pytest.raises(SandboxError, match="no such setting: colour"):
        Sandbox({"colour": "blue"})


def test_the_environment_leads_clients_to_the_sandbox(sandbox):
    code = "import boto3; print(boto3.client('ec2').describe_availability_zones()['AvailabilityZones'])"
    assert "eu-west-1a" in python(code, sandbox.environment("eu-west-1"))


def test_two_sandboxes_do_not_share_addresses(world):
    with Sandbox({"boot": "none"}) as other:
        ec2 = other.client("ec2")
        launched = ec2.run_instances(ImageId=world.image, MinCount=1, MaxCount=1)["Instances"][0]
        world.sandbox.set(boot="none")
        (mine,) = world.run()
        blocks = {instance["PrivateIpAddress"].split(".")[1] for instance in (launched, mine)}
        assert len(blocks) == 2 or other.addresses == "one"
        # One that waits for its boot must not come up after the reset.
        other.set(boot="process", boot_delay=0.5)
        late = ec2.run_instances(ImageId=world.image, MinCount=1, MaxCount=1, UserData="#!/bin/sh\nsleep 9")
        before = len(other.calls())
        other.reset()
        assert before > 0
        assert other.calls() == []
        assert other.instances() == {}
        assert ec2.describe_instances()["Reservations"] == []
        assert not (other.info.state_dir / late["Instances"][0]["InstanceId"]).exists()


def test_with_one_address_all_share_it_and_the_sandbox_gives_free_ports(monkeypatch):
    addresses = Addresses("one")
    assert [addresses.take(), addresses.take()] == ["127.0.0.1", "127.0.0.1"]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Addresses().form == "one"


def test_each_address_of_a_block_is_one_and_they_come_round():
    addresses = Addresses("many")
    try:
        given = []
        for _ in range(65_000):
            given.append(addresses.take())
            addresses.give_back(given[-1])
    finally:
        addresses.close()
    assert all(str(ipaddress.ip_address(address)) == address for address in given)
    assert len(set(given)) == given.index(given[0], 1) > 60_000


def test_a_free_port_can_be_listened_on(sandbox):
    with socket.create_server(("127.0.0.1", sandbox.free_port())):
        pass
