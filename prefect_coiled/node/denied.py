"""A denied access to S3: what it looks like, what to do about it, and a worker's plugin that says so.

The plugin is for tasks of plain Dask, whose errors nobody looks at on their way to the client; the task
runner looks at those of its own. Runs on workers.
"""

from __future__ import annotations

import os
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import dumps, loads

from prefect_coiled.plan.node_config import DENIED_TOPIC

# Set by the agent of each machine.
ACCOUNT_VARIABLE = "PREFECT_COILED_ACCOUNT"
PLUGIN = "prefect-coiled-denials"
# What S3 answers (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), and what s3fs makes
# of it, which has only the text.
_CODES = {"AccessDenied", "AllAccessDisabled", "403", "Forbidden"}
_TEXTS = ("access denied", "forbidden", "accessdenied")
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


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and what led to it, the error itself first."""
    found: list[BaseException] = []
    while error is not None and all(error is not known for known in found):
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def denied_hint(error: BaseException, account: str | None = None) -> str:
    """What to do if this error is a denied access to S3; empty if it is not.

    Args:
        error: An error alone, without what led to it.
        account: The account's slug; that of this machine by default.
    """
    if not _is_denied(error):
        return ""
    slug = account or os.environ.get(ACCOUNT_VARIABLE, "")
    named = f" --account {slug}" if slug else ""
    role = f"The role {slug!r} of your machines" if slug else "The role of your machines"
    return (
        f"{role} may not do this. Let it, for example: `prefect-coiled role "
        f"attach-policy arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess{named}`."
    )


def _is_denied(error: BaseException) -> bool:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        operation = str(getattr(error, "operation_name", ""))
        return response.get("Error", {}).get("Code") in _CODES and operation in _OPERATIONS
    text = str(error).lower()
    # A file of this machine has an errno and a name that are its own.
    return isinstance(error, PermissionError) and error.filename is None and any(t in text for t in _TEXTS)


class Denials(WorkerPlugin):  # type: ignore[misc]
    """Tells the `Cluster` objects once of a task that was denied access to S3.

    The error itself goes to the client as it is: it is the user's, and botocore's cannot take anything along.
    """

    name = PLUGIN

    def setup(self, worker: Any) -> None:
        """Called by Dask when the plugin comes to a worker."""
        self._worker: Any = worker

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Called by Dask as a task changes its state."""
        if finish != "error" or self._worker is None:
            return
        pickled = getattr(self._worker.state.tasks[key].exception, "data", None)
        if not isinstance(pickled, bytes) or not any(w in pickled.lower() for w in _MARKS):
            return
        for error in causes(loads(pickled)):
            if hint := denied_hint(error):
                text = f"{type(error).__name__}: {error}"
                self._worker.log_event(DENIED_TOPIC, [text[:300], hint])
                self._worker = None  # once in the life of a worker
                return


# Only what may be such an error is unpickled.
_MARKS = (b"denied", b"forbidden", b"403", b"accessdisabled")


def denials_plugin() -> bytes:
    """The plugin as Dask's scheduler hands it to workers."""
    return bytes(dumps(Denials()))
