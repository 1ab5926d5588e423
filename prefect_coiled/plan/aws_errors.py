"""From the answer to a failed AWS call to an error of this library; and what a machine's end means.

The table of codes is `aws_codes`. A code that is in no row is told by how AWS spells its kind ("...NotFound",
"...LimitExceeded"), then by the HTTP status. Message texts decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prefect_coiled.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AwsError,
    InUseError,
    InvalidRequestError,
    NoCapacityError,
    NotFoundError,
    QuotaError,
    ThrottledError,
)
from prefect_coiled.plan.aws_codes import BY_CLASS, CODES, DECLARED, Code

# How AWS spells kinds, for codes that are in no row; the first that fits.
_SPELT: tuple[tuple[str, type[AwsError]], ...] = (
    (r".*(\.NotFound|NotFoundException|\.NotFoundException)", NotFoundError),
    (r".*(\.Duplicate|AlreadyExists|AlreadyExistsException)", AlreadyExistsError),
    (r".*(\.InUse|InUseException)", InUseError),
    (r".*Throttl.*", ThrottledError),
    (r".*Limit(Exceeded|ExceededException|Reached)", QuotaError),
    (r"Insufficient.*Capacity.*|.*CapacityExceeded", NoCapacityError),
    (r"(Invalid|Malformed|Missing|Unknown|Unsupported).*|.*Malformed.*", InvalidRequestError),
)


def code_of(code: str, status: int = 0) -> Code:
    """What a code means.

    Args:
        status: The HTTP status, for a code that says nothing.
    """
    plain = code.removeprefix("Client.").removeprefix("Server.")
    for name in (code, plain):
        if name in CODES:
            return CODES[name]
    if re.fullmatch(r"(?i)(invalid)?kmskey\..*", plain):
        return CODES["InvalidKeyId"]  # the key of the disks; EC2 spells it in two ways
    for pattern, cls in _SPELT:
        if re.fullmatch(pattern, plain):
            return BY_CLASS[cls]
    if status >= 500 or status == 429:
        return BY_CLASS[ThrottledError]
    return BY_CLASS[AwsError]


def aws_error(what: str, operation: str, response: Mapping[str, Any], next_step: str = "") -> AwsError:
    """Turn the response of a failed AWS call into an error of this library."""
    error = response.get("Error", {})
    metadata = response.get("ResponseMetadata", {})
    code = str(error.get("Code", ""))
    row = code_of(code, int(metadata.get("HTTPStatusCode") or 0))
    # What follows is for `sts:DecodeAuthorizationMessage`, and hundreds of characters long.
    message = str(error.get("Message", "")).partition(" Encoded authorization failure message:")[0]
    named = _MISSING.search(message) if row.cls is AccessDeniedError else None
    why = f"{operation} answered {code}: {message}".rstrip(": ")
    why = f"{why.rstrip('. ')} ({row.gloss})" if row.gloss else why
    next_step = next_step or row.next_step
    made = row.cls(
        what,
        f"{why}." if next_step and not why.endswith((".", "!", "?")) else why,
        next_step,
        operation=operation,
        code=code,
        request_id=str(metadata.get("RequestId", "")),
    )
    made.retried = row.retried
    if isinstance(made, AccessDeniedError) and named is not None:
        made.action, made.resource = named[1], named[2]
    if isinstance(made, AccessDeniedError):
        made.denied_by = "declarative policy" if code == DECLARED else denied_by(message)
    return made


def denied_by(message: str) -> str:
    """The kind of policy that stands in the way whatever else is attached, such as "service control policy".

    Empty where a policy of the caller's own would do. Only AWS's words tell the two apart:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html,
    https://docs.aws.amazon.com/organizations/latest/userguide/orgs_manage_policies_declarative.html
    """
    if re.search(r"disabled by a declarative policy|organizational policy in effect", message, re.IGNORECASE):
        return "declarative policy"  # AWS's own words for one, whatever the code
    explicit = re.search(r"with an explicit deny in an? ([\w -]{1,100}?)(?=[.,:]|\Z)", message)
    lacking = re.search(r"because no ([\w -]{1,100}?) allows", message)
    if explicit:
        return explicit[1]
    return lacking[1] if lacking and not lacking[1].startswith("identity-based") else ""


# How AWS names what is missing:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
_MISSING = re.compile(r"not authorized to perform: ([\w:-]+) on resource: (\S+)")

# Why a machine ended, where AWS's own words do not say what to do.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
STATE_REASONS: dict[str, str] = {
    "Client.InstanceInitiatedShutdown": "it was shut down from within; its log says more",
    "Client.InternalError": (
        "most often its disk could not be encrypted: the KMS key is not there, is disabled, or may not be "
        "used with the account's credentials (`prefect-coiled policies ongoing --kms-key ARN`)"
    ),
    "Client.InvalidKMSKey.InvalidState": "the KMS key of its disk is disabled, or will be deleted",
    "Client.InvalidSnapshot.NotFound": "the snapshot of its image is gone; bake the image again",
    "Client.VolumeLimitExceeded": "the AWS account's quota of disk space is used up (L-7A658B76)",
    "Server.InsufficientInstanceCapacity": "AWS had no machine of this type in this zone after all",
    "Server.InternalError": "AWS failed; launch again",
    "Server.ScheduledStop": "AWS retired the hardware under it",
    "Server.SpotInstanceShutdown": "AWS took the spot machine back",
    "Server.SpotInstanceTermination": "AWS took the spot machine back",
}


def state_words(reason: str) -> str:
    """AWS's reason for the end of a machine, such as "Client.InternalError: ...", with what it means."""
    meaning = STATE_REASONS.get(reason.partition(":")[0].strip())
    return f"{reason.rstrip('. ')}: {meaning}" if meaning else reason
