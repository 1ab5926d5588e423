"""Naming an AWS account and setting it up: in Python, and by the guided command."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from typer.testing import Result

from prefect_coiled import Ec2DaskAccount, load_account, set_backend_options
from prefect_coiled.errors import AccountError, CredentialsError, OptionsError
from prefect_coiled.options import merge
from prefect_coiled.plan.actions import ADMINISTRATION
from prefect_coiled.plan.machine_policies import boundary_of
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.provision import take_inventory
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.saved_accounts import reset_account

from .conftest import run


@pytest.fixture(scope="module")
def aws() -> Iterator[Sandbox]:
    """The AWS of these tests: machines without processes, keys that must be right."""
    with Sandbox({"boot": "none", "iam": "on"}) as running:
        arn, document = boundary_of("guided", "123456789012")
        running.client("iam").create_policy(
            PolicyName=arn.rpartition("/")[2], PolicyDocument=json.dumps(document)
        )
        yield running


@pytest.fixture(scope="module")
def keys(aws: Sandbox) -> dict[str, str]:
    shipped = iam_policies("guided")
    key, secret = aws.add_user("installer", shipped["setup"], shipped["ongoing"])
    return {"aws_access_key_id": key, "aws_secret_access_key": secret}


@pytest.fixture
def save(aws: Sandbox) -> Iterator[Callable[..., Any]]:
    """Save the account "saved", which is gone after the test."""
    yield lambda **options: set_backend_options(account="saved", endpoint_url=aws.endpoint, **options)
    reset_account("saved")


NETWORK = {"network_id": "vpc-0123456789abcdef0", "scheduler_subnet_id": "subnet-0123456789abcdef0"}
TEAM = {"ports": [8786], "cidr": "10.0.0.0/8"}


def options_of(slug: str) -> Any:
    return merge(None, load_account(slug).options).options


# -- set_backend_options


def test_it_says_which_account_and_user_the_keys_are_of(
    save: Callable[..., Any], keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    saved = save(**keys, aws_region="eu-west-1", zone="eu-west-1b")
    assert (saved.aws_account_id, saved.region) == ("123456789012", "eu-west-1")
    assert saved.arn.endswith(":user/installer")
    assert "Account saved: AWS account 123456789012 as arn:aws:iam::123456789012:user/installer" in (
        capsys.readouterr().out
    )
    assert options_of("saved").zone == "eu-west-1b"
    assert load_account("saved").credentials.access_key_id == keys["aws_access_key_id"]


def test_wrong_keys_are_told_and_nothing_is_saved(save: Callable[..., Any]) -> None:
    with pytest.raises(CredentialsError, match="InvalidClientTokenId"):
        save(aws_access_key_id="AKIAWRONG", aws_secret_access_key="wrong")
    with pytest.raises(AccountError, match="no block of that name"):
        load_account("saved")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"aws_region": "eu-nowhere-1"}, "must be one of"),
        ({"zone": "eu-west-1a"}, "is not in region us-east-1"),
        ({"firewall": {"ports": [0], "cidr": "0.0.0.0/0"}}, "must be a number from 1 to 65535"),
        ({"firewall": {"ports": [1], "cidr": "x"}}, "is not an IPv4 or IPv6 network"),
        ({"firewall": {"ports": [1]}, "ingress": [{"ports": [2]}]}, "cannot be given together"),
        ({"aws_access_key_id": "AKIA"}, "need both"),
        ({"backend": "gcp"}, "is not there"),
        ({"registry_type": "docker_hub"}, "needs a username"),
        ({"registry_type": "docker_hub", "registry_username": "Me"}, "must be lower case"),
        ({"registry_type": "docker_hub", "registry_username": "me"}, "needs an access token"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_one_line_before_any_call(
    save: Callable[..., Any], aws: Sandbox, options: dict[str, Any], text: str
) -> None:
    aws.clear_calls()
    with pytest.raises(OptionsError, match=text) as caught:
        save(**options)
    assert "\n" not in str(caught.value)
    assert aws.calls(None) == []


def test_what_is_not_given_goes_back_to_its_default(save: Callable[..., Any], keys: dict[str, str]) -> None:
    rules = [{"ports": [8786], "cidr": "10.0.0.0/8"}, {"ports": [8787], "cidr": "me"}]
    save(**keys, ingress=rules, spot=True, aws_region="us-west-2", zone="us-west-2b", tags={"team": "one"})
    first = options_of("saved")
    assert [(r.ports, r.cidr) for r in first.ingress] == [((8786,), "10.0.0.0/8"), ((8787,), "me")]
    assert (first.zone, first.spot_policy) == ("us-west-2b", "spot")
    save(**keys, ingress=rules)
    second = options_of("saved")
    assert (second.region, second.zone, second.spot_policy) == ("us-east-1", None, "on-demand")
    assert second.ingress == first.ingress
    assert load_account("saved").tags == {}


@pytest.mark.parametrize(
    ("narrow", "again", "wide"),
    [
        ({"firewall": TEAM}, {}, {"firewall": {"ports": [22, 8787, 8786], "cidr": "0.0.0.0/0"}}),
        ({"firewall": TEAM}, {"firewall": {"ports": [9000]}}, {"firewall": {"ports": [9000], "cidr": "me"}}),
        ({"ingress": []}, {"firewall": {}}, {"firewall": TEAM}),
        ({"egress": "none"}, {}, {"egress": "nat"}),
        ({"network": NETWORK}, {"egress": "nat"}, None),
    ],
    ids=["firewall", "ports-alone", "closed", "way-out", "network"],
)
def test_what_would_open_an_account_wider_has_to_be_given(
    save: Callable[..., Any],
    keys: dict[str, str],
    narrow: dict[str, Any],
    again: dict[str, Any],
    wide: dict[str, Any] | None,
) -> None:
    save(**keys, **narrow)
    before = held("saved")
    with pytest.raises(OptionsError, match="was not given, and would become") as caught:
        save(**keys, **again)
    assert "\n" not in str(caught.value)
    assert held("saved") == before
    save(**keys, **narrow)
    assert held("saved") == before
    if wide is not None:
        save(**keys, **wide)
        assert held("saved") != before


def test_the_namespace_of_docker_hub_is_the_user_unless_given(
    save: Callable[..., Any], keys: dict[str, str]
) -> None:
    save(**keys, registry_type="docker_hub", registry_username="me", registry_access_token="dckr_pat_x")
    registry = options_of("saved").registry
    assert registry.effective_namespace == "me"
    assert registry.access_token.get_secret_value() == "dckr_pat_x"


def test_it_works_inside_an_event_loop(save: Callable[..., Any], keys: dict[str, str]) -> None:
    async def inside() -> Any:
        return save(**keys)

    assert asyncio.run(inside()).account == "saved"


def test_the_default_comes_back(
    save: Callable[..., Any], keys: dict[str, str], aws: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: aws.info)
    set_backend_options(**keys, endpoint_url=aws.endpoint)
    assert not load_account().is_sandbox
    set_backend_options(use_coiled_defaults=True)
    assert load_account().is_sandbox
    # Of another name there is no default to go back to.
    save(**keys)
    assert set_backend_options(account="saved", use_coiled_defaults=True) is None
    with pytest.raises(AccountError, match="no block of that name"):
        load_account("saved")
    save(**keys)
    assert "was reset" in run("account", "reset", "saved", "--yes").output
    assert "had no options" in run("account", "reset", "saved", "--yes").output


# -- the guided command


def inventory(aws: Sandbox, slug: str = "guided") -> set[str]:
    return {r.kind for r in take_inventory(load_account(slug).door("us-east-1"))}


def vpcs(aws: Sandbox) -> list[str]:
    found = aws.client("ec2").describe_vpcs(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])
    return [v["VpcId"] for v in found["Vpcs"]]


def guided(aws: Sandbox, keys: dict[str, str], answer: str) -> Result:
    return run("setup", "aws", "--account", "guided", "--endpoint-url", aws.endpoint, answer=answer)


def test_the_guided_command_asks_reviews_and_makes_one_resource_after_the_other(
    aws: Sandbox, keys: dict[str, str]
) -> None:
    answers = ["us-east-1", "keys", keys["aws_access_key_id"], keys["aws_secret_access_key"], "ecr"]
    result = guided(aws, keys, "\n".join([*answers, "", "y"]) + "\n")
    assert result.exit_code == 0, result.output
    text = result.output
    steps = ["1. Region", "2. Credentials", "3. Container registry", "4. Who may reach"]
    steps += ["5. Review", "6. Submit?"]
    made = ["creating VPC", "creating role (guided)", "creating NAT gateway", "Account guided is set up"]
    places = [text.index(part) for part in steps]
    assert places == sorted(places)
    assert all(part in text for part in made)
    review = dict(re.findall(r"^(\w+) +(.+?) *$", text[places[4] : places[5]], re.M))
    assert review["account"] == "guided"
    assert review["credentials"] == f"access key {keys['aws_access_key_id']}"
    assert (review["region"], review["registry"], review["egress"]) == ("us-east-1", "ecr", "nat")
    # One's own address is offered; what costs and who may come in is said before anything is made.
    assert review["ingress"].endswith("from me")
    before = text[: places[5]]
    assert "Ports 8787, 8786 of schedulers are reached from: me." in before
    assert "Port 22 stays closed" in before
    assert "a NAT gateway, which costs $0.0500 an hour" in before
    assert keys["aws_secret_access_key"] not in text
    assert inventory(aws) >= {"VPC", "subnet", "NAT gateway", "IAM role", "log group"}
    again = guided(aws, keys, "\n".join([*answers, "y"]) + "\n")
    assert "creating" not in again.output
    assert "Account guided is set up" in again.output
    gone = run("account", "destroy", "guided", answer="guided\n")
    assert gone.exit_code == 0, gone.output
    assert inventory(aws) == set()


def test_nothing_is_made_without_a_yes(aws: Sandbox, keys: dict[str, str]) -> None:
    reset_account("guided")
    answers = [
        "us-east-1",
        "keys",
        keys["aws_access_key_id"],
        keys["aws_secret_access_key"],
        "ecr",
        "all",
        "n",
    ]
    refused = guided(aws, keys, "\n".join(answers) + "\n")
    assert refused.exit_code == 1
    assert "Everybody reaches ports 8787, 8786 of schedulers (0.0.0.0/0)" in refused.output
    with pytest.raises(AccountError, match="no block of that name"):
        load_account("guided")
    assert (
        aws.client("ec2").describe_vpcs(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["Vpcs"] == []
    )


def test_stopped_in_the_middle_it_goes_on_when_it_is_run_again(aws: Sandbox, keys: dict[str, str]) -> None:
    environ = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_COILED_SECRET_ACCESS_KEY": keys["aws_secret_access_key"],
    }
    command = [sys.executable, "-m", "prefect_coiled.cli", "setup", "aws", "--account", "guided", "--yes"]
    command += ["--access-key-id", keys["aws_access_key_id"], "--endpoint-url", aws.endpoint]
    aws.faults([{"effect": "latency", "action": "CreateSubnet", "seconds": 2}])
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environ, start_new_session=True
    )
    os.close(follower)
    seen = b""
    while b"creating public subnet" not in seen:
        seen += os.read(leader, 4096)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        try:
            os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait(60) != 0
    os.close(leader)
    aws.faults([])
    assert "IAM role" not in inventory(aws) or "NAT gateway" not in inventory(aws)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert "Account guided is set up in us-east-1" in done.stdout, done.stderr
    assert (
        len(aws.client("ec2").describe_vpcs(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["Vpcs"])
        == 1
    )
    assert inventory(aws) >= {"VPC", "NAT gateway", "IAM role", "bucket"}


def test_each_answer_is_checked_when_it_is_given(aws: Sandbox, keys: dict[str, str]) -> None:
    reset_account("guided")
    right = (keys["aws_access_key_id"], keys["aws_secret_access_key"])
    answers = [
        "eu-wst-1",
        "us-east-1",
        "kys",
        "profile",
        "nowhere",
        "keys",
        "ASIATEMPORARY",
        "AKIAWRONG",
        "wrong",
    ]
    answers += ["keys", *right, "docker", "docker_hub", "Me", "me", "dckr_pat_x", "nobody", "me", "n"]
    result = guided(aws, keys, "\n".join(answers) + "\n")
    told = [line.split("Error: ")[1] for line in result.output.splitlines() if "Error: " in line]
    assert [text.partition(":")[0] for text in told] == [
        "region 'eu-wst-1'",
        "credentials 'kys'",
        "profile 'nowhere'",
        "access key ASIATEMPORARY",
        "checking the credentials of account (guided)",
        "registry 'docker'",
        "registry username",
        "cidr 'nobody'",
    ], result.output
    assert "Did you mean 'eu-west-1'?" in told[0]
    assert "Did you mean 'keys'?" in told[1]
    assert "Did you mean 'docker_hub'?" in told[5]
    assert "docker_hub docker.io/me as me" in result.output
    assert keys["aws_secret_access_key"] not in result.output


# -- an account that is there


@pytest.fixture(scope="module")
def researcher(aws: Sandbox) -> dict[str, str]:
    shipped = iam_policies("research")
    key, secret = aws.add_user("researcher", shipped["setup"], shipped["ongoing"])
    return {"aws_access_key_id": key, "aws_secret_access_key": secret}


@pytest.fixture
def research(aws: Sandbox, researcher: dict[str, str]) -> Iterator[str]:
    """An account with options of its own, that nothing was made for."""
    parameters = AwsClientParameters(endpoint_url=aws.endpoint)
    block = Ec2DaskAccount(
        region="us-west-2",
        zone="us-west-2b",
        spot=True,
        ingress_ports=[8786],
        ingress_cidr="10.1.0.0/16",
        egress="public-ip",
        tags={"team": "research"},
        aws_credentials=AwsCredentials(**researcher, aws_client_parameters=parameters),
    )
    block.save("research", overwrite=True)
    yield "research"
    reset_account("research")


def held(slug: str) -> dict[str, str]:
    account = load_account(slug)
    rows = {row.name: row.value for row in merge(None, account.options).rows()}
    return rows | {"tags": str(dict(account.tags)), "key": account.credentials.access_key_id}


def test_an_edit_changes_what_is_given_and_nothing_else(research: str) -> None:
    before = held(research)
    result = run("account", "edit", research, "--cidr", "10.2.0.0/16", "--tag", "cost=7", "--yes")
    assert result.exit_code == 0, result.output
    changed = {"ingress": "8786 from 10.2.0.0/16", "tags": "{'team': 'research', 'cost': '7'}"}
    assert held(research) == before | changed


def test_an_edit_shows_what_changes_and_asks(research: str) -> None:
    before = held(research)
    flags = ("--cidr", "0.0.0.0/0", "--secret-access-key", "new", "--access-key-id", "AKIANEW")
    result = run("account", "edit", research, *flags, answer="n\n")
    assert result.exit_code == 1
    assert "   ingress_cidr: '10.1.0.0/16' -> '0.0.0.0/0'\n" in result.output
    assert "   aws_credentials.aws_secret_access_key: changed\n" in result.output
    assert held(research) == before


def test_an_edit_that_is_wrong_is_one_line_and_changes_nothing(research: str) -> None:
    before = held(research)
    result = run("account", "edit", research, "--region", "eu-wst-1", "--yes")
    assert result.exit_code == 1
    assert "Did you mean 'eu-west-1'?" in result.output
    assert result.output.count("\n") == 1
    assert held(research) == before


def test_the_guided_command_keeps_what_is_saved(aws: Sandbox, research: str) -> None:
    before = held(research)
    result = run("setup", "aws", "--account", research, answer="\n\n\ny\n")
    assert result.exit_code == 0, result.output
    assert "1. Region [us-west-2]" in result.output
    assert "2. Credentials (keep, found, profile, keys) [keep]" in result.output
    assert "Nothing changes." in result.output
    assert held(research) == before
    made = {r.kind for r in take_inventory(load_account(research).door("us-west-2"))}
    assert "VPC" in made
    assert "NAT gateway" not in made
    assert run("account", "destroy", research, answer="research\n").exit_code == 0


def test_an_account_that_is_not_there_is_not_edited(research: str) -> None:
    result = run("account", "edit", "reserch", "--spot", "--yes")
    assert result.exit_code == 1
    assert "has no options yet" in result.output


def test_python_says_what_it_changed(
    save: Callable[..., Any], keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    save(**keys, firewall=TEAM)
    capsys.readouterr()
    save(**keys, firewall={"ports": [22, 8787, 8786], "cidr": "0.0.0.0/0"})
    text = capsys.readouterr().out
    assert "  ingress_cidr: '10.0.0.0/8' -> '0.0.0.0/0'\n" in text
    assert "  ingress_ports: [8786] -> [22, 8787, 8786]\n" in text


# -- IAM


def of(name: str, *flags: str) -> str:
    result = run(*name.split(), *flags)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_role_that_the_policy_was_written_for_verifies_itself(aws: Sandbox) -> None:
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName="dask", Path="/teams/", AssumeRolePolicyDocument=document)["Role"]
    allow = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
    key, secret = aws.add_user("assumer", {"Version": "2012-10-17", "Statement": [allow]})
    keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    set_backend_options("as-role", **keys, role_arn=role["Arn"], endpoint_url=aws.endpoint)
    try:
        iam.put_role_policy(
            RoleName="dask", PolicyName="all", PolicyDocument=json.dumps(iam_policies("as-role")["ongoing"])
        )
        mute = run("check", "--account", "as-role")
        assert mute.exit_code == 1
        command = f"policies ongoing --account as-role --role-arn {role['Arn']}"
        assert f"`prefect-coiled {command}`" in mute.output
        assert "The account is not set up here yet." in mute.output
        iam.put_role_policy(RoleName="dask", PolicyName="all", PolicyDocument=of(command))
        iam.put_role_policy(
            RoleName="dask", PolicyName="setup", PolicyDocument=of("policies setup --account as-role")
        )
        able = run("check", "--account", "as-role")
        assert able.exit_code == 0, able.output
        assert able.output.endswith("Ready.\n")
    finally:
        reset_account("as-role")


@pytest.mark.parametrize(
    ("flags", "first", "last"),
    [
        (
            ("--user", "dask"),
            "aws iam create-user --user-name dask",
            "aws iam create-access-key --user-name dask",
        ),
        (("--group", "dask"), "aws iam create-policy", "aws iam attach-group-policy --group-name dask"),
        (
            ("--role", "arn:aws:iam::123456789012:role/teams/dask"),
            "aws iam create-policy",
            "aws iam attach-role-policy --role-name dask",
        ),
    ],
    ids=["user", "group", "role"],
)
def test_the_commands_that_make_and_attach_the_policies_are_printed(
    flags: tuple[str, str], first: str, last: str
) -> None:
    lines = of("setup iam --account team --aws-account-id 123456789012", *flags).splitlines()
    assert lines[0].startswith(first)
    assert lines[-1].startswith(last)
    words = [shlex.split(line) for line in lines]
    made = {w[4]: json.loads(w[6]) for w in words if w[2] == "create-policy"}
    limits = made.pop("coiled-boundary-team")
    assert limits == boundary_of("team", "123456789012")[1]
    assert set(made) == {"coiled-setup-team", "coiled-ongoing-team"}
    shipped = iam_policies("team", aws_account_id="123456789012")
    assert made["coiled-setup-team"] == shipped["setup"]
    arns = [w[-1] for w in words if w[2].startswith("attach-")]
    assert arns == [f"arn:aws:iam::123456789012:policy/{name}" for name in made]
    # A user asks by a variable, a role by its name.
    assert ("OwnRole" in str(made["coiled-ongoing-team"])) == (flags[0] == "--role")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ((), "needs one of"),
        (("--user", "a", "--group", "b"), "needs one of"),
        (("--user", "a"), "needs --aws-account-id"),
        (("--user", "a b", "--aws-account-id", "123456789012"), "must be of letters"),
        (("--user", "a", "--aws-account-id", "1234"), "12 digits"),
        (("--role", "dask", "--aws-account-id", "123456789012"), "must look like arn:aws:iam::"),
        (("--user", "a", "--yes"), "with --apply alone"),
        (("--group", "a", "--key", "--apply"), "none of a group"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_for_nobody_are_refused(flags: tuple[str, ...], text: str) -> None:
    result = run("setup", "iam", *flags)
    assert result.exit_code == 1
    assert text in result.output


@pytest.fixture
def administrator(
    aws: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Runs `setup iam --apply` for an account that nobody saved, by the profile of an administrator."""
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    name = f"admin-{tmp_path.name.replace('_', '-')}"[:64]
    key, secret = aws.add_user(name, {"Version": "2012-10-17", "Statement": [everything]})
    poor, poorer = aws.add_user(f"poor-{name}"[:64], iam_policies("applied")["ongoing"])
    profiles = {"admin": (key, secret), "poor": (poor, poorer)}
    (tmp_path / "config").write_text(
        "".join(
            f"[profile {which}]\nendpoint_url={aws.endpoint}\n"
            f"aws_access_key_id={k}\naws_secret_access_key={s}\n"
            for which, (k, s) in profiles.items()
        )
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    iam = aws.client("iam")

    def go(*flags: str, profile: str | None = "admin", answer: str | None = None) -> Result:
        named = ("--profile", profile) if profile else ()
        return run("setup", "iam", "--account", "applied", "--apply", *named, *flags, answer=answer)

    yield go
    for policy in iam.list_policies(Scope="Local")["Policies"]:
        if policy["PolicyName"] not in {f"coiled-{one}-applied" for one in ("setup", "ongoing", "boundary")}:
            continue
        found = iam.list_entities_for_policy(PolicyArn=policy["Arn"])
        for kind in ("User", "Group", "Role"):
            for one in found[f"Policy{kind}s"]:
                detach = getattr(iam, f"detach_{kind.lower()}_policy")
                detach(**{f"{kind}Name": one[f"{kind}Name"]}, PolicyArn=policy["Arn"])
        for version in iam.list_policy_versions(PolicyArn=policy["Arn"])["Versions"]:
            if not version["IsDefaultVersion"]:
                iam.delete_policy_version(PolicyArn=policy["Arn"], VersionId=version["VersionId"])
        iam.delete_policy(PolicyArn=policy["Arn"])


APPLIED = {f"arn:aws:iam::123456789012:policy/coiled-{phase}-applied" for phase in ("setup", "ongoing")}


def test_a_user_is_made_with_policies_and_a_key_that_works(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    refused = administrator("--user", "dask-applied", answer="n\n")
    assert refused.exit_code == 1
    assert "policy coiled-setup-applied: to make" in refused.output
    assert "dask-applied" not in {u["UserName"] for u in iam.list_users()["Users"]}
    made = administrator("--user", "dask-applied", "--key", answer="y\n")
    assert made.exit_code == 0, made.output
    assert "AWS account 123456789012 in us-east-1" in made.output
    attached = iam.list_attached_user_policies(UserName="dask-applied")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED
    # The key that was printed is one by which the account can be saved and checked.
    words = dict(line.split(": ", 1) for line in made.output.splitlines() if line.count(": ") == 1)
    keys = (words["Access key id"], words["Secret access key"])
    set_backend_options(
        "applied", aws_access_key_id=keys[0], aws_secret_access_key=keys[1], endpoint_url=aws.endpoint
    )
    try:
        assert "would be denied" not in run("check", "--account", "applied").output
    finally:
        reset_account("applied")
    again = administrator("--user", "dask-applied", "--key")
    assert "Nothing is missing." in again.output
    assert "access key of user dask-applied: is there" in again.output
    assert keys[1] not in again.output
    assert len(iam.list_access_keys(UserName="dask-applied")["AccessKeyMetadata"]) == 1


def test_no_key_is_made_where_none_was_asked_for(aws: Sandbox, administrator: Callable[..., Result]) -> None:
    # IAM may not know at once what it has just made.
    rule = {
        "effect": "error",
        "action": "AttachUserPolicy",
        "code": "NoSuchEntity",
        "status": 404,
        "times": 1,
    }
    aws.faults([rule])
    result = administrator("--user", "keyless", "--yes")
    assert [s["action"] for s in aws.struck()] == ["AttachUserPolicy"]
    aws.faults([])
    assert result.exit_code == 0, result.output
    assert "ecret access key" not in result.output
    assert aws.client("iam").list_access_keys(UserName="keyless")["AccessKeyMetadata"] == []


def test_without_a_profile_it_is_done_by_the_credentials_of_the_account(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    missing = administrator("--user", "by-account", "--yes", profile=None)
    assert missing.exit_code == 1
    assert "account 'applied': no block of that name" in missing.output
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": aws.info.secret_access_key}
    set_backend_options("applied", **keys, endpoint_url=aws.endpoint)
    try:
        result = administrator("--user", "by-account", "--yes", profile=None)
    finally:
        reset_account("applied")
    assert result.exit_code == 0, result.output
    assert "access key sandbox: AWS account 123456789012" in result.output
    assert aws.info.secret_access_key not in result.output
    attached = aws.client("iam").list_attached_user_policies(UserName="by-account")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED


def test_a_group_and_a_role_get_the_policies_once(aws: Sandbox, administrator: Callable[..., Result]) -> None:
    iam = aws.client("iam")
    missing = administrator("--group", "analysts", "--yes")
    assert missing.exit_code == 1
    assert "group 'analysts': is not there" in missing.output
    iam.create_group(GroupName="analysts")
    assert administrator("--group", "analysts", "--yes").exit_code == 0
    attached = iam.list_attached_group_policies(GroupName="analysts")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName="applied-role", AssumeRolePolicyDocument=document)["Role"]
    # The policy names the role, so that it can verify itself: the one that is there is renewed.
    result = administrator("--role", role["Arn"], "--yes")
    assert result.exit_code == 0, result.output
    assert "policy coiled-setup-applied: is there" in result.output
    assert "policy coiled-ongoing-applied: renewed" in result.output
    attached = iam.list_attached_role_policies(RoleName="applied-role")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED
    assert "Nothing is missing." in administrator("--role", role["Arn"]).output


def test_nobody_gets_the_policies_of_an_account_that_is_named_as_a_role_of_others(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="applied", AssumeRolePolicyDocument=document)
    try:
        result = administrator("--user", "would-be", "--yes")
    finally:
        iam.delete_role(RoleName="applied")
    assert result.exit_code == 1
    assert "role (applied)" in result.output
    assert "would-be" not in {u["UserName"] for u in iam.list_users()["Users"]}


def test_a_boundary_is_made_with_the_policies_and_attached_to_nobody(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    arn = "arn:aws:iam::123456789012:policy/coiled-boundary-applied"
    iam = aws.client("iam")
    flags = ("--user", "bounded", "--service", "dynamodb", "--yes")
    result = administrator(*flags)
    assert result.exit_code == 0, result.output
    held = iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"]
    assert held["Statement"][-1]["Action"] == ["dynamodb:*", "s3:*"]
    assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 0
    attached = iam.list_attached_user_policies(UserName="bounded")["AttachedPolicies"]
    assert {p["PolicyArn"] for p in attached} == APPLIED
    assert "Nothing is missing." in administrator(*flags).output
    # Printed, it is the same.
    printed = "policies boundary --account applied --aws-account-id 123456789012 --service dynamodb"
    assert json.loads(of(printed)) == held
    bound = json.loads(of("policies setup --account applied --aws-account-id 123456789012"))
    guards = [s for s in bound["Statement"] if s["Effect"] == "Deny"]
    assert [s["Sid"] for s in guards] == ["KeepRoleBound", "KeepBoundary"]
    assert guards[0]["Condition"] == {"ArnNotLike": {"iam:PermissionsBoundary": arn}}
    lines = of("setup iam --account applied --user bounded --aws-account-id 123456789012").splitlines()
    assert lines[1].startswith("aws iam create-policy --policy-name coiled-boundary-applied ")
    assert lines[2] == (
        "# Only if there is a role applied already: aws iam put-role-permissions-boundary "
        f"--role-name applied --permissions-boundary {arn}"
    )
    refused = administrator("--user", "bounded", "--service", "iam", "--yes")
    assert refused.exit_code == 1
    assert "would let a machine give itself everything else" in refused.output


def test_a_role_from_before_is_bound_and_what_else_it_has_is_said(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    tags = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "applied"}]
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    named = {"RoleName": "applied"}
    iam.create_role(AssumeRolePolicyDocument=document, Tags=tags, **named)
    attached = "arn:aws:iam::aws:policy/AmazonDynamoDBFullAccess"
    iam.attach_role_policy(PolicyArn=attached, **named)
    try:
        result = administrator("--user", "upgraded", "--yes")
        assert result.exit_code == 0, result.output
        assert "permissions boundary of role applied: to make" in result.output
        assert f"as far as the boundary allows: {attached}" in " ".join(result.output.split())
        bound = iam.get_role(**named)["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"]
        assert bound == "arn:aws:iam::123456789012:policy/coiled-boundary-applied"
        assert "Nothing is missing." in administrator("--user", "upgraded", "--yes").output
    finally:
        iam.detach_role_policy(PolicyArn=attached, **named)
        iam.delete_role(**named)


def test_without_a_boundary_it_is_said_what_is_given_up(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    printed = of("setup iam --account applied --user u --aws-account-id 123456789012 --no-boundary")
    assert "boundary-applied" not in printed
    assert "# Without a boundary, whoever has the set-up policy can give the machines' role" in printed
    assert "# Then: prefect-coiled account edit applied --permissions-boundary none" in printed
    policy = run("policies", "setup", "--account", "applied", "--no-boundary")
    assert "as good as an administrator" in policy.stderr
    assert "PermissionsBoundary" not in policy.stdout
    for flags in (("policies", "boundary"), ("policies", "setup", "--permissions-boundary", "none")):
        refused = run(*flags, "--no-boundary")
        assert refused.exit_code == 1
        assert "is not for a policy with a boundary" in refused.output


def test_a_policy_of_that_name_that_is_not_ours_stays(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    allow = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.create_policy(PolicyName="coiled-setup-applied", PolicyDocument=document)
    result = administrator("--user", "stranger", "--yes")
    assert result.exit_code == 1
    assert "does not carry our tags" in result.output
    assert "stranger" not in {u["UserName"] for u in iam.list_users()["Users"]}


def test_a_sixth_version_of_a_policy_takes_the_place_of_the_oldest(
    aws: Sandbox, administrator: Callable[..., Result]
) -> None:
    iam = aws.client("iam")
    assert administrator("--user", "versions", "--yes").exit_code == 0
    arn = "arn:aws:iam::123456789012:policy/coiled-setup-applied"
    allow = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    for _ in range(4):
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=document, SetAsDefault=True)
    result = administrator("--user", "versions", "--yes")
    assert "policy coiled-setup-applied: renewed" in result.output
    default = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    held = iam.get_policy_version(PolicyArn=arn, VersionId=default)["PolicyVersion"]["Document"]
    assert held == iam_policies("applied", aws_account_id="123456789012")["setup"]


def test_who_may_not_manage_iam_is_told_who_may(aws: Sandbox, administrator: Callable[..., Result]) -> None:
    result = administrator("--user", "nobody", "--yes", profile="poor")
    assert result.exit_code == 1
    assert "somebody who manages IAM (--profile)" in result.output
    assert result.output.count("Error: ") == 1
    other = administrator("--user", "nobody", "--yes", "--aws-account-id", "210987654321")
    assert "AWS account 210987654321: is not that of the credentials" in other.output


def test_the_calls_of_an_administrator_are_in_no_policy() -> None:
    permitted = {
        action
        for document in iam_policies("team").values()
        for statement in document["Statement"]
        for action in statement["Action"]
    }
    assert not permitted & set(ADMINISTRATION)


@pytest.mark.parametrize("name", ["setup", "ongoing"])
def test_a_policy_is_the_same_in_each_form(name: str) -> None:
    plain = json.loads(of(f"policies {name} --account team"))
    template = json.loads(of(f"policies {name} --account team --format cloudformation"))
    (resource,) = template["Resources"].values()
    assert resource["Type"] == "AWS::IAM::ManagedPolicy"
    assert resource["Properties"]["PolicyDocument"] == plain
    terraform = json.loads(of(f"policies {name} --account team --format terraform"))
    (policy,) = terraform["resource"]["aws_iam_policy"].values()
    # Terraform would take IAM's variables for its own.
    assert re.sub(r"\$\$\{", "", policy["policy"]).count("${") == 0
    assert json.loads(policy["policy"].replace("$${", "${")) == plain


# -- the role


@pytest.fixture
def there(aws: Sandbox, keys: dict[str, str]) -> str:
    """The account "guided", set up."""
    secret = ("--secret-access-key", keys["aws_secret_access_key"])
    options = ("--access-key-id", keys["aws_access_key_id"], *secret, "--endpoint-url", aws.endpoint)
    result = run("setup", "aws", "--account", "guided", "--yes", *options)
    assert result.exit_code == 0, result.output
    return "guided"


def test_a_policy_is_attached_to_the_role_once(there: str) -> None:
    reads = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    where = ("--account", there)
    assert "Attached to role guided" in run("role", "attach-policy", reads, *where).output
    assert "Was attached" in run("role", "attach-policy", reads, *where).output
    assert reads in run("role", "list", *where).output
    assert load_account(there).attach_policy(reads) is False
    assert "Detached" in run("role", "detach-policy", reads, *where).output
    assert reads not in run("role", "list", *where).output


def test_policies_of_ones_own_are_attached_by_their_path(there: str, aws: Sandbox) -> None:
    anything = {"Effect": "Allow", "Action": "dynamodb:GetItem", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [anything]})
    made = aws.client("iam").create_policy(PolicyName="table", Path="/coiled/", PolicyDocument=document)
    arn = made["Policy"]["Arn"]
    assert "Attached to role guided" in run("role", "attach-policy", arn, "--account", there).output
    assert "Detached" in run("role", "detach-policy", arn, "--account", there).output


def test_what_an_administrator_attached_can_be_taken_away(there: str, aws: Sandbox) -> None:
    arn = "arn:aws:iam::aws:policy/AdministratorAccess"
    aws.client("iam").attach_role_policy(RoleName="guided", PolicyArn=arn)
    assert "Detached" in run("role", "detach-policy", arn, "--account", there).output


@pytest.mark.parametrize(
    ("arn", "text"),
    [
        ("AmazonS3ReadOnlyAccess", "must look like arn:aws:iam::aws:policy/"),
        ("arn:aws:iam::aws:policy/AdministratorAccess", "would open the whole AWS account"),
        ("arn:aws:iam::aws:policy/NoSuchReadOnlyAccess", "AWS has no policy of that ARN"),
        ("arn:aws:iam::aws:policy/AmazonDynamoDBFullAccess", "those of your own under the path /coiled/"),
        ("arn:aws:iam::123456789012:policy/mine", "those of your own under the path /coiled/"),
    ],
)
def test_a_policy_that_is_none_is_refused(there: str, arn: str, text: str) -> None:
    result = run("role", "attach-policy", arn, "--account", there)
    assert result.exit_code == 1
    assert text in result.output


def test_an_account_that_is_not_there_is_answered_with_those_that_are(there: str) -> None:
    result = run("ls", "--account", "guidde")
    assert result.exit_code == 1
    assert re.search(r"no block of that name \(there is: .*\bguided\b", result.output)
