"""Of boto3 and botocore. Seen in 1.39 and 1.43."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore import xform_name
from botocore.credentials import CredentialResolver, Credentials, ProcessProvider
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, ProfileNotFound
from botocore.httpsession import URLLib3Session

if TYPE_CHECKING:
    import boto3  # a machine does without: it would cost as much again, at every boot


# What is asked before a call in this context is tried again; the first entry is of its first try.
_CHECKS: ContextVar[list[Callable[[], None]] | None] = ContextVar("prefect_coiled_checks", default=None)


def check_tries(client: Any) -> None:
    """Let a client ask, before it tries a call again, what `checked` says; the tries are botocore's own."""
    client.meta.events.register("request-created", _check)


def _check(**_: Any) -> None:
    if checks := _CHECKS.get():
        (checks.pop(0) if len(checks) > 1 else checks[0])()


@contextmanager
def checked(check: Callable[[], None] | None) -> Iterator[None]:
    """Ask this before each further try of the one call made within; what it raises ends the call."""
    token = _CHECKS.set(None if check is None else [lambda: None, check])
    try:
        yield
    finally:
        _CHECKS.reset(token)


def botocore_session(session: boto3.Session) -> Any:
    """The session of botocore behind one of boto3."""
    return session._session


# In the form that botocore's `session_vars` have: nothing in a file, nothing in the environment, no default.
_NOTHING = (None, None, None, None)
_NO_FILES = {"config_file": _NOTHING, "credentials_file": _NOTHING, "profile": _NOTHING}


def session_of_keys_alone(key_id: str, secret: str, region: str | None = None) -> boto3.Session:
    """A session of these keys, whatever files and profiles there are: none of them is read."""
    import boto3

    made = botocore.session.Session(session_vars=_NO_FILES)
    return boto3.Session(key_id, secret, botocore_session=made, region_name=region)


def session_of_files(profile: str = "") -> Any:
    """A session of botocore with what the files say, such as a bundle of certificates.

    A profile that the environment names, and no file has, says nothing then.

    Args:
        profile: The profile that says it; by default the one that the environment names, if any.
    """
    if profile:
        return botocore.session.Session(profile=profile)
    made = botocore.session.get_session()
    try:
        made.get_scoped_config()
    except ProfileNotFound:
        made = botocore.session.Session(session_vars={"profile": _NOTHING})
    return made


def session_with(credentials: Credentials, region: str, profile: str = "") -> boto3.Session:
    """A session with credentials that renew themselves, which boto3 takes through botocore alone.

    Args:
        profile: See `session_of_files`.
    """
    import boto3

    log_no_traceback()
    made = session_of_files(profile)
    made._credentials = credentials
    return boto3.Session(botocore_session=made, region_name=region)


def role_alone() -> Any:
    """A session of botocore with the machine's role, whatever keys, profiles and variables there are.

    Variables may close the way to the role or lead it to a proxy, which its provider reads by itself.
    """
    made = botocore.session.Session(session_vars=_NO_FILES)
    role = made.get_component("credential_provider").get_provider("iam-role")
    fetcher = role._role_fetcher
    fetcher._disabled = False  # AWS_EC2_METADATA_DISABLED
    fetcher._session = URLLib3Session(timeout=fetcher._timeout, proxies={})
    made.register_component("credential_provider", CredentialResolver([role]))
    return made


def session_of_role(region: str) -> boto3.Session:
    """The same as a session of boto3."""
    import boto3

    return boto3.Session(botocore_session=role_alone(), region_name=region)


def expiry_of(credentials: Credentials) -> datetime | None:
    """When credentials that renew themselves end, as they are now; None for others."""
    found = getattr(credentials, "_expiry_time", None)
    return found if isinstance(found, datetime) else None


def came_of_credentials(error: Exception) -> bool:
    """Whether an error came up while botocore got credentials, or renewed them.

    Not all of these have a class of botocore's: a token that is renewed by itself is a RuntimeError, a
    command that is not there an OSError.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "botocore.credentials" for frame, _ in frames)


def came_of_process(error: Exception) -> bool:
    """Whether an error is of a `credential_process`, so that its text may be what the process printed."""
    if isinstance(error, CredentialRetrievalError):
        return bool(error.kwargs.get("provider") == ProcessProvider.METHOD)
    # What is no JSON, no object or no date.
    of_python = isinstance(error, (ValueError, AttributeError)) and not isinstance(error, BotoCoreError)
    return of_python and came_of_credentials(error)


def log_no_traceback() -> None:
    """Where credentials are not renewed, botocore logs a traceback besides the error, which we tell."""
    logging.getLogger("botocore.credentials").addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


@cache
def waiter(service: str, name: str) -> Any:
    """What a waiter of botocore looks for, such as "nat_gateway_available" of "ec2": its `acceptors`."""
    model = botocore.session.Session(session_vars=_NO_FILES).get_waiter_model(service)
    (full,) = (one for one in model.waiter_names if xform_name(one) == name)
    return model.get_waiter(full)
