"""User data before it is sent: what cloud-init itself says of it, in the strictest version that there is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from prefect_coiled.plan.containers import ContainerImage
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.plan.user_data import Place, bake_data, user_data
from tests.vm.images import Layer

STRICT = "/opt/strict/usr/lib/python3/dist-packages"
CONFIG = NodeConfig(
    account="default",
    region="eu-west-1",
    cluster="c1",
    role="worker",
    scheduler_host="10.0.0.4",
    secrets_parameter="/prefect-coiled/default/c1/node/worker",
    log_group="default",
)


def schema(bare: list[Layer], text: str) -> subprocess.CompletedProcess[str]:
    """What `cloud-init schema` says of user data."""
    root = str(bare[-1].folder)
    check = "python3 -B -m cloudinit.cmd.main schema -c /dev/stdin"
    inside = f'mount -t proc proc "{root}/proc" && exec chroot "{root}" env PYTHONPATH={STRICT} {check}'
    command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", inside]
    return subprocess.run(command, input=text, capture_output=True, text=True)


PLACE = Place("coiled-1-eu-west-1-default", f"wheels/environments/{'0' * 16}/pylock.toml", "3.11.9")
IMAGE = ContainerImage(
    reference="registry.example.com/a:1", host="registry.example.com", login="token", username="reader"
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(user_data(CONFIG, PLACE), id="worker that installs"),
        pytest.param(user_data(CONFIG.model_copy(update={"role": "scheduler"}), PLACE), id="scheduler"),
        pytest.param(user_data(CONFIG), id="image that holds the node"),
        pytest.param(user_data(CONFIG, container=IMAGE), id="container"),
        pytest.param(bake_data(PLACE, "eu-west-1", 1800), id="image to be"),
    ],
)
def test_cloud_init_has_nothing_against_the_user_data(bare: list[Layer], text: str) -> None:
    done = schema(bare, text)
    assert done.returncode == 0, done.stderr
    # It knows what it is; the script itself it does not read: that is what booting machines is for.
    assert "text/x-shellscript" in done.stdout + done.stderr


def test_this_cloud_init_refuses_a_misspelt_key(bare: list[Layer]) -> None:
    done = schema(bare, "#cloud-config\nruncmdd: [ls]\n")
    assert done.returncode != 0
    assert "runcmdd" in done.stdout + done.stderr


def test_the_scripts_of_the_image_are_clean() -> None:
    scripts = sorted(map(str, (Path(__file__).parent / "image").glob("*.sh")))
    assert len(scripts) == 5
    try:
        done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("shellcheck is not installed")
    assert done.returncode == 0, done.stdout
