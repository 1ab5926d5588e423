"""Of boto3 and botocore. Seen in 1.39 and 1.43."""

from __future__ import annotations

from typing import Any

import boto3
import botocore.session
from botocore.credentials import Credentials

__all__ = ["botocore_session", "session_with"]


def botocore_session(session: boto3.Session) -> Any:
    """The session of botocore behind one of boto3."""
    return session._session


def session_with(credentials: Credentials, region: str) -> boto3.Session:
    """A session with credentials that renew themselves, which boto3 takes through botocore alone."""
    made = botocore.session.get_session()
    made._credentials = credentials  # type: ignore[attr-defined]
    return boto3.Session(botocore_session=made, region_name=region)
