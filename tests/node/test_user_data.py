"""The user data under bash: straight to the node, from a bare machine, and every way to fail."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from prefect_coiled.environment import DISTRIBUTION, LocalPackage
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.plan.user_data import user_data
from tests.node.conftest import until

OWN = f"{DISTRIBUTION}==0.1.0"
CONFIG = NodeConfig(
    account="default",
    region="eu-west-1",
    cluster="c1",
    role="worker",
    scheduler_host="10.0.0.4",
    secrets_parameter="/prefect-coiled/default/c1/node/worker",
    log_group="default",
)


class Machine:
    """A directory that plays a bare machine: its root, and commands that record their calls."""

    def __init__(self, directory):
        self.directory = directory
        self.root = directory / "root"
        self.bin = directory / "bin"
        self.root.mkdir()
        self.bin.mkdir()
        self.calls_path = directory / "calls"
        for name in ("bash", "sh", "base64", "cat", "chmod", "cp", "date", "grep", "gzip", "kill", "mkdir"):
            (self.bin / name).symlink_to(shutil.which(name))
        for name in ("sleep", "wc"):
            (self.bin / name).symlink_to(shutil.which(name))
        self.command("shutdown")
        self.command("systemctl")
        self.command("dnf")
        self.command("aws")
        # `python3 -m venv DIR` makes a python, whose `-m pip install uv` makes a uv, which makes the rest.
        self.command(
            "python3",
            'mkdir -p "$3/bin"; cp "$MACHINE/boot-python" "$3/bin/python"; cp "$MACHINE/uv" "$3/bin/uv"',
        )
        self.command("boot-python", where=directory)
        self.command(
            "uv",
            """
            if [ "$1" = venv ]; then
              mkdir -p "$5/bin"; cp "$MACHINE/bin/cat" "$5/bin/python"
            else
              for last; do :; done
              cp "$last" "$MACHINE/requirements"
              cp "$MACHINE/node" "${5%/python}/prefect-coiled-node"
            fi
            """,
            where=directory,
        )
        self.command("node", 'cat >"$MACHINE/told"; echo "node speaks"', where=directory)

    def command(self, name, body="", where=None):
        path = (where or self.bin) / name
        path.unlink(missing_ok=True)
        path.write_text(
            f'#!/bin/bash\nMACHINE={self.directory}\necho "${{0##*/}} $*" >>{self.calls_path}\n{body}\n'
        )
        path.chmod(0o755)

    def fails(self, name, code=9, where=None):
        self.command(name, f"echo {name} is out of order; exit {code}", where)

    def start(self, text, **environ):
        script = self.directory / "user-data"
        script.write_text(text)
        script.chmod(0o755)
        env = {"PATH": str(self.bin), "PREFECT_COILED_ROOT": str(self.root), **environ}
        return subprocess.Popen(
            [str(script)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, text, **environ):
        process = self.start(text, **environ)
        try:
            output, _ = process.communicate(timeout=20)
        finally:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        # Nothing of it stays, the guard neither: communicate() would have waited for its output.
        return process.returncode, output

    @property
    def calls(self):
        text = self.calls_path.read_text() if self.calls_path.exists() else ""
        return [line.replace(str(self.root), "") for line in text.splitlines()]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_where_the_image_holds_the_node_it_starts_at_once(machine):
    machine.command("prefect-coiled-node", 'cat >"$MACHINE/told"')
    code, output = machine.run(user_data(CONFIG, [], "3.11", image_ready=True))
    assert (code, machine.calls) == (0, ["prefect-coiled-node --config -"])
    assert NodeConfig.from_json((machine.directory / "told").read_text()) == CONFIG
    assert "starting node" in output


def test_a_node_that_fails_takes_the_machine_with_it(machine):
    machine.fails("prefect-coiled-node", 7)
    code, output = machine.run(user_data(CONFIG, [], "3.11", image_ready=True))
    assert code == 7
    assert machine.calls[-1] == "shutdown -h now"
    assert 'reason=node-ended step="starting node" rc=7; powering off' in output.splitlines()[-1]


def test_a_signal_is_handed_to_the_node_which_ends_in_its_own_time(machine):
    machine.command(
        "prefect-coiled-node",
        'trap "echo ending; sleep 0.3; echo ended; exit 0" TERM; echo up; while :; do sleep 0.05; done',
    )
    process = machine.start(user_data(CONFIG, [], "3.11", image_ready=True))
    while "up" not in process.stdout.readline():
        pass
    process.terminate()
    output, _ = process.communicate(timeout=10)
    assert output.split() == ["ending", "ended"]
    assert process.returncode == 0


def test_a_bare_machine_installs_and_starts_a_unit(machine):
    (machine.root / "run/systemd/system").mkdir(parents=True)
    packages = [OWN, "dask==2026.1.0"]
    code, output = machine.run(user_data(CONFIG, packages, "3.11.9"))
    assert code == 0, output
    base = "/opt/prefect-coiled"
    assert machine.calls == [
        f"python3 -m venv {base}/boot",
        "python -m pip install --quiet --disable-pip-version-check uv",
        f"uv venv --quiet --python 3.11.9 {base}/env",
        f"uv pip install --quiet --python {base}/env/bin/python -r {base}/requirements.txt",
        "systemctl daemon-reload",
        "systemctl enable prefect-coiled-node.service",
        "systemctl start --no-block prefect-coiled-node.service",
    ]
    assert (machine.directory / "requirements").read_text().split() == packages
    assert NodeConfig.from_json((machine.root / "etc/prefect-coiled/node.json").read_text()) == CONFIG
    unit = (machine.root / "etc/systemd/system/prefect-coiled-node.service").read_text()
    for line in ("ExecStopPost=/usr/sbin/shutdown -h now", "Restart=no", "WantedBy=multi-user.target"):
        assert line in unit.splitlines()
    steps = ["getting uv", "making Python 3.11.9", "installing 2 packages", "starting node"]
    assert [output.index(step) for step in steps] == sorted(output.index(step) for step in steps)


def test_a_bare_machine_without_systemd_runs_the_node_itself(machine):
    code, output = machine.run(user_data(CONFIG, [OWN], "3.11"))
    assert code == 0, output
    assert "node speaks" in output
    assert machine.calls[-1] == "prefect-coiled-node --config -"
    assert NodeConfig.from_json((machine.directory / "told").read_text()) == CONFIG


def test_wheels_are_copied_with_the_instances_role_before_installing(machine):
    text = user_data(CONFIG, [LocalPackage(OWN)], "3.11", find_links="s3://bucket/wheels/")
    code, output = machine.run(text)
    assert code == 0, output
    wheels = "/opt/prefect-coiled/wheels"
    copy = f"aws --region eu-west-1 s3 cp --only-show-errors --recursive s3://bucket/wheels/ {wheels}"
    assert copy in machine.calls
    [install] = [call for call in machine.calls if call.startswith("uv pip")]
    assert f"--find-links={wheels}" in install
    assert machine.calls.index(copy) < machine.calls.index(install)


def test_git_comes_only_where_a_package_needs_it(machine):
    machine.run(user_data(CONFIG, [OWN, "x @ git+https://host/x@abc"], "3.11"))
    assert "dnf install -y -q git-core" in machine.calls


def test_a_baked_environment_is_taken_as_it_is(machine):
    baked = machine.root / "opt/prefect-coiled/env/bin"
    baked.mkdir(parents=True)
    machine.command("prefect-coiled-node", 'echo "baked node"', where=baked)
    code, output = machine.run(user_data(CONFIG, [], "3.11", image_ready=True))
    assert (code, machine.calls) == (0, ["prefect-coiled-node --config -"]), output


def test_python_comes_from_the_distribution_where_no_download_works(machine):
    machine.command(
        "uv",
        """
        [ "$1" = venv ] && ! grep -q ^dnf "$MACHINE/calls" && exit 2
        if [ "$1" = venv ]; then mkdir -p "$5/bin"; exit; fi
        cp "$MACHINE/node" "${5%/python}/prefect-coiled-node"
        """,
        where=machine.directory,
    )
    code, output = machine.run(user_data(CONFIG, [OWN], "3.12.4"))
    assert code == 0, output
    versions = [call.split()[4] for call in machine.calls if call.startswith("uv venv")]
    assert versions == ["3.12.4", "3.12", "3.12"]
    assert "dnf install -y -q python3.12" in machine.calls


@pytest.mark.parametrize(
    ("name", "step", "packages", "options"),
    [
        ("python3", "getting uv", [OWN], {}),
        ("boot-python", "getting uv", [OWN], {}),
        ("uv", "making Python 3.11", [OWN], {}),
        ("aws", "copying wheels", [OWN], {"find_links": "s3://b/w/"}),
        ("dnf", "getting git", [OWN, "x @ git+https://h/x@1"], {}),
        ("node", "starting node", [OWN], {}),
        ("systemctl", "starting node", [OWN], {}),
    ],
)
def test_whatever_fails_on_a_bare_machine_is_named_and_powers_it_off(machine, name, step, packages, options):
    where = machine.directory if name in ("boot-python", "uv", "node") else None
    machine.fails(name, 9, where)
    if name == "dnf":
        (machine.root / "run").mkdir()
    if name == "systemctl":
        (machine.root / "run/systemd/system").mkdir(parents=True)
    code, output = machine.run(user_data(CONFIG, packages, "3.11", **options))
    assert code == 9, output
    assert machine.calls[-1] == "shutdown -h now"
    assert machine.calls.count("shutdown -h now") == 1
    last = output.splitlines()[-1]
    assert f'step="{step}' in last
    assert "rc=9; powering off" in last
    assert f"{name} is out of order" in output


def test_an_image_that_should_hold_the_node_and_does_not_powers_off(machine):
    code, output = machine.run(user_data(CONFIG, [], "3.11", image_ready=True))
    assert (code, machine.calls) == (127, ["shutdown -h now"])
    assert "finding prefect-coiled-node in the image" in output


def test_nothing_is_installed_into_the_machine_that_a_sandbox_runs_on(machine):
    endpoint = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}
    code, _ = machine.run(user_data(CONFIG, [OWN], "3.11"), **endpoint)
    assert (code, machine.calls) == (127, ["shutdown -h now"])
    assert not (machine.root / "opt").exists()


def test_a_boot_that_takes_too_long_powers_off(machine):
    machine.command("python3", "sleep 30")
    config = CONFIG.model_copy(update={"boot_timeout": 1})
    process = machine.start(user_data(config, [OWN], "3.11"))
    try:
        until(lambda: "shutdown -h now" in machine.calls, 10, "power-off")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=10)
    assert "reason=boot-timeout after 1 s" in output


def test_the_script_holds_nothing_but_its_configuration(machine):
    text = user_data(CONFIG, [OWN], "3.11")
    line = next(line for line in text.splitlines() if line.startswith("{"))
    assert json.loads(line) == json.loads(CONFIG.to_json())
    assert not any(word in text for word in ("PRIVATE KEY", "AWS_SECRET", "password"))
