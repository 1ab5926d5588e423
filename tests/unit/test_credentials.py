import datetime
import pickle

import botocore.credentials
import pytest
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count
from pydantic import SecretStr

from prefect_coiled.aws.caller import Caller, find_caller
from prefect_coiled.aws.credentials import Account, CredentialSource
from prefect_coiled.errors import AccountError, AwsError, CredentialsError
from prefect_coiled.provision.sessions import open_door

ROLE = "arn:aws:iam::123456789012:role/dask"


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


def ask(account: Account) -> Caller:
    return find_caller(open_door(account, str(account.options.get("region", "us-east-1"))))


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


def test_an_endpoint_that_does_not_answer_is_told_in_one_line():
    account = Account("my-team", credentials=keys(), endpoint_url="http://127.0.0.1:1")
    with pytest.raises(AwsError, match="got no answer") as caught:
        ask(account)
    assert "\n" not in str(caught.value)


def test_an_account_for_a_record_has_no_secrets():
    account = Account("a", {"region": "us-east-1", "registry": {"kind": "docker_hub"}}, keys())
    kept = account.without_secrets()
    assert kept.options == {"region": "us-east-1"}
    assert kept.credentials.secret_access_key is None
