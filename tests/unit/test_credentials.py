import datetime
import pickle

import botocore.credentials
import botocore.exceptions
import pytest
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count
from prefect_aws import AwsCredentials
from prefect_aws.assume_role_parameters import AssumeRoleParameters
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from prefect_coiled import Ec2DaskAccount
from prefect_coiled.aws.caller import Caller, find_caller
from prefect_coiled.aws.credentials import ADMINISTRATOR, CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.lending import Lender
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.blocks import account_from_block
from prefect_coiled.errors import (
    AccessDeniedError,
    AccountError,
    CredentialsError,
    NoAnswerError,
    is_retryable,
)
from prefect_coiled.sandbox import Sandbox

ADMIN = CredentialSource(access_key_id=ADMINISTRATOR)
ROLE = "arn:aws:iam::123456789012:role/dask"
KEYS = {"aws_access_key_id": "AKIA1", "aws_secret_access_key": "hunter2"}


@pytest.fixture(autouse=True)
def no_ambient_credentials(monkeypatch, tmp_path):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ENDPOINT_URL"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def keys(**more):
    return CredentialSource(access_key_id="AKIA1", secret_access_key=SecretStr("hunter2"), **more)


def test_keys_give_a_session_for_the_region():
    session = keys().session("eu-west-1")
    assert session.region_name == "eu-west-1"
    assert session.get_credentials().secret_key == "hunter2"


def test_the_secret_is_neither_shown_nor_pickled():
    source = keys(role_args={"DurationSeconds": 900})
    assert "hunter2" not in repr(source) + str(source)
    data = pickle.dumps(Account("a", credentials=source))
    assert b"hunter2" not in data
    copy = pickle.loads(data).credentials
    assert copy.role_args == {"DurationSeconds": 900}
    with pytest.raises(AccountError, match="load the account again"):
        copy.session("us-east-1")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"access_key_id": "A", "profile": "p"}, "cannot both"),
        ({"secret_access_key": SecretStr("s")}, "without its access key id"),
        ({"external_id": "xy"}, "without the role"),
        ({"external_id": "x", "role_arn": ROLE}, "2 to 1224"),
        ({"role_arn": "dask"}, "must look like"),
    ],
)
def test_contradictory_sources_are_refused(given, text):
    with pytest.raises(AccountError, match=text):
        CredentialSource(**given)


def test_no_credentials_at_all_is_an_error():
    with pytest.raises(AccountError, match="no AWS credentials to be found"):
        CredentialSource().session("us-east-1")


def test_a_profile_that_does_not_exist_is_named_with_those_that_do(no_ambient_credentials):
    (no_ambient_credentials / "credentials").write_text(
        "[team]\naws_access_key_id=A\naws_secret_access_key=s\n"
    )
    with pytest.raises(AccountError, match=r"'nobody'.*team"):
        CredentialSource(profile="nobody").session("us-east-1")
    assert CredentialSource(profile="team").session("us-east-1").get_credentials().access_key == "A"


def test_a_profile_with_a_static_session_token_is_refused(no_ambient_credentials):
    (no_ambient_credentials / "credentials").write_text(
        "[temp]\naws_access_key_id=A\naws_secret_access_key=s\naws_session_token=t\n"
    )
    with pytest.raises(AccountError, match=r"'temp'.*static session token"):
        CredentialSource(profile="temp").session("us-east-1")


def test_a_static_session_token_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    with pytest.raises(AccountError, match=r"AWS_SESSION_TOKEN.*static session token"):
        CredentialSource().session("us-east-1")


def test_a_profile_that_assumes_a_role_is_accepted(no_ambient_credentials):
    (no_ambient_credentials / "config").write_text(
        f"[profile work]\nrole_arn={ROLE}\nsource_profile=base\n[profile base]\n"
        "aws_access_key_id=A\naws_secret_access_key=s\n"
    )
    with mock_aws():
        session = CredentialSource(profile="work").session("us-east-1")
        assert isinstance(session.get_credentials(), botocore.credentials.RefreshableCredentials)


def test_a_role_is_assumed_lazily_and_again_when_it_expires(monkeypatch):
    calls = []
    with mock_aws():
        source = keys(role_arn=ROLE, external_id="xy", role_args={"DurationSeconds": 3600})
        session = source.session("us-east-1")
        fetch = botocore.credentials.AssumeRoleCredentialFetcher._get_credentials

        def counted(self):
            calls.append(self._assume_role_kwargs())
            return fetch(self)

        monkeypatch.setattr(botocore.credentials.AssumeRoleCredentialFetcher, "_get_credentials", counted)
        credentials = session.get_credentials()
        assert calls == []
        first = credentials.get_frozen_credentials()
        assert credentials.get_frozen_credentials() == first
        assert calls == [
            {
                "RoleArn": ROLE,
                "RoleSessionName": "prefect-coiled",
                "ExternalId": "xy",
                "DurationSeconds": 3600,
            }
        ]

        def later():
            return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=2)

        monkeypatch.setattr(botocore.credentials, "_local_now", later)
        monkeypatch.setattr(credentials, "_time_fetcher", later)
        clock = datetime.timedelta(hours=4)

        def longer(self):
            reply = counted(self)
            reply["Credentials"]["Expiration"] += clock
            return reply

        monkeypatch.setattr(botocore.credentials.AssumeRoleCredentialFetcher, "_get_credentials", longer)
        second = credentials.get_frozen_credentials()
        assert second.token != first.token
        assert len(calls) == 2


def test_what_a_profile_says_beside_its_keys_holds_for_the_calls_of_a_role_too(no_ambient_credentials):
    (no_ambient_credentials / "config").write_text(
        "[profile team]\naws_access_key_id=A\naws_secret_access_key=s\nca_bundle=/etc/corporate.pem\n"
        "services=team\nuse_dualstack_endpoint=true\n[services team]\nec2 =\n  endpoint_url=http://127.0.0.1:7\n"
    )
    session = CredentialSource(profile="team", role_arn=ROLE).session("us-east-1")
    assert session.client("ec2").meta.endpoint_url == "http://127.0.0.1:7"
    assert session.client("logs").meta.endpoint_url == "https://logs.us-east-1.api.aws"
    assert session._session.get_config_variable("ca_bundle") == "/etc/corporate.pem"
    assert session.get_credentials().method == "assume-role"


def test_a_role_that_may_not_be_assumed_is_an_error_and_no_traceback(monkeypatch, caplog):
    refused = {"Error": {"Code": "AccessDenied", "Message": "not authorized to perform: sts:AssumeRole"}}

    def fetch(self):
        raise botocore.exceptions.ClientError(refused, "AssumeRole")

    monkeypatch.setattr(botocore.credentials.AssumeRoleCredentialFetcher, "_get_credentials", fetch)
    with mock_aws(), pytest.raises(AccessDeniedError, match="sts:AssumeRole"):
        ask(Account("my-team", {"region": "eu-west-1"}, keys(role_arn=ROLE)))
    assert "Refreshing temporary credentials failed" in caplog.text
    assert "Traceback" not in caplog.text


def ask(account: Account) -> Caller:
    return find_caller(account.door(str(account.options.get("region", "us-east-1"))))


def test_aws_says_who_the_credentials_are():
    with mock_aws():
        identity = ask(Account("my-team", {"region": "eu-west-1"}, keys(role_arn=ROLE)))
    assert identity.aws_account_id == "123456789012"
    assert "role/dask" in identity.arn


@set_initial_no_auth_action_count(0)
@mock_aws
def test_wrong_keys_are_told_in_one_line():
    with pytest.raises(CredentialsError) as caught:
        ask(Account("my-team", credentials=keys()))
    line = str(caught.value)
    assert "account (my-team)" in line
    assert "InvalidClientTokenId" in line
    assert "\n" not in line
    assert "hunter2" not in line


@pytest.mark.long
def test_an_endpoint_that_does_not_answer_is_told_in_one_line():
    account = Account("my-team", credentials=keys(), endpoint_url="http://127.0.0.1:1")
    with pytest.raises(NoAnswerError, match="got no answer") as caught:
        ask(account)
    assert is_retryable(caught.value)
    assert "\n" not in str(caught.value)


def test_an_account_for_a_record_has_no_secrets():
    account = Account("a", {"region": "us-east-1", "registry": {"kind": "docker_hub"}}, keys())
    kept = account.without_secrets()
    assert kept.options == {"region": "us-east-1"}
    assert kept.credentials.secret_access_key is None


# -- each field of prefect-aws's blocks is used, or an error or a line says that it is not


def of(**fields):
    credentials = AwsCredentials(**fields)
    return account_from_block(Ec2DaskAccount(region="us-east-1", aws_credentials=credentials), "fields")


USED = {
    "aws_access_key_id": (KEYS, lambda a: a.credentials.access_key_id == "AKIA1"),
    "aws_secret_access_key": (
        KEYS,
        lambda a: a.credentials.secret_access_key.get_secret_value() == "hunter2",
    ),
    "profile_name": ({"profile_name": "team"}, lambda a: a.credentials.profile == "team"),
    "assume_role_arn": ({"assume_role_arn": ROLE}, lambda a: a.credentials.role_arn == ROLE),
    "aws_client_parameters.endpoint_url": (
        {"aws_client_parameters": {"endpoint_url": "http://aws.test"}},
        lambda a: a.endpoint_url == "http://aws.test",
    ),
    "assume_role_kwargs.RoleSessionName": (
        {"assume_role_arn": ROLE, "assume_role_kwargs": {"RoleSessionName": "mine"}},
        lambda a: a.credentials.session_name == "mine",
    ),
    "assume_role_kwargs.ExternalId": (
        {"assume_role_arn": ROLE, "assume_role_kwargs": {"ExternalId": "xy"}},
        lambda a: a.credentials.external_id == "xy",
    ),
}
PASSED_ON = {
    "DurationSeconds": 900,
    "Policy": "{}",
    "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}],
    "Tags": [{"Key": "a", "Value": "b"}],
    "TransitiveTagKeys": ["a"],
    "SourceIdentity": "me",
    "ProvidedContexts": [{"ProviderArn": "arn", "ContextAssertion": "x"}],
}
REFUSED = {
    "aws_session_token": ({**KEYS, "aws_session_token": "t"}, "static session token"),
    "aws_client_parameters.api_version": (
        {"aws_client_parameters": {"api_version": "2016"}},
        "not used here",
    ),
    "aws_client_parameters.use_ssl": ({"aws_client_parameters": {"use_ssl": False}}, "not used here"),
    "aws_client_parameters.verify": ({"aws_client_parameters": {"verify": False}}, "not used here"),
    "aws_client_parameters.verify_cert_path": (
        {"aws_client_parameters": {"verify_cert_path": __file__}},
        "not used here",
    ),
    "aws_client_parameters.config": (
        {"aws_client_parameters": {"config": {"connect_timeout": 1}}},
        "not used here",
    ),
    "assume_role_kwargs.SerialNumber": (
        {"assume_role_arn": ROLE, "assume_role_kwargs": {"SerialNumber": "arn:mfa"}},
        "MFA code",
    ),
    "assume_role_kwargs.TokenCode": (
        {"assume_role_arn": ROLE, "assume_role_kwargs": {"TokenCode": "123456"}},
        "MFA code",
    ),
}


def test_no_field_of_the_credentials_is_forgotten():
    fields = {f"aws_client_parameters.{name}" for name in AwsClientParameters.model_fields}
    fields |= {f"assume_role_kwargs.{name}" for name in AssumeRoleParameters.model_fields}
    own = set(AwsCredentials.model_fields) - {"aws_client_parameters", "assume_role_kwargs"}
    known = {*USED, *REFUSED, "region_name", *(f"assume_role_kwargs.{name}" for name in PASSED_ON)}
    assert known == fields | own


@pytest.mark.parametrize("name", USED)
def test_a_field_of_the_credentials_is_used(name):
    fields, holds = USED[name]
    assert holds(of(**fields))


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_parameter_of_the_role_is_passed_on_and_without_a_role_refused(name):
    given = {name: PASSED_ON[name]}
    made = of(assume_role_arn=ROLE, assume_role_kwargs=given)
    assert made.credentials.role_args == given
    with pytest.raises(AccountError, match=f"say {name} of a role, and there is none"):
        of(assume_role_kwargs=given)


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_of_the_credentials_that_cannot_be_used_is_refused(name):
    fields, text = REFUSED[name]
    with pytest.raises(AccountError, match=text):
        of(**fields)


def test_the_region_of_the_credentials_is_said_not_to_be_used_once(caplog):
    for _ in range(2):
        assert of(region_name="eu-west-1").options["region"] == "us-east-1"
    assert of(region_name="us-east-1").options["region"] == "us-east-1"
    (line,) = [r.getMessage() for r in caplog.records if "region_name" in r.getMessage()]
    assert line.endswith("its region is us-east-1; region_name eu-west-1 of its AWS credentials is not used.")


def test_two_external_ids_are_refused():
    credentials = AwsCredentials(assume_role_arn=ROLE, assume_role_kwargs={"ExternalId": "xy"})
    with pytest.raises(AccountError, match="is another one than in the AWS credentials"):
        Ec2DaskAccount(region="us-east-1", aws_credentials=credentials, external_id="yz")


@pytest.mark.parametrize("token", [None, "t"])
def test_a_temporary_key_is_refused_with_and_without_its_token(token):
    with pytest.raises(AccountError, match=r"temporary key|static session token"):
        of(aws_access_key_id="ASIA1", aws_secret_access_key="s", aws_session_token=token)


# What a person has of AWS's tools that is not as it should be; each says nothing about keys that are given.
BROKEN = {
    "no-profile": ({"AWS_PROFILE": "nope"}, ""),
    "blank-profile": ({"AWS_PROFILE": ""}, ""),
    "lost-sso": (
        {"AWS_PROFILE": "sso"},
        "[profile sso]\nsso_session = gone\nsso_account_id = 1\nsso_role_name = a\n",
    ),
    "malformed": ({}, "region = us-east-1\n"),
    "latin-1": ({}, "[default]\nregion = ü\n"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_sandbox_reads_nothing_of_aws_tools(case, monkeypatch, no_ambient_credentials):
    variables, text = BROKEN[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("config", "credentials"):
        (no_ambient_credentials / name).write_bytes(text.encode("latin-1"))
    with Sandbox({"boot": "none"}) as aws:
        account = Account("default", endpoint_url=aws.endpoint, sandbox=aws.info, credentials=ADMIN)
        assert find_caller(account.door()).aws_account_id == "123456789012"
        assert aws.client("sts").get_caller_identity()["Account"] == "123456789012"
        assert Lender(account.door()).lend()["Token"]


def test_keys_that_are_given_need_no_profile(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nope")
    assert keys().session("us-east-1").get_credentials().secret_key == "hunter2"
    keys(role_arn=ROLE).session("us-east-1").client("ec2")


@pytest.mark.parametrize("name", ["nope", ""])
def test_a_profile_that_the_environment_names_is_told_by_its_name(name, monkeypatch, no_ambient_credentials):
    (no_ambient_credentials / "credentials").write_text(
        "[team]\naws_access_key_id=A\naws_secret_access_key=s\n"
    )
    monkeypatch.setenv("AWS_PROFILE", name)
    for ask in (CredentialSource().session, lambda region: Lender(Aws(None, region, "a"))):
        with pytest.raises(AccountError, match=f"profile '{name}'.*there is: team.*AWS_PROFILE names it"):
            ask("us-east-1")


@pytest.mark.parametrize("file", ["config", "credentials"])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[default]\nregion\naws_secret_access_key = hunter2\n", "line 2"),
        ("aws_secret_access_key = hunter2\n", "line 1"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_a_line_without_what_it_holds(
    file, text, line, no_ambient_credentials
):
    (no_ambient_credentials / file).write_text(text)
    new = CredentialSource(access_key_id="AKIA2", secret_access_key=SecretStr("s"))  # of which none is kept
    for source in (CredentialSource(), CredentialSource(profile="default"), new):
        with pytest.raises(AccountError) as told:
            source.session("us-east-1")
        assert f"file {no_ambient_credentials / file}: is not as AWS's tools write it: see {line}." in str(
            told.value
        )
        assert "hunter2" not in str(told.value)
        assert "\n" not in str(told.value)
