"""A remote cluster needs a Prefect API that its machines can reach."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_coiled.errors import OptionsError
from prefect_coiled.task_runner.api_url import (
    ALWAYS,
    NEVER,
    check_api_url,
    choose_way,
    is_loopback,
    is_private,
)

LOOPBACK = [
    "http://127.0.0.1:4200/api",
    "http://127.8.8.8/api",
    "http://localhost:4200/api",
    "http://LOCALHOST./api",
    "http://[::1]:4200/api",
    "http://0.0.0.0:4200/api",
    "http://[::]:4200/api",
    "http://[::ffff:127.0.0.1]:4200/api",
    "http://[fe80::1%25eth0]:4200/api",
    "http://169.254.1.1:4200/api",
    "http://127.1:4200/api",
    "http://localhost.localdomain:4200/api",
]


@pytest.mark.parametrize("url", LOOPBACK)
def test_a_loopback_api_is_refused_for_a_remote_cluster(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(OptionsError, match="an address of this machine alone"):
            check_api_url(shares_loopback=False)
        check_api_url(shares_loopback=True)


def test_an_unset_api_is_refused_for_a_remote_cluster() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        with pytest.raises(OptionsError, match="PREFECT_API_URL is not set"):
            check_api_url(shares_loopback=False)
        check_api_url(shares_loopback=True)


PUBLIC = ["https://8.8.8.8/api/accounts/a", "http://[2600:1f18::5]:4200/api"]
PRIVATE = ["http://10.0.0.5:4200/api", "http://192.168.1.2:4200/api", "http://[fd00::1]:4200/api"]


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_api_is_accepted_without_a_word(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        assert check_api_url(shares_loopback=False) == ""


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_address_is_accepted_with_a_remark(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        assert f"PREFECT_API_URL is {url}, a private address" in check_api_url(shares_loopback=False)
        assert check_api_url(shares_loopback=True) == ""


@pytest.mark.parametrize("url", [*LOOPBACK, *PRIVATE])
def test_where_machines_may_not_reach_the_api_the_flows_process_asks_it(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        way = choose_way(shares_loopback=False)
        assert way.relay
        assert f"through this process, which keeps its key: {url} is " in str(way)
        assert not choose_way(shares_loopback=True).relay


def test_prefects_temporary_server_is_asked_by_the_flows_process() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        way = choose_way(shares_loopback=False)
        assert way.relay
        assert "PREFECT_API_URL is not set" in str(way)


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_api_is_asked_by_tasks_themselves_unless_machines_have_no_way_out(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        way = choose_way(shares_loopback=False)
        assert str(way) == f"Tasks ask the Prefect API themselves: {url} is a public address"
        shut = choose_way(shares_loopback=False, has_egress=lambda: False)
        assert shut.relay
        assert f"the machines have no way to {url}, as egress is 'none'" in str(shut)


def test_what_is_asked_for_holds() -> None:
    with temporary_settings({PREFECT_API_URL: PUBLIC[0]}):
        assert choose_way(ALWAYS, shares_loopback=True).relay
        assert str(choose_way(NEVER)) == "Tasks ask the Prefect API themselves: api_relay is 'never'"
        assert not choose_way(NEVER, has_egress=lambda: False).relay
    with temporary_settings({PREFECT_API_URL: PRIVATE[0]}):
        assert "a private address" in choose_way(NEVER).remark
    with temporary_settings({PREFECT_API_URL: LOOPBACK[0]}), pytest.raises(OptionsError, match="api_relay="):
        choose_way(NEVER)


def test_what_was_chosen_is_said_without_a_secret() -> None:
    with temporary_settings({PREFECT_API_URL: "http://me:hunter2@127.0.0.1:4200/api"}):
        assert "hunter2" not in str(choose_way())


def test_a_name_is_judged_by_where_it_leads_from_here() -> None:
    # Debian knows a machine's own name as 127.0.1.1.
    assert is_loopback("http://myhost:4200/api", lambda host: ["127.0.1.1"])
    assert not is_loopback("http://myhost:4200/api", lambda host: ["127.0.1.1", "10.0.0.5"])
    assert is_private("http://myhost:4200/api", lambda host: ["10.0.0.5", "fd00::5"])
    # A carrier's, or Tailscale's.
    assert is_private("http://100.64.0.5:4200/api")
    assert not is_private("http://100.128.0.5:4200/api")
    # Not known here, but perhaps there: the machines are asked.
    assert not is_loopback("http://prefect.internal/api", lambda host: [])
    assert not is_private("http://prefect.internal/api", lambda host: [])


def test_the_error_says_what_to_set_and_hides_what_is_secret(tmp_path: Path) -> None:
    url = "http://me:hunter2@127.0.0.1:4200/api"
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(OptionsError) as caught:
        check_api_url(shares_loopback=False)
    text = str(caught.value)
    assert "hunter2" not in text
    assert "PREFECT_API_URL is http://127.0.0.1:4200/api, an address of this machine alone" in text
    commands = re.findall(r"`prefect ([^`]+)`", text)
    assert [c.split()[0] for c in commands] == ["cloud", "server", "config"]
    # What it says to set is what is set.
    environ = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    environ.pop("PREFECT_API_URL", None)
    words = commands[-1].replace("ADDRESS", "10.0.0.5").split()
    subprocess.run([sys.executable, "-m", "prefect", *words], env=environ, capture_output=True, check=True)
    assert "http://10.0.0.5:4200/api" in (tmp_path / "profiles.toml").read_text()
