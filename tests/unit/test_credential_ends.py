"""What gives credentials is over, gone or broken: refused before a run, or told in a line while it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.credentials import RefreshableCredentials

from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.lending import Lender
from prefect_coiled.errors import AccountError, CredentialsError, PrefectCoiledError
from prefect_coiled.internals.botocore import session_with

NOBODY = "http://127.0.0.1:1"
ENDED, LATER = "2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def with_token(monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """What `aws configure export-credentials --format env` sets."""
    said = {"ACCESS_KEY_ID": "ASIA1", "SECRET_ACCESS_KEY": "hunter2", "SESSION_TOKEN": "t"}
    for name, value in {**said, "CREDENTIAL_EXPIRATION": ends}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def caller(aws: Aws) -> PrefectCoiledError:
    with pytest.raises(PrefectCoiledError) as told:
        aws.ask_caller()
    return told.value


@pytest.mark.parametrize("ends", [ENDED, LATER])
def test_a_token_of_the_environment_is_refused_also_where_it_says_when_it_ends(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_token(monkeypatch, ends)
    for source in (CredentialSource(), CredentialSource(role_arn="arn:aws:iam::123456789012:role/dask")):
        with pytest.raises(AccountError, match=r"AWS_CREDENTIAL_EXPIRATION: .* static session token"):
            source.session("us-east-1")


def test_credentials_that_are_renewed_by_the_same_ones_are_an_error_of_credentials() -> None:
    said = {"access_key": "ASIA1", "secret_key": "hunter2", "token": "t", "expiry_time": ENDED}
    same = RefreshableCredentials.create_from_metadata(said, lambda: said, "process")
    error = caller(Aws(session_with(same, "us-east-1"), "us-east-1", "a", endpoint_url=NOBODY))
    assert isinstance(error, CredentialsError)
    assert "checking the credentials of account (a): " in str(error)
    assert "expired" in str(error)
    assert error.diagnosis.next_step


def test_a_lent_token_that_is_over_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with_token(monkeypatch, LATER)
    lender = Lender(Aws(None, "us-east-1", "a"))  # type: ignore[arg-type]
    assert lender.lend()["Token"] == "t"
    with_token(monkeypatch, ENDED)
    with pytest.raises(AccountError, match="expired"):
        Lender(Aws(None, "us-east-1", "a")).lend()  # type: ignore[arg-type]
