"""`setup aws` and `account edit`: an account named by answers or flags, reviewed, and set up."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_URL
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from typer.testing import Result

from prefect_coiled import Ec2DaskAccount, load_account
from prefect_coiled.errors import AccountError
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.provision import take_inventory
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.saved_accounts import reset_account

from .conftest import held, run


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
    lines = [line for line in text.splitlines() if line.startswith("   ") and "creating" in line]
    assert len(lines) == len(set(lines)), "a line for each resource, whatever the number of calls"
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
    told = " ".join(before.partition("It makes: ")[2].split()).partition(".")[0].split(", ")
    assert {"VPC", "NAT gateway", "log group"} <= set(told)
    assert any(kind.startswith("subnet (") for kind in told)
    assert keys["aws_secret_access_key"] not in text
    assert inventory(aws) >= {"VPC", "subnet", "NAT gateway", "IAM role", "log group"}
    again = guided(aws, keys, "\n".join([*answers, "y"]) + "\n")
    assert "creating" not in again.output
    assert "nothing is made" in again.output
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
    assert vpcs(aws) == []


@pytest.mark.long
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
    assert len(vpcs(aws)) == 1
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
    # Each way to give credentials is told before one is asked for.
    ways = result.output.partition("2. Credentials")[0]
    assert "found    what AWS's own tools find here" in ways
    assert "keep" not in ways  # nothing is saved yet


def test_a_wrong_secret_of_a_given_key_is_asked_for_again(aws: Sandbox, keys: dict[str, str]) -> None:
    reset_account("guided")
    flags = ("--access-key-id", keys["aws_access_key_id"], "--region", "us-east-1", "--cidr", "me")
    command = ("setup", "aws", "--account", "guided", "--endpoint-url", aws.endpoint, *flags)
    result = run(*command, answer=f"wrong\n{keys['aws_secret_access_key']}\necr\nn\n")
    assert result.output.count("Error: checking the credentials") == 1
    # What was given is not asked for, and leaves no gap among the numbers.
    numbers = [int(n) for n in re.findall(r"^(\d)\. ", result.output, re.M)]
    assert numbers == list(range(1, len(numbers) + 1)), result.output


def test_a_name_that_cannot_be_one_is_refused_before_anything_is_asked(aws: Sandbox) -> None:
    for command in (("setup", "aws", "--account", "My_Team"), ("account", "edit", "My_Team")):
        result = run(*command, answer="us-east-1\n")
        assert result.exit_code == 1
        assert "must be of lower-case letters" in result.stderr
        assert "Region" not in result.output


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


@pytest.mark.long
def test_an_edit_changes_what_is_given_and_nothing_else(research: str) -> None:
    before = held(research)
    result = run("account", "edit", research, "--cidr", "10.2.0.0/16", "--tag", "cost=7", "--yes")
    assert result.exit_code == 0, result.output
    changed = {"ingress": "8786 from 10.2.0.0/16", "tags": "{'team': 'research', 'cost': '7'}"}
    assert held(research) == before | changed


@pytest.mark.long
def test_an_edit_shows_what_changes_and_asks(research: str) -> None:
    before = held(research)
    flags = ("--cidr", "0.0.0.0/0", "--secret-access-key", "new", "--access-key-id", "AKIANEW")
    result = run("account", "edit", research, *flags, answer="n\n")
    assert result.exit_code == 1
    assert "   ingress_cidr: '10.1.0.0/16' -> '0.0.0.0/0'\n" in result.output
    assert "   aws_credentials.aws_secret_access_key: changed\n" in result.output
    assert held(research) == before


def test_an_edit_of_the_region_says_what_stays_in_the_old_one(research: str) -> None:
    stays = (
        "What account research has in us-west-2 stays there and costs: "
        "`prefect-coiled account destroy research --region us-west-2` removes it.\n"
    )
    asked = run("account", "edit", research, "--region", "eu-west-1", answer="n\n")
    assert asked.output.index(stays) < asked.output.index("Submit?")
    assert stays in run("account", "edit", research, "--region", "eu-west-1", "--yes").output
    assert "stays" not in run("account", "edit", research, "--region", "eu-west-1", "--yes").output


def test_a_reset_says_what_stays_in_aws_and_costs(research: str) -> None:
    destroy = "`prefect-coiled account destroy research`"
    asked = run("account", "reset", research, answer="n\n")
    assert asked.exit_code == 1
    assert f"stays and costs, and no command finds it any more: first {destroy}." in asked.output
    done = run("account", "reset", research, "--yes")
    assert done.stdout == (
        "Account research was reset. What it has in AWS stays and costs: to remove that, name it again by "
        f"`prefect-coiled setup aws --account research`, then run {destroy}.\n"
    )
    Ec2DaskAccount(region="us-east-1", sandbox=False).save(research, overwrite=True)
    told = json.loads(run("account", "reset", research, "--yes", "--json").stdout)
    assert told["reset"]
    assert f"run {destroy}" in told["remark"]
    Ec2DaskAccount(region="us-east-1", sandbox=True).save(research, overwrite=True)
    assert "AWS" not in run("account", "reset", research, answer="n\n").output
    assert run("account", "reset", research, "--yes").stdout == "Account research was reset.\n"
    assert run("account", "reset", research, "--yes").stdout == (
        "Account research had no options of its own.\n"
    )


def test_an_edit_that_is_wrong_is_one_line_and_changes_nothing(research: str) -> None:
    before = held(research)
    result = run("account", "edit", research, "--region", "eu-wst-1", "--yes")
    assert result.exit_code == 1
    assert "Did you mean 'eu-west-1'?" in result.output
    assert result.output.count("\n") == 1
    assert held(research) == before


@pytest.mark.long
def test_the_guided_command_keeps_what_is_saved(aws: Sandbox, research: str) -> None:
    before = held(research)
    result = run("setup", "aws", "--account", research, answer="\n\n\ny\n")
    assert result.exit_code == 0, result.output
    assert "1. Region [us-west-2]" in result.output
    assert "2. Credentials (keep, found, profile, keys) [keep]" in result.output
    assert "Nothing changes." in result.output
    assert [int(n) for n in re.findall(r"^(\d)\. ", result.output, re.M)] == [1, 2, 3, 4, 5]
    assert held(research) == before
    made = {r.kind for r in take_inventory(load_account(research).door("us-west-2"))}
    assert "VPC" in made
    assert "NAT gateway" not in made
    assert run("account", "destroy", research, answer="research\n").exit_code == 0


def test_an_account_that_is_not_there_is_not_edited(research: str) -> None:
    result = run("account", "edit", "reserch", "--spot", "--yes")
    assert result.exit_code == 1
    assert "has no options yet" in result.output
