"""The user data of a node in a container, under bash: Docker, login, pull, run, and every way to fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prefect_coiled.options import RegistryOptions
from prefect_coiled.plan.containers import container_image
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.plan.user_data import LIMIT, user_data
from tests.node.test_user_data import CONFIG, Machine

NUMBER = "123456789012"
HOST = f"{NUMBER}.dkr.ecr.eu-west-1.amazonaws.com"
HUB = RegistryOptions(kind="docker_hub", username="me", access_token="canary-token")
# Plays Docker: `run` gives the node its standard input.
DOCKER = """
case "$1" in
  login) cat >"$MACHINE/password" ;;
  run) for w; do printf '%s\\n' "$w"; done >"$MACHINE/run"; cat >"$MACHINE/told"; echo "node speaks" ;;
  rm) exit 1 ;;
esac
"""


def text(name: str = "v1", registry: RegistryOptions | None = None, **changes: Any) -> str:
    config = CONFIG.model_copy(update=changes)
    image = container_image(
        name, registry or RegistryOptions(), account="default", number=NUMBER, region="eu-west-1"
    )
    return user_data(config, container=image)


class Listening(Machine):
    """Its Docker reads the password before it says anything, as the real one does."""

    def command(self, name: str, body: str = "", where: Path | None = None) -> None:
        reads = "" if "login)" in body else 'case "$1" in login) cat >/dev/null ;; esac\n'
        super().command(name, reads + body if name == "docker" else body, where)


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    made = Listening(tmp_path)
    made.command("docker", DOCKER)
    made.command("aws", 'case "$*" in *get-login-password*) echo ecr-pass ;; *) echo canary-token ;; esac')
    return made


def docker(machine: Any) -> list[str]:
    return [call for call in machine.calls if call.startswith("docker")]


def test_the_node_runs_in_an_image_of_ecr_and_the_machine_powers_off_after_it(machine: Any) -> None:
    code, output = machine.run(text())
    assert code == 0, output
    reference = f"{HOST}/coiled-default:v1"
    told = [c for c in docker(machine) if not c.startswith(("docker run", "docker info", "docker rm"))]
    assert told == [
        f"docker login --username AWS --password-stdin {HOST}",
        f"docker pull --quiet {reference}",
        f"docker logout {HOST}",
    ]
    assert "aws --region eu-west-1 ecr get-login-password" in machine.calls
    assert (machine.directory / "password").read_text() == "ecr-pass"
    words = (machine.directory / "run").read_text().splitlines()
    assert words[-5:] == ["--entrypoint", "prefect-coiled-node", reference, "--config", "-"]
    assert words[words.index("--network") + 1] == "host"
    assert "--gpus" not in words
    assert NodeConfig.from_json((machine.directory / "told").read_text()) == CONFIG
    assert "node speaks" in output
    assert machine.calls[-1] == "shutdown -h now"
    assert "reason=container-ended rc=0" in output.splitlines()[-1]


def test_the_token_of_docker_hub_comes_from_ssm_and_is_no_argument_of_any_process(machine: Any) -> None:
    script = text("image:v1", HUB)
    assert "canary-token" not in script
    code, output = machine.run(script)
    assert code == 0, output
    (fetch,) = [c for c in machine.calls if c.startswith("aws")]
    assert "ssm get-parameter --name /prefect-coiled/default/c1/node/registry --with-decryption" in fetch
    assert "docker login --username me --password-stdin docker.io" in machine.calls
    assert (machine.directory / "password").read_text() == "canary-token"
    assert "canary-token" not in output + "".join(machine.calls)
    assert machine.calls.index("docker logout docker.io") < len(machine.calls) - 1


def test_a_public_image_takes_no_login(machine: Any) -> None:
    code, _ = machine.run(text("user/image:v1"))
    assert code == 0
    assert not [c for c in machine.calls if c.startswith(("aws", "docker login"))]
    assert "docker pull --quiet docker.io/user/image:v1" in machine.calls


def test_a_machine_with_a_gpu_gives_it_to_the_container(machine: Any) -> None:
    machine.run(text(gpu=True))
    words = (machine.directory / "run").read_text().splitlines()
    assert words[words.index("--gpus") + 1] == "all"


def test_docker_comes_from_the_distribution_and_is_started(machine: Any) -> None:
    (machine.bin / "docker").rename(machine.directory / "docker-of-dnf")
    machine.command("dnf", 'cp "$MACHINE/docker-of-dnf" "$MACHINE/bin/docker"')
    body = 'case "$1" in info) [ -e "$MACHINE/up" ] || exit 1 ;; esac' + DOCKER
    machine.command("docker-of-dnf", body, where=machine.directory)
    machine.command("systemctl", ': >"$MACHINE/up"')
    code, output = machine.run(text())
    assert code == 0, output
    assert "dnf install -y -q docker" in machine.calls
    assert "systemctl enable --now docker" in machine.calls


def test_under_systemd_it_is_a_unit_that_powers_off_when_the_container_or_docker_ends(machine: Any) -> None:
    (machine.root / "run/systemd/system").mkdir(parents=True)
    code, output = machine.run(text())
    assert code == 0, output
    assert machine.calls[-1] == "systemctl start --no-block prefect-coiled-node.service"
    unit = (machine.root / "etc/systemd/system/prefect-coiled-node.service").read_text()
    program = machine.root / "opt/prefect-coiled/container"
    for line in (
        f"ExecStart={program}",
        "ExecStopPost=/usr/sbin/shutdown -h now",
        "Restart=no",
        "Wants=network-online.target docker.service",
    ):
        assert line in unit.splitlines()
    # What the unit starts stands alone.
    code, output = machine.run(program.read_text())
    assert code == 0, output
    assert "node speaks" in output
    assert NodeConfig.from_json((machine.directory / "told").read_text()) == CONFIG
    machine.command("docker", 'case "$1" in run) kill -KILL $$ ;; esac')
    code, output = machine.run(program.read_text())
    assert code == 137
    assert "reason=container-ended rc=137" in output


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (127, f"there is no prefect-coiled-node in the image {HOST}/coiled-default:v1: install"),
        (125, "Docker could not run it"),
        (3, "the container ended"),
    ],
)
def test_a_container_that_ends_says_why_and_takes_the_machine_with_it(
    machine: Any, code: int, says: str
) -> None:
    machine.command("docker", f'case "$1" in run) echo "docker: own words" >&2; exit {code} ;; esac')
    got, output = machine.run(text())
    assert got == code
    assert machine.calls[-1] == "shutdown -h now"
    assert machine.calls.count("shutdown -h now") == 1
    last = output.splitlines()
    assert "docker: own words" in last[-2]
    assert f"reason=container-ended rc={code}" in last[-1]
    assert says in last[-1]


@pytest.mark.parametrize(
    ("failing", "step"),
    [("info", "getting Docker"), ("login", "logging in at"), ("pull", "pulling")],
)
def test_what_fails_before_the_container_is_named_and_powers_the_machine_off(
    machine: Any, failing: str, step: str
) -> None:
    machine.command("sleep", "[ $1 -lt 100 ] || exec /bin/sleep $1")
    # Docker reads the password before it says anything.
    read = 'case "$1" in login) cat >/dev/null ;; esac'
    says = f'case "$1" in {failing}) echo "own words of {failing}" >&2; exit 1 ;; esac'
    machine.command("docker", f"{read}\n{says}")
    machine.fails("systemctl", 1)
    code, output = machine.run(text())
    assert code == 1
    assert machine.calls[-1] == "shutdown -h now"
    assert f'step="{step}' in output.splitlines()[-1]
    assert failing == "info" or f"own words of {failing}" in output
    tries = [c for c in docker(machine) if c.startswith(f"docker {failing}")]
    assert len(tries) == (3 if failing == "pull" else 1)


def test_the_password_is_asked_for_again_while_the_role_is_new(machine: Any) -> None:
    machine.command("sleep", "[ $1 -lt 100 ] || exec /bin/sleep $1")
    machine.command("aws", '[ $(grep -c ^aws "$MACHINE/calls") -ge 3 ] || exit 254; echo ecr-pass')
    code, output = machine.run(text())
    assert code == 0, output
    assert (machine.directory / "password").read_text() == "ecr-pass"


def test_a_signal_is_handed_to_the_container(machine: Any) -> None:
    machine.command(
        "docker",
        'case "$1" in run) trap "echo ending; exit 0" TERM; echo up; while :; do sleep 0.05; done ;; esac',
    )
    process = machine.start(text())
    try:
        while "up" not in process.stdout.readline().split():
            pass
        process.terminate()
        output, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "ending" in output
    assert machine.calls[-1] == "shutdown -h now"


def test_a_signal_that_comes_as_the_container_starts_ends_it(machine: Any) -> None:
    starting = 'trap "echo ending; exit 0" TERM; kill -TERM $PPID; while :; do sleep 0.05; done'
    machine.command("docker", f'case "$1" in run) {starting} ;; esac')
    script = text()
    assert "  NODE=$!\n" in script
    # A machine that is slow just then.
    process = machine.start(script.replace("  NODE=$!\n", "  sleep 0.5\n  NODE=$!\n"))
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "ending" in output
    assert machine.calls[-1] == "shutdown -h now"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize(("name", "registry"), [("v1", None), ("image:v1", HUB), ("user/image:v1", None)])
def test_shellcheck_finds_nothing(name: str, registry: RegistryOptions | None) -> None:
    script = text(name, registry)
    done = subprocess.run(["shellcheck", "-"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_the_client_installs_nothing_and_the_script_stays_small() -> None:
    script = text()
    assert "not installed" not in script
    assert len(script.encode()) < LIMIT * 0.8
