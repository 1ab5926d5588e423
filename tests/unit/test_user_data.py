import random
import shutil
import subprocess

import pytest

from prefect_coiled.environment import DISTRIBUTION, LocalPackage
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.plan.user_data import LIMIT, user_data

CONFIG = NodeConfig(
    account="default",
    region="us-east-1",
    cluster="c1",
    role="worker",
    scheduler_host="10.0.0.4",
    secrets_parameter="/prefect-coiled/default/c1/node/worker",
    log_group="default",
    worker_options={"resources": {"it's $(a) `b` @PYTHON@": 1}},
)
OWN = f"{DISTRIBUTION}==0.1.0"


def test_it_is_a_bash_script_that_bash_accepts():
    text = user_data(CONFIG, [OWN, "dask==2026.1.0"], "3.11.9")
    assert text.startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("image_ready", [True, False])
def test_shellcheck_finds_nothing(image_ready):
    text = user_data(CONFIG, [OWN], "3.11.9", image_ready=image_ready)
    done = subprocess.run(["shellcheck", "-"], input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_the_configuration_arrives_letter_by_letter():
    text = user_data(CONFIG, [OWN], "3.11")
    script = text.split("if command -v prefect-coiled-node")[0].replace("trap off EXIT", "") + "\nconfig\n"
    out = subprocess.run(["bash", "-s"], input=script, text=True, capture_output=True, check=True).stdout
    assert NodeConfig.from_json(out) == CONFIG


def test_the_packages_arrive_letter_by_letter():
    text = user_data(CONFIG, [OWN, "dask==2026.1.0"], "3.11")
    script = text.split("if command -v prefect-coiled-node")[0] + "\nrequirements\n"
    out = subprocess.run(["bash", "-s"], input=script, text=True, capture_output=True, check=True).stdout
    assert out.split() == [OWN, "dask==2026.1.0"]


def test_250_packages_fit():
    letters = random.Random(1)
    packages = [
        "".join(letters.choices("abcdefghijklmnopqrstuvwxyz-", k=12)) + f"=={letters.randint(0, 99)}.{i}.1"
        for i in range(250)
    ]
    assert len(user_data(CONFIG, [OWN, *packages], "3.11.9").encode()) < LIMIT


def test_too_many_packages_are_refused_with_numbers():
    letters = random.Random(1)
    packages = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=30)) for _ in range(900)]
    with pytest.raises(OptionsError, match=r"16,384: script [\d,]+, settings \d+, list of 901 packages"):
        user_data(CONFIG, [OWN, *packages], "3.11.9")


def test_a_bare_machine_needs_this_package_from_somewhere():
    with pytest.raises(OptionsError, match="not among"):
        user_data(CONFIG, ["dask==1"], "3.11")
    with pytest.raises(OptionsError, match="find_links"):
        user_data(CONFIG, [LocalPackage(OWN)], "3.11")
    assert "s3://bucket/wheels/" in user_data(
        CONFIG, [LocalPackage(OWN)], "3.11", find_links="s3://bucket/wheels/"
    )
    user_data(CONFIG, [LocalPackage(OWN)], "3.11", image_ready=True)


def test_other_local_packages_are_left_out_and_named():
    text = user_data(CONFIG, [OWN, LocalPackage("mine==1")], "3.11")
    assert "left out, installed from a directory: mine==1" in text


@pytest.mark.parametrize("python", ["", "3", "3.11; rm -rf /", "2.7.1"])
def test_a_python_that_is_no_version_is_refused(python):
    with pytest.raises(OptionsError, match="python"):
        user_data(CONFIG, [OWN], python)


def test_a_place_for_wheels_that_is_no_s3_address_is_refused():
    with pytest.raises(OptionsError, match="find_links"):
        user_data(CONFIG, [OWN], "3.11", find_links="s3://b/$(x)")


def test_options_that_the_cluster_owns_are_refused():
    config = CONFIG.model_copy(update={"worker_options": {"security": None}})
    with pytest.raises(OptionsError, match="security"):
        user_data(config, [OWN], "3.11")
