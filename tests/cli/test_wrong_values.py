"""What an option does not take is refused in one line, before anything is changed, sent or waited for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest
from prefect_aws import AwsCredentials

from prefect_coiled import Cluster, Ec2DaskAccount
from prefect_coiled.sandbox import Sandbox, SandboxInfo

from .conftest import run

# The words, and what is said of them.
WRONG = {
    "sandbox start --port 99999": "port 99999: must be a number from 1 to 65535",
    "sandbox start --port -1": "port -1: must be a number",
    "sandbox start --idle -5": "idle -5: must be a number of seconds, more than 0",
    "sandbox start --idle nan": "idle nan: must be",
    "policies setup --region us-east-9": "region 'us-east-9'",
    "policies setup --own-network": "account default names no network of its own",
    "account destroy '' --yes": "account '': is blank",
    "account reset ' ' --yes": "account ' ': is blank",
    "account explain ''": "account '': is blank",
    "ls --account ''": "account '': is blank",
    "ls --region ''": "region '': is blank",
    "stop my-cluster --yes --account ''": "account '': is blank",
    "policies setup --account ''": "account '': is blank",
    "setup iam --user me --aws-account-id 123456789012 --account ''": "account '': is blank",
    "setup iam --user me --apply --yes --profile ''": "--profile '': is blank",
    "setup iam --user me --apply --yes --aws-account-id ''": "--aws-account-id '': is blank",
    "setup iam --user '' --aws-account-id 123456789012": "--user '': is blank",
    "setup iam --role foo": "--role 'foo': must look like arn:aws:iam::123456789012:role/name",
    "setup iam --role arn:aws:iam::123456789012:role/dask --aws-account-id 999999999999": "contradict each",
    "setup region --plan --zone us-east-1q": "zone 'us-east-1q': is none of AWS's in us-east-1",
    "account edit tried --yes --zone us-east-1z": "zone 'us-east-1z': is none of AWS's in us-east-1",
    "setup region --plan --zone ''": "zone '': is blank",
    "environment bake --vm-type ''": "worker_vm_types '': is blank",
    "environment diff --architecture ''": "architecture ''",
    "firewall my-cluster --close --cidr me": "cannot be closed and open",
    "firewall my-cluster --port 99999": "port 99999: must be a number from 1 to 65535",
    "firewall my-cluster --cidr nonsense": "cidr 'nonsense': is not an IPv4 or IPv6 network",
    "logs my-cluster --tail 5 --follow": "--tail: goes without --follow",
    "logs my-cluster --since soon": "since 'soon'",
    "logs my-cluster --since ''": "since '': is blank",
    "costs --since ' '": "since ' ': is blank",
    "logs my-cluster --since 2999-01-01": "--since '2999-01-01': is not in the past",
    "logs my-cluster --since 2999-01-01 --follow": "--since '2999-01-01': is not in the past",
    "stop my-cluster --yes": "See `prefect-coiled ls --account default --all-regions`.",
    "costs --since 9999999d": "since '9999999d': is before there were years",
    "costs --since 1e400": "since '1e400': is before there were years",
    "costs --since nan": "since 'nan': must be a time",
    "logs my-cluster --since 1970-01-01": "has none of that name",
    "costs --since 0001-01-01": "since '0001-01-01': must be a time",
    "sandbox start --idle 5": "one runs already, which ends after 1800 s without use. Stop it first",
    "environment diff nothere.py": "script nothere.py: there is no such file",
    "environment diff --cluster my-cluster --architecture arm64": "--cluster: has its own architecture",
    "doctor --yes --spend nan": "spend nan",
    "doctor --yes --report /nowhere/report.json": "report /nowhere/report.json: must be a file",
    "setup iam --group a/b --aws-account-id 123456789012": "group 'a/b': must be of letters",
    "account edit tried --yes --no-spot --spot-policy spot": "--no-spot: contradicts --spot-policy spot",
    "account edit tried --yes --tag owner=me": "tags['owner']: this key is reserved",
    "account edit tried --yes --endpoint-url nonsense": "endpoint_url 'nonsense': must begin with http",
    "account edit tried --yes --close --port 8786": "cannot be closed and open",
}


@pytest.fixture(scope="module")
def tried(sandbox: SandboxInfo) -> None:
    Ec2DaskAccount(region="us-east-1", sandbox=True).save("tried", overwrite=True)


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_value_is_told_in_one_line(words: str, tried: None) -> None:
    told = run(*shlex.split(words))
    assert told.exit_code == 1, told.output
    (line,) = [one for one in told.stderr.splitlines() if one.startswith("Error: ")]
    assert WRONG[words] in line


@pytest.mark.long
def test_a_machine_that_a_cluster_does_not_have_is_told_with_those_that_it_has(cluster: Cluster) -> None:
    for follow in ([], ["--follow"]):
        told = run("logs", cluster.name, "--instance", "foo", *follow)
        assert (told.exit_code, told.stdout) == (1, "")
        assert "Error: instance 'foo': is no machine of cluster 'of-the-cli'. It has i-" in told.stderr
    assert run("logs", cluster.name, "--instance", "worker").stdout.startswith("== worker i-")


def test_a_sandbox_at_another_port_is_told(sandbox: SandboxInfo) -> None:
    told = run("sandbox", "start", "--port", "7")
    assert told.exit_code == 1
    assert f"one runs already, at {sandbox.endpoint}. Stop it first" in told.stderr
    assert run("sandbox", "start", "--port", sandbox.endpoint.rpartition(":")[2]).exit_code == 0


def test_a_type_that_aws_does_not_have_is_told_before_any_package_is_sent() -> None:
    with Sandbox({"boot": "none"}) as aws:
        key, secret = "sandbox", aws.info.secret_access_key
        credentials = AwsCredentials(
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_client_parameters={"endpoint_url": aws.endpoint},
        )
        Ec2DaskAccount(region="us-east-1", aws_credentials=credentials).save("bakes", overwrite=True)
        aws.clear_calls()
        told = run("environment", "bake", "--account", "bakes", "--vm-type", "m99.large")
        made = [a for _, a in aws.calls() if a.startswith(("Create", "Run", "Put"))]
    assert told.exit_code == 1
    assert "InvalidInstanceType" in told.stderr
    assert "Did you mean 'm" in told.stderr
    assert made == []


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without the extra `sandbox`, and no sandbox that runs."""
    monkeypatch.setitem(sys.modules, "moto", None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.mark.parametrize("words", ["ls", "demo", "sandbox start", "environment bake"])
def test_without_the_extra_of_the_sandbox_one_line_says_how_to_get_it(words: str, bare: None) -> None:
    told = run(*words.split())
    assert told.exit_code == 1
    (line,) = told.stderr.splitlines()
    assert "needs moto. Run `pip install " in line
    assert "[sandbox]" in line


@pytest.mark.parametrize("keyword", ["ACCOUNT", "REGION", "N_WORKERS"])
def test_the_demo_refuses_variables_that_would_change_its_cluster(
    keyword: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv(f"PREFECT_COILED_CLUSTER__{keyword}", "1")
    monkeypatch.setenv("PREFECT_COILED_CLUSTER__ZONE", " ")  # which says nothing
    told = run("demo", "--workers", "1")
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr == (
        f"Error: the demo: PREFECT_COILED_CLUSTER__{keyword} would change its cluster. "
        f"Run it without: `env -u PREFECT_COILED_CLUSTER__{keyword} ...`.\n"
    )
    assert list(tmp_path.iterdir()) == []  # no sandbox was started


def test_the_demo_refuses_an_account_of_aws_by_its_name_before_a_sandbox_is_started(
    aws: Sandbox, save: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(aws_access_key_id="sandbox", aws_secret_access_key=aws.info.secret_access_key)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with dask.config.set({"coiled.account": "saved"}):
        told = run("demo", "--workers", "1")
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr.startswith("Error: the demo: account saved is not the sandbox. ")
    assert list(tmp_path.iterdir()) == []


def test_a_role_with_no_policy_but_its_own_is_told_in_a_whole_sentence(sandbox: SandboxInfo) -> None:
    assert run("setup", "region").exit_code == 0
    assert run("role", "list").stdout == "Role default: its own policy.\n"
    policy = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    assert run("role", "attach-policy", policy).exit_code == 0
    try:
        assert run("role", "list").stdout == f"Role default: its own policy, and\n{policy}\n"
    finally:
        run("role", "detach-policy", policy)
