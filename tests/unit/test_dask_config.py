"""What machines get of the client's Dask configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.config
import distributed  # noqa: F401  its defaults
import pytest

from prefect_coiled.cluster.dask_config import config_to_send
from prefect_coiled.cluster.request import Request

POLICIES = "distributed.scheduler.active-memory-manager.policies"
TCP = "distributed.comm.timeouts.tcp"


def test_lists_of_mappings_arrive_and_what_cannot_travel_is_named() -> None:
    mine = [{"class": "distributed.active_memory_manager.ReduceReplicas"}] * 2
    odd = {"a.path": Path("x"), "b": {1: 2}, "c": [{"d": {3}}], "e.f": print}
    with dask.config.set({POLICIES: mine, "my.jobs": [{"a": 1}], "empty": {}, **odd}):
        sent, left = config_to_send()
    assert dask.config.get(POLICIES, config=sent) == mine
    assert dask.config.get("my.jobs", config=sent) == [{"a": 1}]
    assert json.loads(json.dumps(sent)) == sent
    assert left.keys() == {"a.path", "b", "c", "e.f"}
    assert left["b"] == "a name is int"


def test_what_is_as_dask_has_it_stays_here_and_so_does_what_is_of_this_machine() -> None:
    sent, left = config_to_send()
    assert "coiled" not in sent
    own = {"coiled.account": "x", "temporary-directory": "/tmp/x", "distributed.comm.tls.ca-file": "/x"}
    with dask.config.set(own):
        assert config_to_send() == (sent, left)


@pytest.mark.parametrize("name", ["distributed.scheduler.idle-timeout", "distributed.worker.http.routes"])
def test_what_a_cluster_sets_itself_is_said(name: str) -> None:
    with dask.config.set({name: "1 hour"}):
        sent, left = config_to_send()
    assert name in left
    assert dask.config.get(name, default=None, config=sent) is None


def test_nothing_is_sent_where_nothing_shall_be() -> None:
    with dask.config.set({"my.jobs": 1}):
        assert Request({}, send_dask_config="no").dask_config() == ({}, {})  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("said", "held"), [({}, 20.0), ({"distributed": {"comm": {"timeouts": {"tcp": "77s"}}}}, "77s")]
)
def test_a_timeout_that_the_user_set_is_kept_on_the_machine(said: dict[str, Any], held: Any) -> None:
    order = {
        "files": {"ca": "ca", "cert": "cert", "key": "key"},
        "config": {"region": "us-east-1", "account": "a", "scheduler_lost_timeout": 20.0},
        "environ": {},
        "dask_config": said,
        "scratch": "x",
    }
    code = (
        "import dask, distributed, json, sys\n"
        "from prefect_coiled.node.dask_process import settle\n"
        "settle(json.loads(sys.argv[1]))\n"
        f"print(json.dumps(dask.config.get({TCP!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(order)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == held
