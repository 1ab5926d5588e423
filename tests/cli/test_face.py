"""The face of the command line: examples, JSON, colours, completion, and the demo."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import Any, get_args

import pytest
import typer.main
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from prefect_coiled import Cluster, Ec2DaskAccount
from prefect_coiled.cli import app
from prefect_coiled.cli.demo import count_primes
from prefect_coiled.cli.examples import EXAMPLES
from prefect_coiled.cli.policies import PolicyName
from prefect_coiled.plan import policies
from prefect_coiled.sandbox import SandboxInfo

from .conftest import run


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """The commands that do something, by path."""
    inner = getattr(command, "commands", None)
    if not inner:
        return [(path, command)]
    return [found for name, one in inner.items() if not one.hidden for found in commands(one, (*path, name))]


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_short_help_with_examples_that_it_understands(path: tuple[str, ...]) -> None:
    shown = run(*path, "--help").stdout
    assert len(shown.splitlines()) <= 45
    assert "\n  Examples:\n" in shown
    for example in EXAMPLES[path]:
        assert f"    prefect-coiled {example}\n" in f"{shown}\n"
        words = shlex.split(example)
        assert tuple(words[: len(path)]) == path
        ALL[path].make_context("prefect-coiled", words[len(path) :])  # raises for what it does not know


LISTS = [
    ("ls",),
    ("cost",),
    ("resources",),
    ("notifications",),
    ("account", "list"),
    ("account", "explain"),
    ("role", "list"),
    ("firewall", "of-the-cli"),
]


@pytest.mark.long
def test_whatever_lists_does_so_as_json_too(cluster: Cluster) -> None:
    for command in LISTS:
        shown = run(*command, "--json")
        assert shown.exit_code == 0, (command, shown.output)
        rows = json.loads(shown.stdout)
        assert isinstance(rows, list), command
        if command != ("role", "list"):
            assert rows, command
    (row,) = [r for r in json.loads(run("ls", "--json").stdout) if r["name"] == "of-the-cli"]
    assert (row["state"], row["workers"], row["types"]) == ("running", 1, {"m6i.xlarge": 2})
    checked = json.loads(run("check", "--json").stdout)
    assert (checked["account"], checked["denied"]) == ("default", [])
    assert json.loads(run("sandbox", "status", "--json").stdout)["instances"] == 2
    assert json.loads(run("ls", "--region", "sa-east-1", "--json").stdout) == []


@pytest.mark.long
def test_cost_adds_up(cluster: Cluster) -> None:
    rows = {r["name"]: r for r in json.loads(run("cost", "--json").stdout)}
    # Two m6i.xlarge at 0.192 dollars, their disks, and one public address.
    assert rows["of-the-cli"]["usd_per_hour"] == pytest.approx(
        2 * 0.192 + 2 * 30 * 0.08 / 730 + 0.005, rel=0.01
    )
    assert 0 < rows["of-the-cli"]["usd"] < rows["of-the-cli"]["usd_per_hour"]
    assert rows["(NAT gateways)"]["usd_per_hour"] == pytest.approx(0.05)
    # A cluster has one price, whoever tells it.
    (listed,) = [r for r in json.loads(run("ls", "--json").stdout) if r["name"] == "of-the-cli"]
    assert listed["usd_per_hour"] == rows["of-the-cli"]["usd_per_hour"]
    priced = [run(word).stdout.partition("of-the-cli")[2].partition("\n")[0] for word in ("ls", "cost")]
    assert re.findall(r"\$[\d.]+", priced[0])[0] == re.findall(r"\$[\d.]+", priced[1])[0]
    text = run("cost").stdout
    assert re.search(r"^total +\$0\.\d{4}", text, re.M)
    assert "(NAT gateways)" not in run("cost", "of-the-cli").stdout
    missing = run("cost", "never-was")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: cluster 'never-was'")


def test_check_exits_with_1_where_the_keys_are_not_valid(sandbox: SandboxInfo) -> None:
    from prefect_aws import AwsCredentials

    credentials = AwsCredentials(
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
        aws_secret_access_key="nobodys",
        aws_client_parameters={"endpoint_url": sandbox.endpoint},
    )
    Ec2DaskAccount(region="us-east-1", aws_credentials=credentials).save("denied", overwrite=True)
    told = run("check", "--account", "denied")
    assert told.exit_code == 1
    assert "InvalidClientTokenId" in told.output


def piped(*arguments: str) -> str:
    environ = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    command = [sys.executable, "-m", "prefect_coiled.cli", *arguments]
    environ |= {"TERM": "xterm-256color", "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    return subprocess.run(
        command, capture_output=True, text=True, env=environ, check=False, timeout=120
    ).stdout


@pytest.mark.long
def test_nothing_is_coloured_in_a_pipe(sandbox: SandboxInfo) -> None:
    for arguments in (("--help",), ("sandbox", "status"), ("ls",)):
        text = piped(*arguments)
        assert text
        assert "\x1b" not in text


def test_shells_are_offered_completion() -> None:
    assert completed("prefect-coiled l") == ["ls", "logs"]


@pytest.mark.long
def test_regions_accounts_and_clusters_that_were_seen_are_offered(cluster: Cluster) -> None:
    Ec2DaskAccount(region="us-east-1", sandbox=True).save("zebra", overwrite=True)
    assert run("account", "list").exit_code == 0
    assert run("ls").exit_code == 0
    assert completed("prefect-coiled ls --account zeb") == ["zebra"]
    assert completed("prefect-coiled account explain zeb") == ["zebra"]
    assert completed("prefect-coiled stop of-the") == ["of-the-cli"]
    assert completed("prefect-coiled ls --region eu-west-") == ["eu-west-1", "eu-west-2", "eu-west-3"]
    cluster.close()
    assert run("ls").exit_code == 0
    assert "of-the-cli" not in completed("prefect-coiled stop of-the")


def completed(line: str) -> list[str]:
    """What bash is offered at the end of a line."""
    environ = {
        **os.environ,
        "_PREFECT_COILED_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    code = (
        "import sys; sys.argv = ['prefect-coiled']\n"
        "from prefect_coiled.cli import app\n"
        "app(prog_name='prefect-coiled')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False
    )
    return done.stdout.split()


def test_the_policies_are_those_of_the_plan() -> None:
    assert set(get_args(PolicyName)) == {*get_args(policies.PolicyName), policies.OWN, "boundary"}


@pytest.mark.long
def test_the_demo_counts_primes_on_a_cluster_and_leaves_nothing(sandbox: SandboxInfo) -> None:
    assert count_primes(0, 100) == 25
    assert count_primes(90, 100) == 1
    shown = run("demo", "--workers", "1")
    assert shown.exit_code == 0, shown.output
    assert "78,498 primes below 1,000,000, counted by 1 workers in 16 tasks." in shown.stdout
    # This is no terminal: what is kept in a file opens no dashboard.
    assert "dashboard" in shown.stdout
    assert "token=" not in shown.output
    # The sandbox ran before, so it still does.
    assert json.loads(run("sandbox", "status", "--json").stdout)["instances"] == 0
    with get_client(sync_client=True) as client:
        assert [f.name for f in client.read_flows() if f.name == "demo"] == ["demo"]
