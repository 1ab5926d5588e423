"""Whatever dies, nothing is left: neither with a pid namespace for each instance nor without."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from prefect_coiled.sandbox.machine import can_separate

# A parent that starts a sandbox and an instance full of daemons, tells where, and waits to be killed.
PARENT = """
import json, sys, time
from prefect_coiled.sandbox import Sandbox
daemons = '''#!/bin/bash
nohup sleep 601 >/dev/null 2>&1 &
setsid sleep 602 >/dev/null 2>&1 &
(setsid sh -c "sleep 603 & exec sleep 604" >/dev/null 2>&1 &)
exec sleep 605
'''
with Sandbox({"grace": 1}) as sandbox:
    ec2, ssm = sandbox.client("ec2"), sandbox.client("ssm")
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    image = ssm.get_parameter(Name=name)["Parameter"]["Value"]
    launched = ec2.run_instances(ImageId=image, MinCount=2, MaxCount=2, UserData=daemons)["Instances"]
    ids = [i["InstanceId"] for i in launched]
    told = {"ids": ids, "pid": sandbox.info.pid, "folder": str(sandbox.info.state_dir)}
    print(json.dumps(told), flush=True)
    time.sleep(600)
"""
FORMS = ["separate", "plain"] if can_separate() else ["plain"]


@pytest.fixture(params=FORMS)
def parent(request, until, marked):
    environ = {**os.environ, "PREFECT_COILED_SANDBOX_PIDNS": "1" if request.param == "separate" else "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True
    )
    told = json.loads(process.stdout.readline())
    until(lambda: all(len(marked(name)) >= 5 for name in told["ids"]))
    yield process, told
    process.kill()
    process.wait()
    process.stdout.close()


def left(told, marked):
    found = [*marked(told["folder"], "PREFECT_COILED_SANDBOX")]
    for name in told["ids"]:
        found += marked(name)
    return found


def test_nothing_is_left_when_the_parent_is_killed(parent, until, marked):
    process, told = parent
    process.kill()
    until(lambda: not left(told, marked))
    until(lambda: not psutil.pid_exists(told["pid"]))
    assert not Path(told["folder"]).exists()


def test_nothing_is_left_when_the_server_is_killed(parent, until, marked):
    process, told = parent
    os.kill(told["pid"], signal.SIGKILL)
    until(lambda: not left(told, marked))
    process.send_signal(signal.SIGINT)
    process.wait(timeout=300)
    assert not Path(told["folder"]).exists()


@pytest.mark.parametrize("parent", FORMS[:1], indirect=True)
def test_nothing_is_left_after_ctrl_c(parent, until, marked):
    process, told = parent
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=300)
    assert not left(told, marked)
    assert not Path(told["folder"]).exists()
