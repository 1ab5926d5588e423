"""Whatever lists does so as JSON too, for programs: on standard output, and nothing beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import AwsCredentials

from prefect_coiled import Cluster, Ec2DaskAccount
from prefect_coiled.aws.baked_images import create_baked_image
from prefect_coiled.aws.instances import find_instances
from prefect_coiled.aws.kinds import KINDS, drop, find
from prefect_coiled.blocks import load_account
from prefect_coiled.cli import app
from prefect_coiled.sandbox import Sandbox, SandboxInfo

from .conftest import run
from .test_face import ALL

ROOT = Path(__file__).parents[2]
NAME = "of-the-cli"

# What does something, and says as JSON too how that went.
ACTS = {
    ("account", "destroy"),
    ("account", "edit"),
    ("account", "reset"),
    ("demo",),
    ("doctor",),
    ("environment", "bake"),
    ("environment", "upload"),
    ("role", "attach-policy"),
    ("role", "detach-policy"),
    ("sandbox", "start"),
    ("sandbox", "stop"),
    ("setup", "aws"),
    ("setup", "iam"),
    ("setup", "region"),
    ("stop",),
    ("sweep",),
}
# JSON anyway.
TEXT = {("policies",)}
# How each is called on a cluster that runs, and what its rows have.
SHOWS: dict[tuple[str, ...], tuple[tuple[str, ...], set[str]]] = {
    ("account", "explain"): (("account", "explain"), {"option", "value", "from", "remark"}),
    ("account", "list"): (("account", "list"), {"account", "region", "egress", "where"}),
    ("blocks", "apply"): (("blocks", "apply", "DOCUMENT", "--dry-run"), {"type", "name", "state"}),
    ("dashboard",): (("dashboard", NAME), {"name", "dashboard_link"}),
    ("logs",): (("logs", NAME, "--tail", "5"), {"role", "instance", "lines"}),
    ("check",): (("check",), {"account", "region", "arn", "denied", "remark", "not_foreseen"}),
    # The first record comes a while after the scheduler: none by then.
    ("costs",): (("costs", "--since", "1m"), set()),
    ("cost",): (("cost", NAME), {"name", "count", "usd_per_hour", "usd"}),
    # Nothing differs here.
    ("environment", "diff"): (("environment", "diff"), set()),
    ("environment", "images"): (("environment", "images"), {"image_id", "environment", "python", "state"}),
    ("firewall",): (("firewall", NAME), {"ports", "cidr"}),
    ("quotas",): (("quotas",), {"code", "name", "console", "limit", "used", "unit", "unknown"}),
    ("images",): (("images", "--account", "in-ecr"), set()),
    ("ls",): (("ls",), {"name", "state", "workers", "types", "usd_per_hour"}),
    ("notifications",): (("notifications",), {"time", "level", "event_type", "msg", "data"}),
    ("resources",): (("resources",), {"kind", "resource_id", "cluster"}),
    ("timeline",): (("timeline", NAME), {"name", "begin", "end"}),
    ("role", "list"): (("role", "list"), set()),
    ("sandbox", "status"): (("sandbox", "status"), {"endpoint", "pid", "instances"}),
}


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_a_command_that_shows_or_changes_something_has_json(path: tuple[str, ...]) -> None:
    if path not in TEXT:
        assert "--json" in options(ALL[path]), (
            f"{' '.join(path)} shows or changes something, and has no --json"
        )
        assert path in ACTS or path in SHOWS, f"{' '.join(path)} --json is not tried"


@pytest.fixture
def baked(cluster: Cluster) -> Iterator[str]:
    """An image of the scheduler's machine, as a bake leaves it."""
    aws = load_account().door("us-east-1")
    (machine,) = (m for m in find_instances(aws, cluster.name) if m.role == "scheduler")
    made = create_baked_image(aws, machine.instance_id, "coiled-default-abc", "abc", "3.11")
    yield made
    for row in (KINDS["image"], KINDS["snapshot"]):
        for item in find(aws, row):
            drop(aws, row, [item], 60.0)


def shown(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code and what was written, by this process or any that it starts."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        app(list(arguments), prog_name="prefect-coiled")
    written = capfd.readouterr()
    return int(ended.value.code or 0), written.out, written.err


def test_json_stands_alone_on_standard_output_and_has_the_rows_of_the_table(
    baked: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    Ec2DaskAccount(region="us-east-1", sandbox=True).save("in-ecr", overwrite=True)
    assert run("setup", "region", "--account", "in-ecr").exit_code == 0
    document = tmp_path / "block.yaml"
    document.write_text((ROOT / "blocks" / "my-team.yaml").read_text())
    for path, (words, keys) in SHOWS.items():
        arguments = [str(document) if word == "DOCUMENT" else word for word in words]
        code, out, err = shown(capfd, *arguments, "--json")
        assert code == 0, (path, out, err)
        assert "\x1b" not in out, path
        found = json.loads(out)  # anything beside it is an error
        rows = found if isinstance(found, list) else [found]
        assert not keys or rows, path
        for row in rows:
            assert not keys or keys <= set(row), (path, set(row))
    (image,) = json.loads(shown(capfd, "environment", "images", "--json")[1])
    assert (image["image_id"], image["environment"], image["python"]) == (baked, "abc", "3.11")
    assert baked in shown(capfd, "environment", "images")[1]


def test_where_there_is_nothing_json_is_an_empty_list(
    sandbox: SandboxInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in (["ls"], ["cost"], ["environment", "images"], ["notifications"]):
        assert shown(capfd, *words, "--region", "sa-east-1", "--json")[:2] == (0, "[]\n"), words


def test_an_error_leaves_standard_output_empty(
    sandbox: SandboxInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    shows = set(SHOWS) - {
        ("account", "list"),
        ("blocks", "apply"),
        ("sandbox", "status"),
        ("environment", "diff"),
    }
    for path in sorted(shows):
        name = ["nobodys"] if path == ("account", "explain") else ["--account", "nobodys"]
        words = [*path, *([NAME] if path[0] in ("dashboard", "firewall", "logs", "timeline") else []), *name]
        code, out, err = shown(capfd, *words, "--json")
        assert (code, out) == (1, ""), (path, err)
        assert err.startswith("Error: account 'nobodys'"), path
        assert err.count("\n") == 1, err


def test_what_cannot_be_foreseen_is_said_in_json_too(
    sandbox: SandboxInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    with Sandbox({"boot": "none", "iam": "on"}) as strict:
        key, secret = strict.add_user("asker")
        credentials = AwsCredentials(
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_client_parameters={"endpoint_url": strict.endpoint},
        )
        Ec2DaskAccount(region="us-east-1", aws_credentials=credentials).save("asker", overwrite=True)
        code, out, _ = shown(capfd, "check", "--account", "asker", "--json")
    answer = json.loads(out)
    assert code == 1
    assert answer["arn"].endswith(":user/asker")
    assert answer["denied"] is None
    # The endpoint is not that of this machine's sandbox, so that its machines may be anywhere.
    assert "an address of this machine alone" in answer["remark"]
    assert "iam:SimulatePrincipalPolicy" in answer["not_foreseen"]


def test_json_is_not_mixed_with_what_prefect_says_of_a_temporary_server(
    sandbox: SandboxInfo, tmp_path: Path
) -> None:
    environ = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "PREFECT_API_URL")}
    environ |= {"PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "DEBUG", "FORCE_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "prefect_coiled.cli", "account", "list", "--json"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    )
    assert [row["account"] for row in json.loads(done.stdout)] == ["default"]


def test_what_changes_something_tells_as_json_what_became_of_it(
    cluster: Cluster, sandbox: SandboxInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> Any:
        code, out, err = shown(capfd, *words, "--json")
        assert code == 0, (words, out, err)
        return json.loads(out)

    lines = shown(capfd, "logs", NAME, "--instance", "scheduler", "--json")[1]
    (machine,) = json.loads(lines)
    assert machine["role"] == "scheduler"
    assert machine["lines"]
    policy = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    assert [told("role", "attach-policy", policy)["changed"] for _ in range(2)] == [True, False]
    assert told("role", "detach-policy", policy)["attached"] is False
    removed = told("stop", NAME, "--yes")
    assert len(removed["removed"]["instance"]) == 2
    keys = ("--access-key-id", "sandbox", "--secret-access-key", sandbox.secret_access_key)
    place = ("--region", "eu-central-1", "--endpoint-url", sandbox.endpoint)
    made = told("setup", "aws", "--account", "as-json", "--yes", *place, *keys)
    assert (made["new"], made["region"]) == (True, "eu-central-1")
    assert made["resources"]["network"]["vpc_id"].startswith("vpc-")
    assert sandbox.secret_access_key not in json.dumps(made)
    edited = told("account", "edit", "as-json", "--yes", "--egress", "public-ip")
    assert any("public-ip" in change for change in edited["changes"])
    assert told("account", "reset", "as-json", "--yes") == {"account": "as-json", "reset": True}
    printed = told("setup", "iam", "--user", "of-json", "--aws-account-id", "123456789012")
    assert printed[0]["call"] == "CreateUser"
    assert all(row["command"].startswith("aws iam ") for row in printed)
    applied = [told("setup", "iam", "--user", "of-json", "--apply", "--yes", "--key") for _ in range(2)]
    assert "made" in {row["state"] for row in applied[0]["steps"]}
    assert applied[0]["access_key"]["secret_access_key"]
    assert {row["state"] for row in applied[1]["steps"]} == {"there"}
    assert "access_key" not in applied[1]
    counted = told("demo", "--workers", "1")
    assert (counted["primes"], counted["workers"]) == (78_498, 1)
    assert told("sandbox", "start")["endpoint"] == sandbox.endpoint
    assert sandbox.secret_access_key not in shown(capfd, "sandbox", "start", "--json")[1]


@pytest.mark.parametrize(
    "words",
    [
        "stop x",
        "setup aws",
        "setup iam --user x --apply",
        "account edit",
        "account reset",
        "account destroy x",
    ],
)
def test_json_asks_nobody(words: str, sandbox: SandboxInfo, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = shown(capfd, *words.split(), "--json")
    assert (code, out) == (1, "")
    assert "nobody can be asked beside it" in err
