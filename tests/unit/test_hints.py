"""A denied access to S3 ends in what to do about it; other errors stay as they are."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from prefect_coiled.task_runner.hints import hint_for


def denied(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, operation)


def caused() -> Exception:
    try:
        try:
            raise denied("AccessDenied", "GetObject")
        except ClientError as error:
            raise RuntimeError("could not read") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        denied("AccessDenied", "GetObject"),
        denied("403", "HeadObject"),
        PermissionError("Access Denied"),
        PermissionError("Forbidden"),
        caused(),
    ],
    ids=repr,
)
def test_a_denied_access_to_s3_names_the_role_and_the_command(error: Exception) -> None:
    hint = hint_for(error, "my-team")
    assert "The role 'my-team' of your machines" in hint
    assert "prefect-coiled role attach-policy" in hint
    assert hint.endswith("--account my-team`.")


@pytest.mark.parametrize(
    "error",
    [
        denied("NoSuchKey", "GetObject"),
        denied("AccessDenied", "RunInstances"),
        PermissionError(13, "Permission denied", "/etc/shadow"),
        ValueError("Access Denied"),
        None,
    ],
    ids=repr,
)
def test_other_errors_get_no_hint(error: Exception | None) -> None:
    assert hint_for(error, "my-team") == ""
