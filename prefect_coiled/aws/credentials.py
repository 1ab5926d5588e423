"""Who calls AWS: an account's credentials, as sessions that stay valid for as long as a run takes.

Accepted are long-lived keys, profiles, assumed roles and whatever else botocore can renew by itself
(instance roles, single sign-on, web identities). A static session token is refused: it ends in the
middle of a run and leaves machines that nobody can remove. A role is assumed through botocore's
refreshable credentials, not once and for all. May not read blocks or configuration.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
        import boto3
        from botocore.exceptions import PartialCredentialsError, ProfileNotFound

        if self.access_key_id:
            if self.secret_access_key is None:
                raise AccountError(
                    f"access key {self.access_key_id}",
                    "its secret key is missing: it was not given, or was left behind in a pickle.",
                    "Give both keys, or load the account again by its slug.",
                )
            return session_of_keys(self.access_key_id, self.secret_access_key, region)
        try:
            return boto3.Session(profile_name=self.profile or None, region_name=region)
        except ProfileNotFound:
            known = _profiles()
            raise AccountError(
                f"profile {self.profile!r}",
                f"is not on this machine (there is: {', '.join(known) or 'none'}).",
                near(self.profile, known),
            ) from None
        except PartialCredentialsError as error:
            raise AccountError(self.description, f"{error}.") from error

    def _refuse_static_token(self, credentials: Credentials) -> None:
        from botocore.credentials import RefreshableCredentials

        if not isinstance(credentials, RefreshableCredentials) and credentials.token:
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
        return session_with(credentials, region)


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

    return boto3.Session(
        aws_access_key_id=key_id, aws_secret_access_key=secret.get_secret_value(), region_name=region
    )


def _profiles() -> list[str]:
    import botocore.session

    return list(botocore.session.Session().available_profiles)


def __getattr__(name: str) -> Any:
    """`Account` where scripts around the provisioning flows knew it before it had a file of its own."""
    if name == "Account":
        from prefect_coiled.aws.loaded_account import Account

        return Account
    raise AttributeError(name)
