"""What to do about errors of a task that come from where it runs: its machine's role in AWS.

Runs on workers: nothing here imports what a bare worker lacks.
"""

from __future__ import annotations

import os
from typing import Any

from prefect.client.schemas.objects import State

__all__ = ["ACCOUNT_VARIABLE", "advise", "hint_for"]

# Set by the agent of each machine.
ACCOUNT_VARIABLE = "PREFECT_COILED_ACCOUNT"
# What S3 answers (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), and what s3fs makes
# of it, which has only the text.
_CODES = {"AccessDenied", "AllAccessDisabled", "403", "Forbidden"}
_TEXTS = ("access denied", "forbidden", "accessdenied")


def hint_for(error: BaseException | None, account: str | None = None) -> str:
    """One sentence if the error, or what caused it, is a denied access to S3; empty for others.

    Args:
        error: The task's exception.
        account: The account's slug; that of this machine by default.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if _is_denied(error):
            slug = account or os.environ.get(ACCOUNT_VARIABLE, "")
            named = f" --account {slug}" if slug else ""
            role = f"the role {slug!r} of your machines" if slug else "the role of your machines"
            return (
                f"{role[0].upper()}{role[1:]} may not do this. Let it, for example: `prefect-coiled role "
                f"attach-policy arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess{named}`."
            )
        error = error.__cause__ or error.__context__
    return ""


def _is_denied(error: BaseException) -> bool:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        service = str(getattr(error, "operation_name", ""))
        known = response.get("Error", {}).get("Code") in _CODES
        return known and service in _OPERATIONS
    text = str(error).lower()
    # A file of this machine has an errno and a name that are its own.
    return isinstance(error, PermissionError) and error.filename is None and any(t in text for t in _TEXTS)


_OPERATIONS = {
    "CreateMultipartUpload",
    "GetObject",
    "HeadBucket",
    "HeadObject",
    "ListBuckets",
    "ListObjects",
    "ListObjectsV2",
    "PutObject",
    "UploadPart",
}


def advise(state: Any) -> str:
    """Add to a failed state what would help, where something would.

    Args:
        state: The task's final state; its message and its exception get the hint.

    Returns:
        The hint, for the task run's log; empty if there is none.
    """
    if not isinstance(state, State) or not (state.is_failed() or state.is_crashed()):
        return ""
    error = getattr(state.data, "result", state.data)
    hint = hint_for(error) if isinstance(error, BaseException) else ""
    if hint:
        state.message = f"{state.message or ''} {hint}".strip()
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(hint)
    return hint
