"""What gives credentials is over, gone or broken: refused before a run, or told in a line during one."""

from __future__ import annotations

import json
import traceback
from datetime import datetime, timedelta, timezone
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


# What a `credential_process` may do, and what is said of it.
PROCESSES = {
    "missing": ("no-such-command --flag", "no-such-command: No such file or directory"),
    "no-json": ("echo hunter2", "gave no credentials"),
    "no-object": ("echo []", "gave no credentials"),
    "no-utf-8": ("printf \\\\377", "gave no credentials"),
    "bad-end": (
        'echo \'{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s", "Expiration": "hunter2"}\'',
        "gave no credentials",
    ),
    "version": ('echo \'{"Version": "hunter2"}\'', "gave no credentials"),
    "fails": ("sh -c 'echo hunter2 >&2; echo more >&2; exit 1'", "gave no credentials"),
}


def is_told_without_the_secret(error: PrefectCoiledError, says: str) -> None:
    assert says in str(error)
    assert "hunter2" not in "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "\n" not in str(error)


@pytest.mark.parametrize("case", PROCESSES)
def test_a_process_that_gives_no_credentials_is_told_in_a_line_without_what_it_printed(
    case: str, folder: Path
) -> None:
    command, says = PROCESSES[case]
    (folder / "config").write_text(f"[profile team]\ncredential_process = {command}\n")
    with pytest.raises(AccountError) as told:
        CredentialSource(profile="team").session("us-east-1")
    is_told_without_the_secret(told.value, says)


@pytest.mark.parametrize("case", PROCESSES)
def test_a_process_that_gives_no_credentials_any_more_is_told_as_at_first(
    case: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command, says = PROCESSES[case]
    soon = (datetime.now(timezone.utc) + timedelta(minutes=5)).isoformat()  # within the ten of a must
    keys = {"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s", "Expiration": soon}
    script = folder / "gives"
    script.write_text(f"#!/bin/sh\necho '{json.dumps(keys)}'\n")
    script.chmod(0o700)
    (folder / "config").write_text(f"[profile team]\ncredential_process = {script}\n")
    session = CredentialSource(profile="team").session("us-east-1")
    if case == "missing":
        script.unlink()
        says = f"{script}: No such file or directory"
    else:
        script.write_text(f"#!/bin/sh\nexec {command}\n")
    error = caller(Aws(session, "us-east-1", "a", endpoint_url=NOBODY))
    assert isinstance(error, CredentialsError)
    is_told_without_the_secret(error, says)
    assert "hunter2" not in caplog.text


def test_a_web_identity_whose_file_is_gone_is_told(folder: Path) -> None:
    (folder / "config").write_text(
        "[profile pod]\nrole_arn = arn:aws:iam::123456789012:role/dask\n"
        f"web_identity_token_file = {folder}/token\n"
    )
    session = CredentialSource(profile="pod").session("us-east-1")
    error = caller(Aws(session, "us-east-1", "a", endpoint_url=NOBODY))
    assert isinstance(error, CredentialsError)
    assert f"{folder}/token: No such file or directory" in str(error)
