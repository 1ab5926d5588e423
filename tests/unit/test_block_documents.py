import json
from pathlib import Path

import pytest
from prefect_aws import AwsCredentials
from typer.testing import CliRunner

from prefect_coiled.blocks import Ec2DaskAccount, load_account
from prefect_coiled.blocks.documents import apply_documents, find_files, read_document
from prefect_coiled.cli import app
from prefect_coiled.errors import AccountError, OptionsError

ROOT = Path(__file__).parents[2]
SECRET = "canary-2f1c"


@pytest.fixture(scope="module", autouse=True)
def server(prefect_server):
    """Blocks are kept by the suite's Prefect server."""


@pytest.fixture
def document(tmp_path):
    def write(text, name="as-document.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    yield write
    for kind in (Ec2DaskAccount, AwsCredentials):
        for name in ("as-document", "second"):
            try:
                kind.delete(name, _sync=True)
            except ValueError:
                continue


def apply(*paths, environ=None, dry_run=False):
    return apply_documents([read_document(p, environ or {}) for p in paths], dry_run)


SMALL = "fields:\n  region: ${REGION:-us-east-2}\n  spot: true\n  tags: {team: a}\n"


def test_a_document_is_saved_once_and_what_changed_is_told(document):
    path = document(SMALL)
    assert [a.state for a in apply(path)] == ["created"]
    assert [a.state for a in apply(path)] == ["unchanged"]
    (changed,) = apply(path, environ={"REGION": "eu-west-1"})
    assert changed.state == "changed"
    assert [(c.field, c.before, c.after) for c in changed.changes] == [("region", "us-east-2", "eu-west-1")]
    assert "`prefect-coiled account destroy as-document --region us-east-2` removes it" in changed.remark
    account = load_account("as-document")
    assert account.options["region"] == "eu-west-1"
    assert account.options["spot_policy"] == "spot"
    assert account.tags == {"team": "a"}


def test_a_dry_run_saves_nothing(document):
    path = document(SMALL)
    assert [a.state for a in apply(path, dry_run=True)] == ["created"]
    with pytest.raises(AccountError, match="no block of that name"):
        load_account("as-document")


def test_secrets_come_from_the_environment_and_are_never_shown(document):
    keys = "  aws_credentials: {aws_access_key_id: AKIAX, aws_secret_access_key: '${SECRET}'}\n"
    path = document(f"fields:\n  region: us-east-2\n{keys}")
    apply(path, environ={"SECRET": SECRET})
    account = load_account("as-document")
    assert account.credentials.secret_access_key.get_secret_value() == SECRET
    assert [a.state for a in apply(path, environ={"SECRET": SECRET})] == ["unchanged"]
    (changed,) = apply(path, environ={"SECRET": "another"})
    assert [c.field for c in changed.changes] == ["aws_credentials.aws_secret_access_key"]
    assert SECRET not in str(changed) + json.dumps(changed.row()) + repr(
        read_document(path, {"SECRET": SECRET})
    )
    assert load_account("as-document").credentials.secret_access_key.get_secret_value() == "another"


@pytest.mark.parametrize(
    "fields",
    [
        "aws_credentials: {aws_access_key_id: A, aws_secret_access_key: canary-2f1c}",
        "aws_credentials: {aws_session_token: canary-2f1c}",
        "aws_credentials: {aws_access_key_id: A, aws_secret_access_key: '${S:-canary-2f1c}'}",
        "registry: {kind: docker_hub, username: me, access_token: canary-2f1c}",
    ],
)
def test_a_secret_written_in_clear_is_refused_without_repeating_it(document, fields):
    with pytest.raises(OptionsError, match="in clear") as caught:
        read_document(document(f"fields:\n  region: us-east-2\n  {fields}\n"), {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fields:\n  region: us-mars-1\n", "us-mars-1"),
        ("fields:\n  region: us-east-2\n  regoin: x\n", "there is no such field"),
        ("fields:\n  region: us-east-2\n  ingress_ports: [99999]\n", "port 99999"),
        ("fields:\n  region: ${NOT_SET_ANYWHERE}\n", "NOT_SET_ANYWHERE"),
        ("fields: {region: us-east-2}\ntyp: x\n", "'typ'"),
        ("type: s3-bucket\nfields: {}\n", "s3-bucket"),
        ("region: us-east-2\n", "no `fields`"),
        ("fields: [\n", "not YAML"),
        ("fields: {monthly_budget: 2026-99-99}\n", "YAML"),
        ("type: [b]\nfields: {}\n", "type ['b']: is not one of ours"),
        ("fields: &x {region: us-east-2, tags: *x}\n", "within what it names"),
        ("fields: &x [{tags: *x}]\n", "no `fields`"),
        ("name: ''\nfields: {region: us-east-2}\n", "account '': is blank"),
        ("name: [a]\nfields: {region: us-east-2}\n", "lower-case"),
        ("type: aws-credentials\nname: A/b c\nfields: {}\n", "name 'A/b c': must be of lower-case"),
        ("type: aws-credentials\nname: ' '\nfields: {}\n", "name ' ': must be of lower-case"),
        ("name: Upper\nfields: {region: us-east-2}\n", "lower-case"),
        ("fields:\n  region: us-east-2\n  aws_credentials: {block: aws-credentials/none}\n", "no such block"),
    ],
)
def test_a_wrong_document_is_refused_in_one_line_and_nothing_is_saved(document, text, said):
    good, bad = document(SMALL, "second.yaml"), document(text)
    with pytest.raises(OptionsError) as caught:
        apply(good, bad)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(AccountError, match="no block of that name"):
        load_account("second")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# für alle\nfields: {}\n".encode("latin-1"), "it is not text in UTF-8: see line 1. Save it"),
        (SMALL.encode("utf-16"), "it is not text in UTF-8"),
        (b"fields: {}\n# \x00\n", "it is not YAML"),
        (b"[" * 5000, "YAML"),
    ],
)
def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "as-document.yaml"
    path.write_bytes(content)
    with pytest.raises(OptionsError) as caught:
        read_document(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_document_whose_name_says_nothing_has_the_name_of_its_file(document):
    assert read_document(document(f"name:\n{SMALL}")).name == "as-document"


def test_a_name_that_prefect_does_not_take_is_told_by_a_dry_run_too(document):
    good, bad = document(SMALL, "second.yaml"), document("type: aws-credentials\nname: A/b c\nfields: {}\n")
    told = CliRunner().invoke(app, ["blocks", "apply", "--dry-run", str(good), str(bad)])
    assert told.exit_code == 1
    assert "name 'A/b c': must be of lower-case letters, digits and dashes" in told.stderr


def test_a_folder_without_documents_is_named_and_a_pipe_is_read(tmp_path):
    with pytest.raises(OptionsError, match=f"{tmp_path}: there is no .yaml document"):
        find_files([str(tmp_path)])
    with pytest.raises(OptionsError, match="/dev/null: it has no `fields`"):
        read_document(*find_files(["/dev/null"]))


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_word_is_not_the_folder_that_one_is_in(blank, document, monkeypatch):
    monkeypatch.chdir(document(SMALL).parent)
    told = CliRunner().invoke(app, ["blocks", "apply", "--dry-run", blank])
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr.startswith(f"Error: document {blank!r}: is blank.")


def test_a_document_may_name_a_block_of_another_one(document):
    keys = document(
        "type: aws-credentials\nname: second\n"
        "fields: {aws_access_key_id: AKIAX, aws_secret_access_key: '${SECRET}'}\n",
        "keys.yaml",
    )
    account = document("fields:\n  region: us-east-2\n  aws_credentials: {block: aws-credentials/second}\n")
    assert [a.state for a in apply(account, keys, environ={"SECRET": SECRET})] == ["created", "created"]
    assert [a.state for a in apply(account, keys, environ={"SECRET": SECRET})] == ["unchanged", "unchanged"]
    assert load_account("as-document").credentials.secret_access_key.get_secret_value() == SECRET
    # It is a reference: what changes in the one holds in the other.
    assert [a.state for a in apply(keys, environ={"SECRET": "another"})] == ["changed"]
    assert load_account("as-document").credentials.secret_access_key.get_secret_value() == "another"


def test_two_documents_of_one_block_are_refused(document):
    with pytest.raises(OptionsError, match="two documents"):
        apply(document(SMALL, "a.yaml"), document(SMALL, "a.yml"))


def test_the_command_applies_a_folder_and_tells_it_as_a_table_or_as_json(document, monkeypatch):
    path = document(SMALL)
    told = CliRunner().invoke(app, ["blocks", "apply", str(path.parent), "--json"])
    assert told.exit_code == 0, told.output
    (row,) = json.loads(told.stdout)
    assert (row["name"], row["state"], row["type"]) == ("as-document", "created", "ec2-dask-account")
    monkeypatch.setenv("REGION", "eu-west-1")
    told = CliRunner().invoke(app, ["blocks", "apply", str(path)])
    assert "ec2-dask-account/as-document region: 'us-east-2' -> 'eu-west-1'" in told.stdout
    path.write_text("fields: {region: us-east-2, aws_credentials: {aws_secret_access_key: canary-2f1c}}")
    told = CliRunner().invoke(app, ["blocks", "apply", str(path)])
    assert told.exit_code == 1
    assert "in clear" in told.output
    assert SECRET not in told.output


def test_a_block_that_the_form_saved_wrong_is_put_right(document):
    from prefect.client.orchestration import get_client

    path = document(SMALL)
    apply(path)
    with get_client(sync_client=True) as client:
        found = client.read_block_document_by_name("as-document", "ec2-dask-account")
        client.request(
            "PATCH",
            "/block_documents/{id}",
            path_params={"id": found.id},
            json={"data": {"region": "us-east-2", "ingress_ports": [99999]}, "merge_existing_data": False},
        )
    told = CliRunner().invoke(app, ["check", "--account", "as-document"])
    assert told.exit_code == 1
    assert "port 99999: must be a number from 1 to 65535" in " ".join(told.output.split())
    assert [a.state for a in apply(path)] == ["changed"]
    assert load_account("as-document").options["spot_policy"] == "spot"


def test_the_documents_of_the_repository_can_be_applied(monkeypatch):
    monkeypatch.setenv("MY_TEAM_SANDBOX", "true")
    monkeypatch.setenv("MY_TEAM_REGION", "eu-west-1")
    files = find_files([str(ROOT / "blocks")])
    try:
        assert {a.name for a in apply_documents(map(read_document, files))} == {"my-team"}
        block = Ec2DaskAccount.load("my-team", _sync=True)
        assert block.sandbox
        assert (block.region, block.ingress_cidr) == ("eu-west-1", "me")
    finally:
        Ec2DaskAccount.delete("my-team", _sync=True)
