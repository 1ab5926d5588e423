"""GetSessionToken gives keys that work, as whoever asked; moto gives everybody the same, which nobody has.

https://docs.aws.amazon.com/STS/latest/APIReference/API_GetSessionToken.html
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.sts.models import STSBackend
from moto.sts.responses import TokenResponse

from prefect_coiled.sandbox.iam.principals import SessionKeys, session_keys

__all__ = ["install"]

# moto knows access keys of 20 characters alone; no key is longer than 128.
_SIGNED = re.compile(r"Credential=([\w+=,.@-]{1,128})/")


class _DeniedError(ServiceException):  # type: ignore[misc]
    code = "AccessDenied"


class _InvalidError(ServiceException):  # type: ignore[misc]
    code = "ValidationError"


def install() -> None:
    """Give keys of their own, and know who has them."""
    moto_identity = STSBackend.get_caller_identity

    def get_session_token(self: Any) -> ActionResult:
        signed = _SIGNED.search(str(self.headers.get("Authorization", "")))
        access_key = signed[1] if signed else ""
        if access_key.startswith("ASIA"):
            raise _DeniedError("Cannot call GetSessionToken with session credentials")
        seconds = self._get_int_param("DurationSeconds", 43200)
        if not 900 <= seconds <= 129_600:
            raise _InvalidError(
                f"1 validation error detected: Value '{seconds}' at 'durationSeconds' failed to satisfy "
                "constraint: Member must have value between 900 and 129600"
            )
        made = SessionKeys(
            access_key_id=f"ASIA{secrets.token_hex(8).upper()}",
            secret_access_key=secrets.token_urlsafe(30),
            session_token=secrets.token_urlsafe(90),
            of=access_key,
        )
        session_keys(self.backend).append(made)
        return ActionResult(
            {
                "Credentials": {
                    "AccessKeyId": made.access_key_id,
                    "SecretAccessKey": made.secret_access_key,
                    "SessionToken": made.session_token,
                    "Expiration": self.backend.get_session_token(duration=seconds).expiration,
                }
            }
        )

    def get_caller_identity(self: Any, access_key_id: str, region: str) -> Any:
        of = {keys.access_key_id: keys.of for keys in session_keys(self)}
        return moto_identity(self, of.get(access_key_id, access_key_id), region)

    TokenResponse.get_session_token = get_session_token
    STSBackend.get_caller_identity = get_caller_identity
