"""Each command against a sandbox."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from prefect.settings import PREFECT_API_URL
from prefect_aws import AwsCredentials

from prefect_coiled import Cluster, Ec2DaskAccount, Ec2DaskRegistry, cluster_logs
from prefect_coiled.errors import OptionsError
from prefect_coiled.sandbox import Sandbox, SandboxInfo, status

from .conftest import run


def test_the_sandbox_is_started_found_and_stopped() -> None:
    first = run("sandbox", "start")
    assert first.exit_code == 0, first.output
    assert first.stdout == run("sandbox", "start").stdout
    assert "instances: 0" in run("sandbox", "status").stdout
    assert run("sandbox", "stop").stdout == "The sandbox was stopped.\n"
    gone = run("sandbox", "status")
    assert (gone.exit_code, gone.stdout) == (1, "The sandbox does not run.\n")
    assert run("sandbox", "stop").stdout == "The sandbox did not run.\n"


def test_accounts_are_listed_with_the_sandbox_as_default() -> None:
    Ec2DaskAccount(region="eu-west-1", spot=True, sandbox=True).save("listed", overwrite=True)
    shown = run("account", "list").stdout.splitlines()
    assert re.match(
        r"listed +eu-west-1 +eu-west-1a +yes +nat +sandbox", next(s for s in shown if "listed" in s)
    )
    assert any(line.startswith("default") and "no block of that name" in line for line in shown)


def test_explain_says_where_each_value_came_from(sandbox: SandboxInfo) -> None:
    Ec2DaskAccount(region="eu-west-1", sandbox=True).save("explained", overwrite=True)
    shown = run("account", "explain", "explained").stdout
    assert re.search(r"^region +eu-west-1 +account block", shown, re.M)
    assert re.search(r"^spot +on-demand +default", shown, re.M)
    shown = run("account", "explain", "explained", "--region", "us-west-2").stdout
    assert re.search(r"^region +us-west-2 +keyword", shown, re.M)


def test_check_says_who_the_credentials_are(sandbox: SandboxInfo) -> None:
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "Account default in us-east-1 (the sandbox on this machine)." in checked.stdout
    assert re.search(r"AWS account \d{12} as arn:aws:", checked.stdout)


@pytest.mark.long
def test_check_says_how_tasks_ask_a_prefect_api_that_the_machines_cannot_reach(sandbox: SandboxInfo) -> None:
    # An account that is not the sandbox, but whose AWS is there.
    credentials = AwsCredentials(
        aws_access_key_id="sandbox",
        aws_secret_access_key=sandbox.secret_access_key,
        aws_client_parameters={"endpoint_url": sandbox.endpoint},
    )
    Ec2DaskAccount(region="us-east-1", aws_credentials=credentials).save("remote", overwrite=True)
    checked = run("check", "--account", "remote")
    assert checked.exit_code == 0, checked.output
    assert "Tasks ask the Prefect API through this process, which keeps its key: http://" in checked.stdout
    assert "an address of this machine alone." in checked.stdout
    answer = json.loads(run("check", "--account", "remote", "--json").stdout)
    assert answer["denied"] == []
    assert answer["remark"].startswith("Tasks ask the Prefect API through this process")


@pytest.mark.long
def test_check_tells_all_that_stands_in_the_way_and_not_the_first_of_it() -> None:
    kms = "arn:aws:kms:us-east-1:123456789012:key/03c1b94d-1d08-488a-8dcd-3449c8ad46fb"
    with Sandbox({"boot": "none", "iam": "on", "disk_key": kms}) as strict:
        asks = {"Effect": "Allow", "Action": "iam:Simulate*", "Resource": "*"}
        reads = {"Effect": "Allow", "Action": ["ec2:Describe*", "ec2:GetEbs*", "iam:Get*"], "Resource": "*"}
        rights = {"Version": "2012-10-17", "Statement": [asks, reads]}
        key, secret = strict.add_user("reader", rights)
        credentials = AwsCredentials(
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_client_parameters={"endpoint_url": strict.endpoint},
        )
        Ec2DaskAccount(region="us-east-1", aws_credentials=credentials).save("reader", overwrite=True)
        checked = run("check", "--account", "reader")
        answer = json.loads(run("check", "--account", "reader", "--json").stdout)
    assert checked.exit_code == 1
    assert re.search(r"^ec2:RunInstances .* ongoing", checked.stdout, re.M)
    assert f"`prefect-coiled policies ongoing --account reader --kms-key {kms}`" in checked.stdout
    assert "`prefect-coiled policies ongoing --account reader`" in checked.stdout
    assert answer["disk_key_denied"] is True
    assert "ec2:RunInstances" in {one["action"] for one in answer["denied"]}


def test_check_with_json_prints_json_where_the_credentials_are_refused_too(sandbox: SandboxInfo) -> None:
    credentials = AwsCredentials(
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
        aws_secret_access_key="nobodys",
        aws_client_parameters={"endpoint_url": sandbox.endpoint},
    )
    Ec2DaskAccount(region="us-east-1", aws_credentials=credentials).save("refused", overwrite=True)
    told = run("check", "--account", "refused", "--json")
    answer = json.loads(told.stdout)
    assert (told.exit_code, answer["ready"], answer["denied"]) == (1, False, None)
    assert "InvalidClientTokenId" in answer["error"]
    assert "InvalidClientTokenId" in told.stderr


def test_an_unknown_account_is_one_line_on_stderr(sandbox: SandboxInfo) -> None:
    failed = run("ls", "--account", "nobodys")
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert re.fullmatch(r"Error: account 'nobodys': no block of that name .*\n", failed.stderr)
    assert "Run `prefect-coiled setup aws --account nobodys`" in failed.stderr


def test_a_region_that_does_not_exist_is_one_line_on_stderr(sandbox: SandboxInfo) -> None:
    failed = run("ls", "--region", "us-east-9")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: region 'us-east-9'")
    assert failed.stderr.count("\n") == 1


def test_nothing_is_listed_where_nothing_runs(sandbox: SandboxInfo) -> None:
    shown = run("ls", "--region", "sa-east-1").stdout
    assert shown == (
        "No cluster of account default runs in sa-east-1 (the sandbox on this machine).\n"
        "Other regions were not looked at: give --all-regions.\n"
    )


def test_a_cluster_is_listed_read_and_stopped(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(line for line in run("ls").stdout.splitlines() if line.startswith("of-the-cli"))
    assert re.match(r"of-the-cli +running +\d+ s +1 +2 x m6i.xlarge +\S+ +\$0\.\d+", row)

    logs = run("logs", "of-the-cli", "--instance", "scheduler").stdout
    assert logs.startswith("== scheduler i-")
    assert run("logs", "of-the-cli", "--tail", "1").stdout.count("\n") <= 4

    assert run("dashboard", "of-the-cli").stdout.strip() == cluster.dashboard_link
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    assert run("dashboard", "of-the-cli", "--open").stdout.strip() == cluster.dashboard_link
    assert opened == [cluster.dashboard_link]

    refused = run("stop", "of-the-cli", answer="n\n")
    assert refused.exit_code == 1
    assert "Delete cluster of-the-cli with 2 machines" in refused.output
    found = status()
    assert found is not None
    assert found.instances == 2

    stopped = run("stop", "of-the-cli", "--yes")
    assert stopped.exit_code == 0, stopped.output
    assert stopped.stdout.startswith("Removed: 2 instances, ")
    found = status()
    assert found is not None
    assert found.instances == 0


@pytest.mark.parametrize("arguments", [("stop", "never-was", "--yes"), ("logs", "never-was")])
def test_a_cluster_that_is_not_there_is_an_error(sandbox: SandboxInfo, arguments: tuple[str, ...]) -> None:
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: cluster 'never-was': account default has none of that name")


@pytest.mark.long
def test_set_up_makes_what_sweep_releases(sandbox: SandboxInfo) -> None:
    planned = run("setup", "region", "--region", "us-west-2", "--plan")
    assert re.search(r"^create +NAT gateway +us-west-2\w +\$0.0500 +there is none *$", planned.stdout, re.M)
    assert planned.stdout.endswith("to make; costs $0.0500 an hour\n")
    made = run("setup", "region", "--region", "us-west-2")
    assert made.exit_code == 0, made.output
    again = run("setup", "region", "--region", "us-west-2", "--plan")
    assert again.stdout.endswith("set-up of default in us-west-2: nothing changes\n")
    assert "Account default is set up in us-west-2" in made.stdout
    assert "nat-" in made.stdout
    assert run("sweep", "--region", "us-west-2", "--keep-nat").stdout == "Removed: nothing\n"
    planned = run("sweep", "--region", "us-west-2", "--plan")
    assert re.search(r"^delete +NAT gateway +nat-\w+ +\$0.0500 +no cluster uses it *$", planned.stdout, re.M)
    assert planned.stdout.endswith("2 to remove; saves $0.0500 an hour\n")
    plan = json.loads(run("sweep", "--region", "us-west-2", "--plan", "--json").stdout)
    going = {c["resource_id"] for c in plan["changes"] if c["action"] == "delete"}
    assert run("sweep", "--region", "us-west-2").stdout.startswith("Removed: 1 NAT gateway")
    done = json.loads(run("sweep", "--region", "us-west-2", "--json").stdout)
    assert done == {"removed": {}, "left": {}, "needed": []}
    assert not [one for one in going if one in run("resources", "--region", "us-west-2").stdout]


@pytest.mark.long
def test_the_end_of_an_account_is_planned_shown_and_then_asked_about(sandbox: SandboxInfo) -> None:
    assert run("set-up", "--region", "sa-east-1").exit_code == 0
    destroy = ("account", "destroy", "default", "--region", "sa-east-1")
    plan = json.loads(run(*destroy, "--plan", "--json").stdout)
    # The role goes if no other region needs it.
    going = {c["resource_id"] for c in plan["changes"] if c["action"] == "delete"}
    going = {one if one.startswith("/prefect-coiled/") else one.rpartition("/")[2] for one in going}
    refused = run(*destroy, answer="no\n")
    assert refused.exit_code == 1
    assert all(one in refused.output for one in going)
    assert f"This removes {sum(c['action'] == 'delete' for c in plan['changes'])} resources" in refused.output
    shown = run("resources", "--region", "sa-east-1").stdout
    # A boundary is an administrator's; it goes where no other region needs it.
    assert [one for one in going if one not in shown and "boundary" not in one] == []
    alone = run(*destroy, "--json")
    assert "goes with --plan or --yes" in alone.stderr
    done = run(*destroy, "--yes", "--json")
    assert {one for ids in json.loads(done.stdout)["removed"].values() for one in ids} == going


@pytest.mark.long
def test_a_cluster_that_is_gone_still_has_its_logs_and_notifications(sandbox: SandboxInfo) -> None:
    with Cluster(n_workers=1, name="gone", wait_for_workers=True, quiet=True):
        pass
    text = run("logs", "gone", "--tail", "0").stdout
    assert "== scheduler i-" in text
    assert "== worker i-" in text
    found = cluster_logs("gone")
    assert "Scheduler" in found
    assert any("distributed" in log for log in found.values())
    assert set(cluster_logs("gone", workers=False)) == {"Scheduler"}
    followed = run("logs", "gone", "--follow", "--since", "1 hour", "--instance", "scheduler").stdout
    assert all(line.startswith("scheduler i-") for line in followed.splitlines())
    assert followed
    rows = json.loads(run("notifications", "--type", "create_worker", "--json").stdout)
    assert "gone" in [r["data"]["cluster"] for r in rows]
    assert "delete_cluster" in run("notifications").stdout


@pytest.mark.long
def test_a_cluster_that_somebody_else_stopped_closes_quietly(
    sandbox: SandboxInfo, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, str]] = []
    cluster = Cluster(
        n_workers=1,
        name="stopped-elsewhere",
        wait_for_workers=True,
        report=lambda step, state: told.append((step, state)),
    )
    command = [sys.executable, "-m", "prefect_coiled.cli", "stop", "stopped-elsewhere", "--yes"]
    environ = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    stopped = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert "2 instances" in stopped.stdout, stopped.stderr
    cluster.close()
    assert dict(told)["removed"] == "nothing"
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.long
def test_rules_of_a_running_cluster_are_shown_and_changed(cluster: Cluster) -> None:
    def shown(*flags: str) -> dict[str, list[int]]:
        result = run("firewall", "of-the-cli", "--json", *flags)
        assert result.exit_code == 0, result.output
        return {rule["cidr"]: rule["ports"] for rule in json.loads(result.stdout)}

    assert shown() == {"0.0.0.0/0": [8786, 8787]}
    assert shown("--cidr", "198.51.100.0/24", "--port", "8786") == {"198.51.100.0/24": [8786]}
    assert shown() == {"198.51.100.0/24": [8786]}
    # A port keeps the network that may reach it, and a network its ports.
    assert shown("--port", "8787") == {"198.51.100.0/24": [8787]}
    assert shown("--cidr", "203.0.113.0/24") == {"203.0.113.0/24": [8787]}
    refused = run("firewall", "of-the-cli", "--port", "22", "--cidr", "198.51.100.0/24")
    assert refused.exit_code == 1
    assert "port 22: opens only with a key pair" in refused.stderr
    with pytest.raises(OptionsError, match="port 22: opens only with a key pair"):
        cluster.set_ingress([{"ports": [22], "cidr": "198.51.100.0/24"}])
    assert shown() == {"203.0.113.0/24": [8787]}
    assert [(r.ports, r.cidr) for r in cluster.set_ingress("me")] == [((8787, 8786), "127.0.0.1/32")]
    assert "Nobody gets in." in run("firewall", "of-the-cli", "--close").stdout
    assert run("firewall", "of-the-cli", "--port", "8786").exit_code == 1
    assert shown() == {}


@pytest.mark.long
def test_everything_of_an_account_is_listed(cluster: Cluster) -> None:
    text = run("resources").stdout
    assert "of-the-cli" in text
    kinds = {r["kind"] for r in json.loads(run("resources", "--json").stdout)}
    assert kinds >= {"VPC", "NAT gateway", "instance", "security group", "IAM role", "log group"}


@pytest.mark.long
def test_images_are_listed_with_tag_digest_size_and_date(sandbox: SandboxInfo) -> None:
    import boto3

    Ec2DaskAccount(region="us-east-1", sandbox=True).save("with-images", overwrite=True)
    told = run("images", "--account", "with-images")
    assert told.exit_code == 1
    assert "no repository in us-east-1 yet" in told.stderr
    assert run("setup", "region", "--account", "with-images").exit_code == 0
    assert "has no images in us-east-1 yet" in run("images", "--account", "with-images").stdout
    ecr = boto3.client(
        "ecr",
        endpoint_url=sandbox.endpoint,
        aws_access_key_id="sandbox",
        aws_secret_access_key=sandbox.secret_access_key,
        region_name="us-east-1",
    )
    media = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"mediaType": media, "config": {"size": 300 * 2**20}, "layers": [{"digest": "sha256:1"}]}
    made = ecr.put_image(
        repositoryName="coiled-with-images", imageManifest=json.dumps(manifest), imageTag="v1"
    )
    digest = made["image"]["imageId"]["imageDigest"]
    shown = run("images", "--account", "with-images").stdout
    assert "dkr.ecr.us-east-1.amazonaws.com/coiled-with-images" in shown
    assert re.search(rf"^v1 +{digest} +300 MiB +\d{{4}}-\d\d-\d\d \d\d:\d\d", shown, re.M)
    (one,) = json.loads(run("images", "--account", "with-images", "--json").stdout)
    assert (one["tags"], one["digest"], one["size"]) == (["v1"], digest, 300 * 2**20)


@pytest.mark.long
def test_images_of_docker_hub_are_not_looked_for_in_ecr(sandbox: SandboxInfo) -> None:
    hub = Ec2DaskRegistry(kind="docker_hub", username="me", access_token="dckr_pat_canary")
    Ec2DaskAccount(region="us-east-1", registry=hub, sandbox=True).save("on-the-hub", overwrite=True)
    told = run("images", "--account", "on-the-hub")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "are kept in docker_hub docker.io/me as me" in told.stderr
    assert "canary" not in told.stderr
