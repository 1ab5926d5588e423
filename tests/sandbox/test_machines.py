import contextlib
import json
import socket
import threading
import time

import psutil
import pytest

from prefect_coiled.sandbox.machine import ProcessMachine
from prefect_coiled.sandbox.plane import Address

DAEMONS = """#!/bin/bash
nohup sleep 601 >/dev/null 2>&1 &
setsid sleep 602 >/dev/null 2>&1 &
(setsid sh -c 'sleep 603 & exec sleep 604' >/dev/null 2>&1 &)
echo daemons are up
exec sleep 605
"""


def drain(peer):
    """Read until nothing comes; a machine without power sends no FIN, so the end must not come."""
    while peer.recv(65536):
        pass


def test_user_data_runs_with_the_environment_of_an_instance(world):
    name = world.boot("#!/bin/sh\nenv\necho the end\nexec sleep 600\n")
    printed = world.prints(name, "the end")
    inside = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    folder = str(world.sandbox.info.state_dir)
    assert inside["AWS_ENDPOINT_URL"] == world.sandbox.endpoint
    assert f"/imds/{name}/" in inside["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
    assert inside["HOME"].startswith(folder)
    assert inside["TMPDIR"].startswith(folder)
    assert inside["PATH"].startswith(f"{folder}/bin:")
    assert not [key for key in inside if "KEY" in key or "SECRET" in key]


def test_text_without_an_interpreter_line_is_not_executed(world):
    name = world.boot("touch made\necho hello\n")
    world.ec2.terminate_instances(InstanceIds=[name])
    world.reach(name, "terminated")
    assert world.sandbox.console(name) == ""


def test_an_instance_is_pending_first_and_then_running(world):
    world.sandbox.set(boot_delay=0.3)
    instance = world.run("#!/bin/sh\nexec sleep 600\n")[0]
    assert instance["State"]["Name"] == "pending"
    assert world.see(instance["InstanceId"])["State"]["Name"] == "pending"
    at = world.reach(instance["InstanceId"], "running")
    assert at["PrivateIpAddress"] == instance["PrivateIpAddress"]


def test_no_more_machines_boot_than_this_computer_holds(world, refused):
    there = sum(one["state"] != "terminated" for one in world.sandbox.instances().values())
    world.sandbox.set(most_machines=there + 2)
    first = world.run("#!/bin/sh\nexec sleep 600\n", MinCount=1, MaxCount=50)
    assert len(first) == 2
    assert refused(world.run, MinCount=1, MaxCount=1) == "InstanceLimitExceeded"
    world.sandbox.set(boot="none")
    assert len(world.run(count=5)) == 5, "what is no process takes no memory"
    world.sandbox.set(boot="process", most_machines=None)
    held = psutil.virtual_memory().total // 2**28
    assert refused(world.run, MinCount=held + 1, MaxCount=held + 1) == "InstanceLimitExceeded"


def test_a_public_address_shows_once_running_and_only_when_asked_for(world):
    interface = {"DeviceIndex": 0, "SubnetId": world.subnet, "Groups": [world.group]}
    plain = world.run("#!/bin/sh\nsleep 600", NetworkInterfaces=[interface])[0]
    asked = world.run(
        "#!/bin/sh\nsleep 600", NetworkInterfaces=[{**interface, "AssociatePublicIpAddress": True}]
    )[0]
    assert "PublicIpAddress" not in asked
    at = world.reach(asked["InstanceId"], "running")
    assert at["PublicIpAddress"] == at["PrivateIpAddress"]
    assert "PublicIpAddress" not in world.reach(plain["InstanceId"], "running")


def test_a_subnet_that_maps_public_addresses_gives_one(world):
    world.ec2.modify_subnet_attribute(SubnetId=world.subnet, MapPublicIpOnLaunch={"Value": True})
    name = world.boot()
    assert world.see(name)["PublicIpAddress"].startswith("127.")


def test_what_listens_on_the_private_address_answers_there(world, until):
    server = (
        "#!/bin/sh\nexec python -c '\nimport os, socket\n"
        'address = open(os.environ["HOME"] + "/address").read()\n'
        "s = socket.create_server((address, 9786))\n"
        'print("listening", flush=True)\n'
        "while True: s.accept()[0].sendall(address.encode())\n'\n"
    ).replace("exec python", 'while [ ! -s "$HOME/address" ]; do sleep 0.02; done\nexec python', 1)
    first, second = (i["InstanceId"] for i in world.run(server, count=2))
    for name in (first, second):
        at = world.reach(name, "running")
        home = world.sandbox.info.state_dir / name / "home"
        (home / "address").write_text(at["PrivateIpAddress"])
        world.prints(name, "listening")
        with socket.create_connection((at["PrivateIpAddress"], 9786), timeout=5) as peer:
            assert peer.recv(99).decode() == at["PrivateIpAddress"]


def test_terminate_ends_daemons_too(world, marked):
    name = world.boot(DAEMONS)
    world.prints(name, "daemons are up")
    assert len(marked(name)) >= 4
    reply = world.ec2.terminate_instances(InstanceIds=[name])["TerminatingInstances"][0]
    assert reply["CurrentState"]["Name"] == "shutting-down"
    at = world.reach(name, "terminated")
    assert marked(name) == []
    assert at["StateReason"]["Code"] == "Client.UserInitiatedShutdown"


def test_an_instance_is_shutting_down_until_its_processes_are_gone(world):
    name = world.boot("#!/bin/bash\ntrap 'sleep 0.5; exit' TERM\necho up\nwhile :; do sleep 0.05; done\n")
    world.prints(name, "up")
    world.ec2.terminate_instances(InstanceIds=[name])
    assert world.see(name)["State"]["Name"] == "shutting-down"
    world.reach(name, "terminated")


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(world, marked):
    world.sandbox.set(grace=0.3)
    name = world.boot("#!/bin/bash\ntrap '' TERM\necho up\nwhile :; do sleep 0.1; done\n")
    world.prints(name, "up")
    world.ec2.terminate_instances(InstanceIds=[name])
    world.reach(name, "terminated")
    assert marked(name) == []


def test_terminating_twice_changes_nothing(world):
    name = world.boot()
    world.ec2.terminate_instances(InstanceIds=[name])
    world.reach(name, "terminated")
    again = world.ec2.terminate_instances(InstanceIds=[name])["TerminatingInstances"][0]
    assert again["CurrentState"]["Name"] == again["PreviousState"]["Name"] == "terminated"


def test_an_instance_can_be_terminated_before_it_boots(world):
    world.sandbox.set(boot_delay=30)
    name = world.run("#!/bin/sh\necho never\n")[0]["InstanceId"]
    world.ec2.terminate_instances(InstanceIds=[name])
    world.reach(name, "terminated")
    assert world.sandbox.console(name) == ""


@pytest.mark.parametrize("command", ["shutdown -h now", "poweroff", "systemctl poweroff"])
def test_power_off_from_within_terminates_when_asked_so(world, command):
    name = world.run(f"#!/bin/sh\n{command}\nsleep 600\n", InstanceInitiatedShutdownBehavior="terminate")[0][
        "InstanceId"
    ]
    at = world.reach(name, "terminated")
    assert at["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_power_off_from_within_stops_by_default(world):
    name = world.run("#!/bin/sh\nshutdown -h now\nsleep 600\n")[0]["InstanceId"]
    at = world.reach(name, "stopped")
    assert at["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_a_shutdown_in_minutes_returns_at_once_and_can_be_cancelled(world):
    name = world.boot("#!/bin/sh\nshutdown -h +1\necho planned\nshutdown -c\necho cancelled\nsleep 600\n")
    printed = world.prints(name, "cancelled")
    assert "planned" in printed
    assert not (world.sandbox.info.state_dir / name / "pending-shutdown").exists()


def test_the_end_of_the_user_data_is_not_the_end_of_the_instance(world):
    name = world.boot("#!/bin/sh\necho done\n")
    world.prints(name, "done")
    assert world.see(name)["State"]["Name"] == "running"


def test_stop_and_start_keep_address_and_files_and_do_not_run_user_data_again(world, marked):
    name = world.boot('#!/bin/sh\necho ran >> "$HOME/runs"\necho booted\nexec sleep 600\n')
    world.prints(name, "booted")
    address = world.see(name)["PrivateIpAddress"]
    world.ec2.stop_instances(InstanceIds=[name])
    world.reach(name, "stopped")
    assert marked(name) == []
    world.ec2.start_instances(InstanceIds=[name])
    at = world.reach(name, "running")
    assert at["PrivateIpAddress"] == address
    assert (world.sandbox.info.state_dir / name / "home" / "runs").read_text() == "ran\n"


def test_reboot_ends_all_processes_and_keeps_the_instance(world, marked, until):
    name = world.boot(DAEMONS)
    world.prints(name, "daemons are up")
    before = world.sandbox.instances()[name]["pid"]
    world.ec2.reboot_instances(InstanceIds=[name])
    until(lambda: world.sandbox.instances()[name]["pid"] not in (None, before))
    assert world.reach(name, "running")
    assert marked(name) == []


def test_a_terminated_instance_cannot_be_started(world, refused):
    name = world.boot()
    world.ec2.terminate_instances(InstanceIds=[name])
    world.reach(name, "terminated")
    assert refused(world.ec2.start_instances, InstanceIds=[name]) == "IncorrectInstanceState"


def test_the_console_is_what_the_instance_printed(world, until):
    name = world.boot("#!/bin/sh\necho to the console\necho and errors >&2\nexec sleep 600\n")
    world.prints(name, "errors")
    output = world.ec2.get_console_output(InstanceId=name)["Output"]
    assert output == "to the console\nand errors\n"


def test_a_crash_kills_at_once_and_ec2_goes_on_saying_running(world, marked, until):
    name = world.boot(DAEMONS)
    world.prints(name, "daemons are up")
    world.sandbox.crash(name)
    until(lambda: marked(name) == [])
    assert world.see(name)["State"]["Name"] == "running"
    status = world.ec2.describe_instance_status(InstanceIds=[name])["InstanceStatuses"][0]
    assert status["InstanceStatus"]["Status"] == "impaired"
    world.ec2.terminate_instances(InstanceIds=[name])
    world.reach(name, "terminated")


def test_an_unplugged_instance_sends_no_fin_and_can_still_be_terminated(world, marked, until):
    name = world.boot(
        "#!/bin/sh\nexec python -c '\nimport os, socket, time\n"
        's = socket.create_server(("127.0.0.1", 0))\nprint("port", s.getsockname()[1], "!", flush=True)\n'
        'peer = s.accept()[0]\nwhile True: peer.sendall(b"x"); time.sleep(0.01)\n\'\n'
    )
    port = int(world.prints(name, "!").split()[1])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        assert peer.recv(1) == b"x"
        world.sandbox.unplug(name)
        assert {process.status() for process in marked(name)} == {psutil.STATUS_STOPPED}
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            drain(peer)
        assert world.see(name)["State"]["Name"] == "running"
        world.sandbox.replug(name)
        peer.settimeout(5)
        assert peer.recv(1) == b"x"
        world.sandbox.unplug(name)
        world.ec2.terminate_instances(InstanceIds=[name])
        world.reach(name, "terminated")
    assert marked(name) == []


def test_a_spot_interruption_gives_notice_first_and_then_takes_the_instance(world, until):
    watch = (
        "#!/bin/sh\nwhile ! python -c '\nimport os, urllib.request as u\n"
        'e = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] + "/latest/"\n'
        'h = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}\n'
        't = u.urlopen(u.Request(e + "api/token", method="PUT", headers=h)).read().decode()\n'
        'h = {"X-aws-ec2-metadata-token": t}\n'
        'print(u.urlopen(u.Request(e + "meta-data/spot/instance-action", headers=h)).read().decode())\n'
        "' 2>/dev/null; do sleep 0.05; done\nexec sleep 600\n"
    )
    name = world.boot(watch, InstanceMarketOptions={"MarketType": "spot"})
    before = time.time()
    world.sandbox.interrupt(name, 1.5)
    notice = json.loads(world.prints(name, "}"))
    assert notice["action"] == "terminate"
    at = world.reach(name, "terminated")
    assert time.time() - before >= 1.5
    assert at["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_instances_can_run_without_processes(world, marked):
    world.sandbox.set(boot="none")
    names = [i["InstanceId"] for i in world.run("#!/bin/sh\nsleep 600", count=100)]
    world.reach(names[-1], "running")
    assert marked(names[0]) == []
    world.ec2.terminate_instances(InstanceIds=names)
    assert {world.see(name)["State"]["Name"] for name in names[:3]} == {"terminated"}


def test_no_script_is_written_while_another_machine_is_being_forked(tmp_path, monkeypatch):
    """The fork would hold the script open for writing, and then nobody can execute it ("Text file busy")."""
    forking, go_on = threading.Event(), threading.Event()

    def slow_fork(*_, **__):
        forking.set()
        assert go_on.wait(10)
        raise OSError("enough")

    monkeypatch.setattr("prefect_coiled.sandbox.machine.subprocess.Popen", slow_fork)
    monkeypatch.setattr("prefect_coiled.sandbox.machine.can_separate", lambda: ())
    machines = [
        ProcessMachine(
            f"i-{n}",
            Address("127.0.0.1", "127.0.0.1"),
            tmp_path / str(n),
            tmp_path / "t" / str(n),
            b"#!/bin/sh\n",
        )
        for n in "12"
    ]
    threads = []
    for machine in machines:
        machine.folder.mkdir()
        threads.append(threading.Thread(target=_quietly, args=(machine,)))
        threads[-1].start()
        assert forking.wait(10)
    threads[1].join(0.3)
    assert [(m.folder / "user-data").exists() for m in machines] == [True, False]
    go_on.set()
    for thread in threads:
        thread.join()
    assert (machines[1].folder / "user-data").exists()


def _quietly(machine):
    with contextlib.suppress(OSError):
        machine.power_on({}, 1.0)
