import asyncio
import copy
import re
import subprocess
import sys
import traceback
import types
from typing import Any

import pytest
from prefect import flow
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect_aws import AwsCredentials
from prefect_aws.assume_role_parameters import AssumeRoleParameters
from prefect_aws.client_parameters import AwsClientParameters

import prefect_coiled
from prefect_coiled.blocks import (
    Ec2DaskAccount,
    Ec2DaskRegistry,
    Ec2DaskResults,
    account_from_block,
    aload_account,
    load_account,
)
from prefect_coiled.errors import AccountError, OptionsError
from prefect_coiled.options import REGIONS, merge

BLOCKS = [Ec2DaskAccount, Ec2DaskRegistry]


@pytest.fixture(scope="module", autouse=True)
def server(prefect_server):
    """Blocks are kept by the suite's Prefect server."""


@pytest.fixture
def saved():
    names = []

    def save(block, name):
        block.save(name, overwrite=True, _sync=True)
        names.append((type(block), name))
        return block

    yield save
    for kind, name in dict.fromkeys(names):
        kind.delete(name, _sync=True)


@pytest.fixture
def fake_sandbox(monkeypatch):
    info = types.SimpleNamespace(endpoint="http://127.0.0.1:4566", pid=1, secret_access_key="of-this-start")
    module = types.ModuleType("prefect_coiled.sandbox")
    module.ensure_started = lambda: info
    monkeypatch.setitem(sys.modules, "prefect_coiled.sandbox", module)
    return info


# The same as Prefect's BlockStandardTestSuite, which needs the network for the logo.
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_keeps_prefects_standards(block):
    assert block.get_description()
    assert str(block._documentation_url).startswith("https://")
    assert re.match(r"https://.*\.png$", str(block._logo_url))
    example = block.get_code_example()
    assert re.search(rf"from .* import {block.__name__}", example)
    assert re.search(rf'.* = {block.__name__}\.load\("BLOCK_NAME"\)', example)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_field_has_a_title_a_description_and_an_example(block):
    for name, field in block.model_fields.items():
        assert field.title, name
        assert field.description.endswith("."), name
        assert field.examples, name


@pytest.mark.parametrize("block", BLOCKS)
def test_exactly_one_field_is_required_so_that_a_flow_can_take_the_block(block):
    assert len(block.model_json_schema()["required"]) == 1


def test_names_and_slugs_are_our_own():
    assert [b.get_block_type_slug() for b in BLOCKS] == ["ec2-dask-account", "ec2-dask-registry"]
    assert [b.get_block_type_name() for b in BLOCKS] == ["EC2 Dask Account", "EC2 Dask Registry"]


def test_the_form_offers_regions_and_policies_as_drop_downs():
    properties = Ec2DaskAccount.model_json_schema()["properties"]
    assert properties["region"]["enum"] == list(REGIONS)
    assert properties["spot_policy"]["enum"] == ["spot", "spot_with_fallback"]
    assert properties["spot"]["type"] == "boolean"
    assert properties["zone"] == properties["zone"] | {"type": "string", "default": ""}


BAD = {
    "unknown region": {"region": "us-mars-1"},
    "no region": {},
    "misspelt field": {"region": "us-east-1", "regoin": "x"},
    "zone of another region": {"region": "us-east-1", "zone": "us-west-2a"},
    "port": {"region": "us-east-1", "ingress_ports": [99999]},
    "cidr": {"region": "us-east-1", "ingress_cidr": "me, 999.1.1.1/99"},
    "network without subnet": {"region": "us-east-1", "network_id": "vpc-0123456789abcdef0"},
    "subnet without network": {"region": "us-east-1", "scheduler_subnet_id": "subnet-01234567"},
    "external id without role": {"region": "us-east-1", "external_id": "x"},
    "session token": {
        "region": "us-east-1",
        "aws_credentials": AwsCredentials(
            aws_access_key_id="A", aws_secret_access_key="hunter2", aws_session_token="t"
        ),
    },
    "half a key": {"region": "us-east-1", "aws_credentials": AwsCredentials(aws_access_key_id="A")},
    "two roles": {
        "region": "us-east-1",
        "role_arn": "arn:aws:iam::123456789012:role/a",
        "aws_credentials": AwsCredentials(assume_role_arn="arn:aws:iam::123456789012:role/b"),
    },
    "mfa": {
        "region": "us-east-1",
        "aws_credentials": AwsCredentials(
            assume_role_arn="arn:aws:iam::123456789012:role/b",
            assume_role_kwargs=AssumeRoleParameters(SerialNumber="arn:mfa", TokenCode="123456"),
        ),
    },
}


@pytest.mark.parametrize("given", BAD.values(), ids=BAD)
def test_a_wrong_account_is_refused_in_one_line(given):
    with pytest.raises(OptionsError) as caught:
        Ec2DaskAccount(**given)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_docker_hub_without_a_token_is_refused():
    with pytest.raises(OptionsError, match="access token"):
        Ec2DaskRegistry(kind="docker_hub", username="me")
    with pytest.raises(OptionsError, match="there is no such field"):
        Ec2DaskRegistry(kind="ecr", tokn="x")


def test_an_account_is_loaded_by_its_slug_with_everything_it_says(saved):
    registry = saved(Ec2DaskRegistry(kind="docker_hub", username="me", access_token="hunter2"), "hub")
    credentials = saved(AwsCredentials(aws_access_key_id="A", aws_secret_access_key="hunter2"), "keys")
    saved(
        Ec2DaskAccount(
            region="eu-west-1",
            zone="eu-west-1b",
            spot=True,
            spot_policy="spot_with_fallback",
            ingress_ports=[8786, 8787],
            ingress_cidr="me, 203.0.113.0/24",
            egress="public-ip",
            registry=registry,
            aws_credentials=credentials,
            role_arn="arn:aws:iam::123456789012:role/dask",
            external_id="xyz",
            network_id="vpc-0123456789abcdef0",
            scheduler_subnet_id="subnet-0123456789abcdef0",
            tags={"team": "research"},
        ),
        "my-team",
    )
    account = load_account("my-team")
    options = merge(account=account.options, config={}).options
    assert (options.region, options.zone, options.egress) == ("eu-west-1", "eu-west-1b", "public-ip")
    assert options.spot_policy == "spot_with_fallback"
    assert [rule.cidr for rule in options.ingress] == ["me", "203.0.113.0/24"]
    assert options.registry.access_token.get_secret_value() == "hunter2"
    assert options.network.network_id == "vpc-0123456789abcdef0"
    assert account.credentials.secret_access_key.get_secret_value() == "hunter2"
    assert account.credentials.role_arn.endswith("role/dask")
    assert account.credentials.external_id == "xyz"
    assert account.tags == {"team": "research"}
    assert not account.is_sandbox
    assert "hunter2" not in repr(account)


def test_an_account_with_only_a_region_gives_the_defaults(saved):
    saved(Ec2DaskAccount(region="us-east-2"), "small")
    account = load_account("small")
    assert merge(account=account.options, config={}).options == merge({"region": "us-east-2"}).options
    assert account.credentials.description == "botocore's default credentials"
    assert account.endpoint_url is None


def test_a_mask_in_the_place_of_a_secret_is_told_with_what_to_do():
    credentials = AwsCredentials(aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="********")
    with pytest.raises(AccountError, match=r"the mask .* Choose the block of the AWS credentials"):
        Ec2DaskAccount(region="us-east-1", aws_credentials=credentials)


def edited_in_the_newer_form(name, **changes):
    """What Prefect's newer form does: what it was given goes back, whole, with these fields changed."""
    with get_client(sync_client=True) as client:
        slug = Ec2DaskAccount.get_block_type_slug()
        document = client.read_block_document_by_name(name, slug, include_secrets=False)
        update = {"data": {**document.data, **changes}, "merge_existing_data": False}
        client.request("PATCH", "/block_documents/{id}", path_params={"id": document.id}, json=update)
        return client.read_block_document_by_name(name, slug)


@pytest.fixture
def named_blocks(saved):
    """An account whose credentials and registry are blocks of their own."""
    # As forms make them: loaded, so that their names are known and the account refers to them.
    saved(AwsCredentials(aws_access_key_id="AKIAOTHER", aws_secret_access_key="of-another"), "other-keys")
    saved(AwsCredentials(aws_access_key_id="AKIANAMED", aws_secret_access_key="hunter2"), "named-keys")
    hub = Ec2DaskRegistry(kind="docker_hub", username="team", access_token="dckr_pat_hunter3")
    saved(hub, "named-hub")
    keys = AwsCredentials.load("named-keys", _sync=True)
    saved(Ec2DaskAccount(region="us-east-1", aws_credentials=keys, registry=hub), "names-blocks")


@pytest.mark.parametrize("load", [load_account, lambda name: Ec2DaskAccount.load(name, _sync=True)])
def test_an_account_that_names_blocks_and_was_edited_in_the_form_opens_and_names_them_still(
    named_blocks, saved, load
):
    left = edited_in_the_newer_form("names-blocks", region="eu-west-1")
    assert left.data["aws_credentials"]["aws_secret_access_key"] == "********"
    assert left.data["registry"]["access_token"] == "********"
    assert left.block_document_references == {}
    load("names-blocks")
    account = load_account("names-blocks")
    assert account.options["region"] == "eu-west-1"
    assert account.credentials.secret_access_key.get_secret_value() == "hunter2"
    assert account.options["registry"]["access_token"].get_secret_value() == "dckr_pat_hunter3"
    # What is changed in the block that is named counts.
    saved(AwsCredentials(aws_access_key_id="AKIANEW", aws_secret_access_key="rotated"), "named-keys")
    assert load_account("names-blocks").credentials.secret_access_key.get_secret_value() == "rotated"
    assert Ec2DaskAccount.load("names-blocks", _sync=True).registry._block_document_name == "named-hub"


def test_keys_whose_block_was_changed_after_the_form_give_their_secret(named_blocks, saved):
    edited_in_the_newer_form("names-blocks", region="eu-west-1")
    keys = {"aws_access_key_id": "AKIANAMED", "aws_secret_access_key": "hunter2"}
    saved(AwsCredentials(**keys, region_name="eu-west-1"), "named-keys")
    assert load_account("names-blocks").credentials.secret_access_key.get_secret_value() == "hunter2"


@pytest.mark.long
def test_a_mask_that_no_block_explains_or_more_than_one_is_told_with_what_to_do(named_blocks, saved):
    edited_in_the_newer_form("names-blocks", region="eu-west-1")
    saved(AwsCredentials(aws_access_key_id="AKIANEW", aws_secret_access_key="rotated"), "named-keys")
    with pytest.raises(AccountError, match=r"the mask .* no block .* Choose the block again") as caught:
        load_account("names-blocks")
    saved(AwsCredentials(aws_access_key_id="AKIANAMED", aws_secret_access_key="one"), "named-keys")
    saved(AwsCredentials(aws_access_key_id="AKIANAMED", aws_secret_access_key="two"), "other-keys")
    with pytest.raises(AccountError, match="any of named-keys, other-keys") as again:
        load_account("names-blocks")
    assert not any(secret in str(e.value) for e in (caught, again) for secret in ("rotated", "one.", "two"))


def test_an_endpoint_of_the_aws_credentials_is_kept():
    credentials = AwsCredentials(
        aws_client_parameters=AwsClientParameters(endpoint_url="http://localhost:5000")
    )
    block = Ec2DaskAccount(region="us-east-1", aws_credentials=credentials)
    assert account_from_block(block, "x").endpoint_url == "http://localhost:5000"


def test_coiled_yaml_names_the_account(saved):
    import dask.config

    saved(Ec2DaskAccount(region="us-east-2"), "from-file")
    with dask.config.set({"coiled.account": "from-file"}):
        assert load_account().slug == "from-file"


def test_an_account_is_loaded_inside_a_running_loop(saved):
    saved(Ec2DaskAccount(region="us-east-2"), "in-loop")

    async def inside():
        return load_account("in-loop"), await aload_account("in-loop")

    first, second = asyncio.run(inside())
    assert first == second


def test_an_account_is_loaded_inside_flows(saved):
    saved(Ec2DaskAccount(region="us-east-2"), "in-flow")

    @flow
    def sync_flow():
        return load_account("in-flow").slug

    @flow
    async def async_flow():
        return load_account("in-flow").slug + (await aload_account("in-flow")).slug

    assert sync_flow() == "in-flow"
    assert asyncio.run(async_flow()) == "in-flowin-flow"


def test_a_block_can_be_a_parameter_of_a_flow(saved):
    saved(Ec2DaskAccount(region="us-east-2"), "as-parameter")

    @flow
    def takes(account: Ec2DaskAccount):
        return account_from_block(account).slug

    assert takes(Ec2DaskAccount.load("as-parameter", _sync=True)) == "as-parameter"
    schema = takes.validate_parameters({"account": {"region": "us-east-2"}})
    assert schema["account"].region == "us-east-2"


def test_a_block_of_a_deployments_parameters_is_accepted_by_the_server(saved):
    from prefect.client.orchestration import get_client

    saved(Ec2DaskAccount(region="us-east-2"), "deployed")

    @flow
    def takes(account: Ec2DaskAccount):
        return account.region

    reference = {
        "$ref": {"block_document_id": str(Ec2DaskAccount.load("deployed", _sync=True)._block_document_id)}
    }
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(takes)
        from prefect.utilities.callables import parameter_schema

        deployment = client.create_deployment(
            flow_id,
            name="d",
            parameters={"account": reference},
            parameter_openapi_schema=parameter_schema(takes.fn).model_dump_for_openapi(),
            enforce_parameter_schema=True,
        )
        run = client.create_flow_run_from_deployment(deployment, parameters={"account": reference})
        assert client.read_flow_run(run.id).parameters == {"account": reference}
        client.delete_flow_run(run.id)


def test_a_missing_account_names_those_that_there_are(saved):
    saved(Ec2DaskAccount(region="us-east-2"), "there")
    with pytest.raises(AccountError, match=r"'nowhere': no block of that name \(there is: .*there"):
        load_account("nowhere")


@pytest.mark.parametrize("slug", ["Upper", "with space", "a/b", "-a", "a" * 65])
def test_a_slug_that_cannot_name_an_iam_role_is_refused(slug):
    with pytest.raises(AccountError, match="lower-case"):
        load_account(slug)


def test_what_the_form_lets_through_is_refused_in_one_line_when_loaded(saved):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import BlockDocumentUpdate

    saved(Ec2DaskAccount(region="us-east-2"), "from-form")
    document = Ec2DaskAccount.load("from-form", _sync=True)._block_document_id
    with get_client(sync_client=True) as client:
        client.request(
            "PATCH",
            "/block_documents/{id}",
            path_params={"id": document},
            json=BlockDocumentUpdate(data={"region": "us-east-2", "ingress_ports": [99999]}).model_dump(
                mode="json", exclude_unset=True, exclude={"block_schema_id"}
            )
            | {"merge_existing_data": False},
        )
    with pytest.raises(AccountError) as caught:
        load_account("from-form")
    assert str(caught.value).startswith("account 'from-form': port 99999: must be a number from 1 to 65535")
    assert "\n" not in str(caught.value)


def by_api(name: str, data: dict[str, Any]) -> None:
    """A document as the API, Terraform or another release saves it: nobody checks it."""
    from prefect.client.orchestration import get_client

    Ec2DaskAccount.register_type_and_schema(_sync=True)
    with get_client(sync_client=True) as client:
        kind = client.read_block_type_by_slug("ec2-dask-account")
        schema = client.read_block_schema_by_checksum(Ec2DaskAccount._calculate_schema_checksum())
        body = {"name": name, "data": data, "block_schema_id": str(schema.id), "block_type_id": str(kind.id)}
        client.request("POST", "/block_documents/", json=body).raise_for_status()


@pytest.mark.parametrize(
    ("data", "field", "release"),
    [
        ({"zone": "us-east-1a"}, "region", "An older release may have saved it, without region"),
        ({"region": "us-east-1", "later": 1}, "later", "A newer release may have saved it, with later"),
        ({"region": "us-east-1", "spot": "perhaps"}, "spot", ""),
        (
            {"region": "us-east-1", "aws_credentials": '{"aws_secret_access_key": "hunter2"}'},
            "aws_credentials",
            "",
        ),
    ],
)
def test_what_another_release_or_the_api_saved_says_so_and_loads_without_validation(data, field, release):
    by_api("of-another", data)
    try:
        for load in (Ec2DaskAccount.load, load_account):
            with pytest.raises(OptionsError, match=f"'of-another': .*{field}") as caught:
                load("of-another")
            told = "".join(traceback.format_exception(caught.value))
            assert release in str(caught.value)
            assert "hunter2" not in told
        with pytest.warns(UserWarning, match=f"'of-another' was loaded without.*{field}") as warned:
            block = Ec2DaskAccount.load("of-another", validate=False, _sync=True)
        assert "hunter2" not in repr(block) + "".join(str(w.message) for w in warned)
        assert (block.zone, block.egress) == (data.get("zone", ""), "nat")
        if field == "later":  # stays until this release is upgraded: it is not ours to remove
            return
        with pytest.raises(AccountError, match=f"its block lacks {field}"):
            account_from_block(block)
        block.region, block.spot, block.aws_credentials = "us-east-1", False, AwsCredentials()
        block.save("of-another", overwrite=True, _sync=True)
        assert load_account("of-another").slug == "of-another"
    finally:
        Ec2DaskAccount.delete("of-another", _sync=True)


def test_a_flow_run_with_a_malformed_block_shows_its_secret_in_no_state():
    from prefect.client.orchestration import get_client

    @flow
    def takes(account: Ec2DaskAccount):
        return account.region

    for field in ("aws_credentials", "registry"):
        state = takes({"region": "us-east-1", field: '{"a": "hunter2"}'}, return_state=True)
        assert state.is_failed()
        assert field in str(state.message)
        assert "hunter2" not in str(state.message)
        run = state.state_details.flow_run_id
        with get_client(sync_client=True) as client:
            seen = client.read_flow_run(run).state.model_dump_json()
        assert "hunter2" not in seen


def test_the_default_account_without_a_block_is_the_sandbox(fake_sandbox):
    account = load_account()
    assert account.slug == "default"
    assert account.is_sandbox
    assert account.endpoint_url == fake_sandbox.endpoint
    assert account.session("us-east-1").get_credentials().access_key == "sandbox"


def test_an_account_may_ask_for_the_sandbox(fake_sandbox, saved):
    saved(Ec2DaskAccount(region="eu-west-1", sandbox=True, tags={"a": "b"}), "play")
    account = load_account("play")
    assert account.is_sandbox
    assert account.options["region"] == "eu-west-1"
    assert account.tags == {"a": "b"}


def test_a_default_block_goes_before_the_sandbox(saved):
    saved(Ec2DaskAccount(region="us-east-2"), "default")
    assert not load_account().is_sandbox


def test_without_the_sandbox_extra_the_error_says_how_to_get_it(monkeypatch):
    module = types.ModuleType("prefect_coiled.sandbox")

    def missing():
        raise ModuleNotFoundError("No module named 'moto'", name="moto")

    module.ensure_started = missing
    monkeypatch.setitem(sys.modules, "prefect_coiled.sandbox", module)
    with pytest.raises(AccountError, match=r'pip install ".*\[sandbox\]"'):
        load_account()


def test_an_unreachable_api_is_an_error_and_never_the_sandbox(fake_sandbox):
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    settings = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(settings), pytest.raises(AccountError, match=r"127\.0\.0\.1:1/api") as caught:
        load_account()
    assert "\n" not in str(caught.value)


def test_the_package_exports_its_blocks_lazily():
    assert prefect_coiled.Ec2DaskAccount is Ec2DaskAccount
    assert {"Ec2DaskAccount", "Ec2DaskRegistry"} <= set(dir(prefect_coiled))
    with pytest.raises(AttributeError):
        prefect_coiled.nothing  # noqa: B018
    code = "import sys, prefect_coiled; print({'boto3', 'distributed', 'prefect'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_prefects_register_command_finds_the_blocks_by_the_packages_name():
    import inspect

    found = {cls for _, cls in inspect.getmembers(prefect_coiled) if Block.is_block_class(cls)}
    assert found == {*BLOCKS, Ec2DaskResults}


@pytest.mark.parametrize(
    "parameters", [{}, {"verify": True, "use_ssl": True}, {"verify": None, "config": {}}]
)
def test_parameters_of_clients_that_nobody_changed_are_taken(parameters: dict[str, Any]) -> None:
    credentials = AwsCredentials(aws_client_parameters=parameters)
    assert Ec2DaskAccount(region="us-east-1", aws_credentials=credentials).region == "us-east-1"


@pytest.mark.parametrize("parameters", [{"verify": False}, {"use_ssl": False}, {"api_version": "2016-11-15"}])
def test_parameters_of_clients_that_are_not_used_are_refused(parameters: dict[str, Any]) -> None:
    credentials = AwsCredentials(aws_client_parameters=parameters)
    with pytest.raises(AccountError, match=r"aws_client_parameters\.\w+: is not used here"):
        Ec2DaskAccount(region="us-east-1", aws_credentials=credentials)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_schema_is_made_once_and_belongs_to_whoever_asks(block, monkeypatch):
    made = []
    whole = Block.model_json_schema.__func__
    monkeypatch.setattr(
        Block, "model_json_schema", classmethod(lambda cls, *a: made.append(cls) or whole(cls, *a))
    )
    block.model_rebuild(force=True)  # another core schema: whatever was made before is made anew
    first = block.model_json_schema()
    expected = copy.deepcopy(first)
    first["properties"].clear()
    assert block.model_json_schema() == expected == whole(block)
    assert made.count(block) == 1
