"""The blocks' forms, filled in a browser as a person would, and what becomes of what was typed."""

from __future__ import annotations

import subprocess
import sys
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.utilities.callables import parameter_schema
from prefect_aws import AwsCredentials
from typer.testing import CliRunner

from prefect_coiled import CoiledTaskRunner, Ec2DaskAccount, load_account
from prefect_coiled.blocks import account_from_block
from prefect_coiled.cli import app
from prefect_coiled.errors import AccountError
from prefect_coiled.options import REGIONS, merge
from prefect_coiled.sandbox import Sandbox

from .person import FormV1, FormV2, open_page

TYPE = "ec2-dask-account"
SECRET = "canary-77aa"


def account_id(name: str, validate: bool = True) -> str:
    return str(Ec2DaskAccount.load(name, validate=validate, _sync=True)._block_document_id)


def test_the_form_is_filled_saved_loaded_and_used_by_a_flow(url: str, sandbox: Sandbox) -> None:
    with open_page(url) as page:
        form = FormV2(page, TYPE)
        form.add_block("AWS Credentials", "keys", key_id="AKIAEXAMPLE", secret=SECRET)
        form.add_block("Registry", "images", choose_kind="ecr")
        assert form.options("Region") == list(REGIONS)
        assert len(REGIONS) == 16
        assert form.options("Spot Policy") == ["spot", "spot_with_fallback"]
        assert form.options("Way Out") == ["nat", "public-ip", "none"]
        form.choose("Region", "eu-west-1")
        form.text("Zone", "eu-west-1b")
        form.switch("Spot Workers")
        form.choose("Spot Policy", "spot_with_fallback")
        form.ports(8786, 8787)
        form.ports(8786, 8787, 9000)
        form.text("Reachable From", "203.0.113.0/24")
        form.switch("Sandbox")
        form.name("my-team")
        form.save()
        page.get_by_text('Ec2DaskAccount.load("my-team")').first.wait_for()
        assert SECRET not in page.content()

    block = Ec2DaskAccount.load("my-team", _sync=True)
    assert block.aws_credentials.aws_access_key_id == "AKIAEXAMPLE"
    assert block.aws_credentials.aws_secret_access_key.get_secret_value() == SECRET
    assert block.aws_credentials._block_document_name == "keys"
    assert (block.registry.kind, block.registry._block_document_name) == ("ecr", "images")
    account = load_account("my-team")
    options = merge(account=account.options, config={}).options
    assert (options.region, options.zone, options.spot_policy) == (
        "eu-west-1",
        "eu-west-1b",
        "spot_with_fallback",
    )
    assert [(r.ports, r.cidr) for r in options.ingress] == [((8786, 8787, 9000), "203.0.113.0/24")]
    assert account.is_sandbox

    @task
    def square(x: int) -> int:
        return x * x

    @flow(task_runner=CoiledTaskRunner(n_workers=1, account="my-team", wait_for_workers=True))
    def squares() -> int:
        return sum(square.map(range(3)).result())

    assert squares() == 5
    machines = sandbox.client("ec2", "eu-west-1").describe_instances()["Reservations"]
    found = [i for r in machines for i in r["Instances"]]
    assert {i["Placement"]["AvailabilityZone"] for i in found} == {"eu-west-1b"}
    assert [i.get("InstanceLifecycle") for i in found].count("spot") == 1


def test_the_older_form_gives_the_same(url: str) -> None:
    with open_page(url, "v1") as page:
        form = FormV1(page, TYPE)
        form.name("old-form")
        assert form.options("Region") == list(REGIONS)
        form.choose("Region", "eu-west-1")
        form.switch("Spot Workers")
        form.choose("Spot Policy", "spot_with_fallback")
        form.json("Open Ports", "[8786, 9000]")
        form.text("Reachable From", "203.0.113.0/24, 198.51.100.0/24")
        # This form knows nested blocks by the names of their classes.
        form.add_block("AwsCredentials", "old-keys", key_id="AKIAEXAMPLE", secret=SECRET)
        form.save()
    account = load_account("old-form")
    options = merge(account=account.options, config={}).options
    assert (options.region, options.spot_policy) == ("eu-west-1", "spot_with_fallback")
    assert [(r.ports, r.cidr) for r in options.ingress] == [
        ((8786, 9000), "203.0.113.0/24"),
        ((8786, 9000), "198.51.100.0/24"),
    ]
    assert account.credentials.secret_access_key is not None
    assert account.credentials.secret_access_key.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("name", "label", "typed", "said"),
    [
        ("bad-port", "Open Ports", "99999", "port 99999: must be a number from 1 to 65535"),
        ("bad-network", "Reachable From", "203.0.113.0/99", "203.0.113.0/99"),
        ("bad-zone", "Zone", "us-west-2a", "us-west-2a"),
    ],
)
def test_what_the_form_lets_through_is_refused_when_it_is_used(
    url: str, name: str, label: str, typed: str, said: str
) -> None:
    with open_page(url) as page:
        form = FormV2(page, TYPE)
        form.choose("Region", "us-east-1")
        form.ports(int(typed)) if label == "Open Ports" else form.text(label, typed)
        form.name(name)
        form.save()
    with pytest.raises(AccountError) as caught:
        load_account(name)
    assert said in str(caught.value)
    told = CliRunner().invoke(app, ["check", "--account", name])
    assert told.exit_code == 1
    assert f"Error: account '{name}': " in told.output
    assert said in told.output


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_the_logo_the_description_and_the_way_to_the_docs_are_shown(
    url: str, square_picture: bytes, version: str
) -> None:
    with open_page(url, version, square_picture) as page:
        page.goto(f"blocks/catalog/{TYPE}")
        page.get_by_text("An AWS account for Dask clusters on EC2").first.wait_for()
        page.wait_for_function(
            "[...document.images].some(i => i.src.endsWith('.png') && i.naturalWidth === 225)"
        )
        sizes = page.evaluate(
            "[...document.images].filter(i => i.src.endsWith('.png')).map(i => [i.width, i.height])"
        )
        assert all(width == height > 20 for width, height in sizes)
        link = page.get_by_role("link", name="Documentation").or_(page.locator("a[href*='prefect-dask']"))
        assert str(link.first.get_attribute("href")).startswith("https://")


def test_prefects_own_command_registers_the_types_with_the_logo_of_ones_choice(
    url: str, environ: dict[str, str]
) -> None:
    logo = "http://127.0.0.1:9/logo.png"
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "prefect_coiled"]
    told = subprocess.run(
        command,
        env={**environ, "PREFECT_COILED_LOGO_URL": logo},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    try:
        assert told.returncode == 0, told.stdout + told.stderr
        assert "EC2 Dask Account" in told.stdout
        assert "EC2 Dask Registry" in told.stdout
        assert str(kept_logo()) == logo
    finally:
        Ec2DaskAccount.register_type_and_schema(_sync=True)
    assert str(kept_logo()).startswith("https://")


def kept_logo() -> object:
    with get_client(sync_client=True) as client:
        return client.read_block_type_by_slug(TYPE).logo_url


def test_a_saved_block_is_chosen_as_the_parameter_of_a_run(url: str) -> None:
    Ec2DaskAccount(region="us-east-2").save("as-parameter", overwrite=True, _sync=True)

    @flow(name="takes an account")
    def takes(account: Ec2DaskAccount) -> str:
        return account_from_block(account).slug

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow(takes),
            name="by-hand",
            parameter_openapi_schema=parameter_schema(takes.fn).model_dump_for_openapi(),
            enforce_parameter_schema=True,
        )
    with open_page(url) as page:
        page.goto(f"deployments/deployment/{deployment}/run")
        page.get_by_role("button", name="Submit").wait_for()
        page.get_by_role("button", name="Select").first.click()
        page.get_by_role("option", name="as-parameter").click()
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("created").first.wait_for()
    with get_client(sync_client=True) as client:
        (run,) = [r for r in client.read_flow_runs() if r.deployment_id == UUID(str(deployment))]
    reference = {"account": {"$ref": {"block_document_id": account_id("as-parameter")}}}
    assert run.parameters in (reference, {"account": {"$ref": account_id("as-parameter")}})
    # As a worker does it: the reference becomes the block.
    from prefect.flow_engine import run_flow

    assert run_flow(takes, flow_run=run, return_type="result") == "as-parameter"


def test_a_block_is_made_edited_broken_and_mended_in_the_form(url: str, sandbox: Sandbox) -> None:
    with open_page(url) as page:
        form = FormV2(page, TYPE)
        form.add_block("AWS Credentials", "keys-of-a-life", key_id="AKIAOFALIFE", secret=SECRET)
        form.choose("Region", "us-east-2")
        form.name("a-life")
        form.save()
        made = load_account("a-life")
        assert made.options["region"] == "us-east-2"

        form = FormV2(page, TYPE, account_id("a-life"))
        assert SECRET not in page.content()
        form.choose("Region", "eu-west-1")
        form.text("Zone", "eu-west-1b")
        form.save()
        edited = load_account("a-life")
        assert edited.options["zone"] == "eu-west-1b"
        assert edited.credentials.secret_access_key is not None
        assert edited.credentials.secret_access_key.get_secret_value() == SECRET

        form = FormV2(page, TYPE, account_id("a-life"))
        form.text("Zone", "us-west-2a")
        form.save()
        with pytest.raises(AccountError, match="us-west-2a"):
            load_account("a-life")
        told = CliRunner().invoke(app, ["check", "--account", "a-life"])
        assert told.exit_code == 1
        assert "us-west-2a" in told.output

        form = FormV2(page, TYPE, account_id("a-life", validate=False))
        form.text("Zone", "")
        form.save()
    assert load_account("a-life").options["region"] == "eu-west-1"
    assert not load_account("a-life").options.get("zone")
    # What nobody touched is as it was, and the block that was named is named still.
    block = Ec2DaskAccount.load("a-life", _sync=True)
    assert block.aws_credentials.aws_secret_access_key.get_secret_value() == SECRET
    assert block.aws_credentials._block_document_name == "keys-of-a-life"


def test_the_older_form_keeps_the_block_that_is_named(url: str) -> None:
    AwsCredentials(aws_access_key_id="AKIAOLDER", aws_secret_access_key=SECRET).save("older-keys", _sync=True)
    keys = AwsCredentials.load("older-keys", _sync=True)
    Ec2DaskAccount(region="us-east-2", aws_credentials=keys).save("older-edited", _sync=True)
    with open_page(url, "v1") as page:
        form = FormV1(page, TYPE, account_id("older-edited"))
        form.choose("Region", "eu-west-1")
        page.get_by_role("button", name="Save").click()
        page.wait_for_url(lambda address: not address.endswith("/edit"))
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("older-edited", TYPE)
    assert list(document.block_document_references) == ["aws_credentials"]
    account = load_account("older-edited")
    assert account.options["region"] == "eu-west-1"
    assert account.credentials.secret_access_key is not None
    assert account.credentials.secret_access_key.get_secret_value() == SECRET
