import shutil
import subprocess

import pytest

from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.plan.user_data import LIMIT, Place, bake_data, check_python, user_data

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
PLACE = Place("coiled-1-us-east-1-default", f"wheels/environments/{'0' * 16}/pylock.toml", "3.11.9")


@pytest.mark.parametrize("place", [PLACE, None])
def test_it_is_a_bash_script_that_bash_accepts(place):
    text = user_data(CONFIG, place)
    assert text.startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_recipe_of_an_image_is_one_too():
    text = bake_data(PLACE, "us-east-1", 900)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert len(text.encode()) < LIMIT


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("text", [user_data(CONFIG), user_data(CONFIG, PLACE), bake_data(PLACE, "x", 1)])
def test_shellcheck_finds_nothing(text):
    done = subprocess.run(["shellcheck", "-"], input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_the_configuration_arrives_letter_by_letter():
    text = user_data(CONFIG, PLACE)
    script = text.split("if command -v prefect-coiled-node")[0].replace("trap off EXIT", "") + "\nconfig\n"
    out = subprocess.run(["bash", "-s"], input=script, text=True, capture_output=True, check=True).stdout
    assert NodeConfig.from_json(out) == CONFIG


def test_no_blank_is_left_and_the_size_does_not_depend_on_the_packages():
    text = user_data(CONFIG.model_copy(update={"worker_options": {}}), PLACE)
    assert "@" not in text.replace('"$@"', "").replace("[@]", "")
    assert len(text.encode()) < LIMIT - 7 * 1024, "as much is left for settings"


def test_options_that_do_not_fit_are_refused_with_numbers():
    config = CONFIG.model_copy(update={"worker_options": {"resources": {"x" * LIMIT: 1}}})
    with pytest.raises(OptionsError, match=r"16,384: script [\d,]+, settings [\d,]+"):
        user_data(config, PLACE)


@pytest.mark.parametrize("python", ["", "3", "3.11; rm -rf /", "2.7.1"])
def test_a_python_that_is_no_version_is_refused(python):
    with pytest.raises(OptionsError, match="python"):
        user_data(CONFIG, PLACE._replace(python=python))


@pytest.mark.parametrize("change", [{"bucket": "b/$(x)"}, {"key": "$(x)"}, {"key": "a b"}])
def test_a_place_that_is_no_address_is_refused(change):
    with pytest.raises(OptionsError, match="environment"):
        user_data(CONFIG, PLACE._replace(**change))


def test_a_python_that_needs_a_download_is_refused_where_there_is_no_way_out():
    check_python("3.10.1", way_out=True)
    check_python("3.12.1", way_out=False)
    with pytest.raises(OptionsError, match=r"Python 3.10 with egress 'none'.*3.11, 3.12, 3.13, 3.14 alone"):
        check_python("3.10.1", way_out=False)


def test_options_that_the_cluster_owns_are_refused():
    config = CONFIG.model_copy(update={"worker_options": {"security": None}})
    with pytest.raises(OptionsError, match="security"):
        user_data(config, PLACE)
