"""Who calls AWS: an account's credentials, as sessions that stay valid for as long as a run takes.

Accepted are long-lived keys, profiles, assumed roles and whatever else botocore can renew by itself
(instance roles, single sign-on, web identities). A static session token is refused: it ends in the
middle of a run and leaves machines that nobody can remove. A role is assumed through botocore's
refreshable credentials, not once and for all. May not read blocks or configuration.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from prefect_coiled.errors import AccountError
from prefect_coiled.options.base import near
from prefect_coiled.plan.policies import ROLE_ARN

# The access key id of a sandbox's administrator.
ADMINISTRATOR = "sandbox"

if TYPE_CHECKING:
    import boto3
    from botocore.credentials import Credentials


# By these the environment names a profile, the first before the other.
_PROFILE_VARIABLES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")

DEFAULT_SESSION_NAME = "prefect-coiled"
_USE_INSTEAD = (
    "Give a profile (also one with single sign-on), a role to assume, or the long-lived keys of an IAM user."
)


@dataclass(frozen=True)
class CredentialSource:
    """Where credentials come from; with nothing set, from botocore's own chain.

    The secret key is neither in the representation nor in a pickle: load the account again by its
    slug on the other side.

    Attributes:
        external_id: External id that the role's trust policy asks for.
        session_name: Name of the assumed role's session, as CloudTrail shows it.
        role_args: Further parameters of sts:AssumeRole, such as `DurationSeconds`.
    """

    access_key_id: str = ""
    secret_access_key: SecretStr | None = None
    profile: str = ""
    role_arn: str = ""
    external_id: str = ""
    session_name: str = DEFAULT_SESSION_NAME
    role_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.access_key_id and self.profile:
            raise AccountError("AWS keys and a profile", "cannot both be used.", "Give one of them.")
        if self.access_key_id:
            check_access_key_id(self.access_key_id)
        if self.secret_access_key is not None and not self.access_key_id:
            raise AccountError("AWS secret key", "was given without its access key id.")
        if self.external_id and not self.role_arn:
            raise AccountError("external id", "was given without the role that asks for it.")
        if self.external_id and not 2 <= len(self.external_id) <= 1224:
            raise AccountError("external id", "must have 2 to 1224 characters.")
        if self.role_arn and not ROLE_ARN.fullmatch(self.role_arn):
            raise AccountError(
                f"role {self.role_arn!r}", "must look like arn:aws:iam::123456789012:role/name."
            )
        object.__setattr__(self, "role_args", MappingProxyType(dict(self.role_args)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "secret_access_key": None, "role_args": dict(self.role_args)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        object.__setattr__(self, "role_args", MappingProxyType(state["role_args"]))

    @property
    def description(self) -> str:
        """Where the credentials come from, in words and without a secret."""
        source = "botocore's default credentials"
        if self.access_key_id:
            source = f"access key {self.access_key_id}"
        elif self.profile:
            source = f"profile {self.profile!r}"
        return f"role {self.role_arn} through {source}" if self.role_arn else source

    def session(self, region: str, *, endpoint_url: str | None = None) -> boto3.Session:
        """Make a session whose credentials renew themselves where they can expire.

        Makes no call to AWS: a role is assumed at the first call that needs it, and again about
        fifteen minutes before it would expire.

        Args:
            endpoint_url: Where to send sts:AssumeRole, if not to AWS.

        Raises:
            AccountError: The profile does not exist, nothing gives credentials, or what gives them
                is a static session token.
        """
        base = self._base_session(region)
        with told_of_files(self.description, self.profile):
            credentials = base.get_credentials()
        if credentials is None:
            raise AccountError(
                self.description,
                "there are no AWS credentials to be found.",
                "Put keys, a profile or a role into the account block, or run `aws configure`.",
            )
        self._refuse_static_token(credentials)
        return self._assumed(base, credentials, region, endpoint_url) if self.role_arn else base

    def _base_session(self, region: str) -> boto3.Session:
        if self.access_key_id:
            if self.secret_access_key is None:
                raise AccountError(
                    f"access key {self.access_key_id}",
                    "its secret key is missing: it was not given, or was left behind in a pickle.",
                    "Give both keys, or load the account again by its slug.",
                )
            with told_of_files(self.description):
                return session_of_keys(self.access_key_id, self.secret_access_key, region)
        return session_of_here(region, self.profile)

    def _refuse_static_token(self, credentials: Credentials) -> None:
        from botocore.credentials import RefreshableCredentials

        if isinstance(credentials, RefreshableCredentials):
            # Those of the environment are "renewed" from the same variables, which stay as they are.
            # https://docs.aws.amazon.com/cli/latest/reference/configure/export-credentials.html
            if credentials.method == "env":
                raise AccountError(
                    "AWS_CREDENTIAL_EXPIRATION",
                    "says that the environment has a static session token, which would expire in the middle "
                    "of a run.",
                    f"{_USE_INSTEAD} Unset it if the keys do not expire.",
                )
        elif credentials.token:
            raise AccountError(
                self.description if self.access_key_id or self.profile else "AWS_SESSION_TOKEN",
                "is a static session token, which would expire in the middle of a run.",
                _USE_INSTEAD,
            )

    def _assumed(
        self, base: boto3.Session, credentials: Credentials, region: str, endpoint_url: str | None
    ) -> boto3.Session:
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

        from prefect_coiled.internals.botocore import botocore_session, session_with

        source = botocore_session(base)
        args = {**self.role_args, "RoleSessionName": self.session_name}
        if self.external_id:
            args["ExternalId"] = self.external_id
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=functools.partial(
                source.create_client, region_name=region, endpoint_url=endpoint_url
            ),
            source_credentials=credentials,
            role_arn=self.role_arn,
            extra_args=args,
        )
        credentials = DeferredRefreshableCredentials(
            refresh_using=fetcher.fetch_credentials, method="assume-role"
        )
        return session_with(credentials, region, self.profile)


def check_access_key_id(text: str) -> str:
    """The access key id of an IAM user, as it was given.

    Raises:
        AccountError: If it belongs to temporary credentials, whose ids begin with ASIA
            (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html), or is blank.
    """
    if not text or text != text.strip():
        raise AccountError("AWS access key id", "is blank, or has blanks around it.")
    if text.startswith("ASIA"):
        raise AccountError(
            f"access key {text}",
            "is a temporary key, which would expire in the middle of a run.",
            _USE_INSTEAD,
        )
    return text


@functools.lru_cache(maxsize=32)  # one for each region, and some
def session_of_keys(key_id: str, secret: SecretStr, region: str) -> boto3.Session:
    """A session with keys of a user, kept: they stay what they are, unlike a profile or the environment."""
    import boto3

    from prefect_coiled.internals.botocore import session_of_files

    return boto3.Session(
        aws_access_key_id=key_id,
        aws_secret_access_key=secret.get_secret_value(),
        botocore_session=session_of_files(),
        region_name=region,
    )


@functools.lru_cache(maxsize=32)
def session_of_sandbox(secret: str, region: str) -> boto3.Session:
    """A session of a sandbox's administrator, kept. It reads nothing of `~/.aws`."""
    from prefect_coiled.internals.botocore import session_of_keys_alone

    return session_of_keys_alone(ADMINISTRATOR, secret, region)


def session_of_here(region: str, profile: str = "") -> boto3.Session:
    """A session with what AWS tools find on this machine.

    Args:
        profile: A profile of `~/.aws`; by default the one that the environment names, if any.

    Raises:
        AccountError: There is no such profile, or a file cannot be read.
    """
    import boto3

    from prefect_coiled.internals.botocore import log_no_traceback

    log_no_traceback()
    with told_of_files("AWS credentials", profile):
        return boto3.Session(profile_name=profile or None, region_name=region)


@contextmanager
def told_of_files(what: str, profile: str = "") -> Iterator[None]:
    """Tell in a line what is wrong with `~/.aws`, or with what the environment says of it.

    Args:
        what: Whose credentials are asked for.
        profile: The profile that was named, if not by the environment.
    """
    from botocore.exceptions import BotoCoreError, ConfigParseError, ProfileNotFound

    from prefect_coiled.internals.botocore import came_of_credentials

    try:
        yield
    except ProfileNotFound as error:
        name, known = profile or str(error.kwargs.get("profile", "")), _profiles()
        variable = "" if profile else next((v for v in _PROFILE_VARIABLES if v in os.environ), "")
        hint = near(name, known) or (
            f"{variable} names it: set it to one of these, or unset it." if variable else ""
        )
        why = f"is not on this machine (there is: {', '.join(known) or 'none'})."
        raise AccountError(f"profile {name!r}", why, hint) from None
    except ConfigParseError as error:
        # Not the parser's own words: they show the line, which may hold a secret.
        cause = error.kwargs.get("error")
        lines = getattr(cause, "errors", None) or [(getattr(cause, "lineno", None), "")]
        at = f": see line {lines[0][0]}" if lines[0][0] else ""
        raise AccountError(
            f"file {error.kwargs.get('path')}",
            f"is not as AWS's tools write it{at}.",
            "Mend it, or move it away.",
        ) from None
    except Exception as error:
        if not (isinstance(error, BotoCoreError) or came_of_credentials(error)):
            raise
        raise AccountError(what, f"{why_none(error)}.") from as_cause(error)


def why_none(error: Exception) -> str:
    """Why there are no credentials, in a line without a full stop, and without what a process printed.

    That may hold a secret: https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
    """
    from prefect_coiled.internals.botocore import came_of_process

    if came_of_process(error):
        return "the credential_process gave no credentials: run it by itself to see what it says"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, RuntimeError):
        return "the credentials have expired, and what was to renew them gave the same ones again"
    return " ".join(str(error).split()).rstrip(".")


def as_cause(error: Exception) -> Exception | None:
    """An error as the cause of ours; None where a traceback would show what a process printed."""
    from prefect_coiled.internals.botocore import came_of_process

    return None if came_of_process(error) else error


def _profiles() -> list[str]:
    import botocore.session

    return list(botocore.session.Session().available_profiles)


def __getattr__(name: str) -> Any:
    """`Account` where scripts around the provisioning flows knew it before it had a file of its own."""
    if name == "Account":
        from prefect_coiled.aws.loaded_account import Account

        return Account
    raise AttributeError(name)
