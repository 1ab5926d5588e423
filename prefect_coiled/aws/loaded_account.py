"""`Account`: a name, its options and credentials; opens the door to AWS. Makes nothing there."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from prefect_coiled.aws.credentials import ADMINISTRATOR, CredentialSource, session_of_sandbox
from prefect_coiled.aws.sandbox_info import SandboxInfo
from prefect_coiled.options import merge
from prefect_coiled.options.keywords import KEYWORDS

if TYPE_CHECKING:
    import boto3

    from prefect_coiled.aws.door import Aws


@dataclass(frozen=True)
class Account:
    """An account as the rest of the library needs it.

    Attributes:
        slug: Its name: of the block document, the IAM role, the log group and the tags.
        options: The account's layer of the backend options.
        endpoint_url: Where AWS's API is, if not at AWS.
        sandbox: The sandbox that it runs in, or None: said by its block, and never guessed from an endpoint.
        instead_of: Names of the accounts that were saved, where it is the sandbox because none has its name.
        permissions_boundary: ARN of the policy that bounds the machines' role; "none"; or empty, for the one
            that is made with the account's policies.
        monthly_budget: US dollars that its clusters may cost in a calendar month; None for any amount.
    """

    slug: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    credentials: CredentialSource = field(default_factory=CredentialSource)
    endpoint_url: str | None = None
    sandbox: SandboxInfo | None = field(default=None, hash=False)
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    instead_of: tuple[str, ...] = ()
    permissions_boundary: str = ""
    monthly_budget: float | None = None

    def place(self, aws_account_id: str, region: str) -> str:
        """Where its machines run, in words."""
        if not self.is_sandbox:
            at = f" at {self.endpoint_url}" if self.endpoint_url else ""
            return f"AWS account {aws_account_id} in {region}{at}"
        text = "the sandbox on this machine"
        if self.instead_of:
            text += f" (no account of that name is saved; there is: {', '.join(self.instead_of)})"
        return text

    @property
    def shares_loopback(self) -> bool:
        """Whether this account's machines reach what listens on the loopback of this one."""
        return self.sandbox is not None and self.sandbox.shares_loopback

    @property
    def is_sandbox(self) -> bool:
        """Whether this account is the sandbox on this machine."""
        return self.sandbox is not None

    def session(self, region: str) -> boto3.Session:
        """A session for this account; see `CredentialSource.session`.

        Clients made from it need `endpoint_url=account.endpoint_url`. The administrator of a sandbox signs
        with the secret that its whereabouts hold.
        """
        known = self.sandbox
        if known is not None and known.secret_access_key and self.credentials.access_key_id == ADMINISTRATOR:
            return session_of_sandbox(known.secret_access_key, region)
        return self.credentials.session(region, endpoint_url=self.endpoint_url)

    def attach_policy(self, arn: str) -> bool:
        """Let the account's machines do what a managed policy allows, for example read your buckets.

        Args:
            arn: Such as "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess".

        Returns:
            Whether it was not attached yet.

        Raises:
            OptionsError: If there is no such policy, or it opens the whole AWS account.
            ProvisionError: If the account is not set up yet.
        """
        from prefect_coiled.aws.iam_role import attach_policy

        # IAM is the same in all regions.
        return attach_policy(self.door(), arn)

    def door(self, region: str | None = None, stop: threading.Event | None = None) -> Aws:
        """The door of this account in a region; no call is made yet.

        Args:
            region: The AWS region; the one that holds for the account by default.

        Raises:
            OptionsError: There is no such region.
        """
        from prefect_coiled.aws.door import Aws

        if region is not None:
            KEYWORDS["region"].take(region)  # a blank one is none, and not the account's
        region = merge({"region": region}, self.options).options.region
        return Aws(
            self.session(region),
            region,
            self.slug,
            endpoint_url=self.endpoint_url,
            sandbox=self.sandbox,
            stop=stop,
            boundary=self.permissions_boundary,
            own_tags=self.tags,
        )

    def without_secrets(self) -> Account:
        """The same account without the registry's token and the secret key, for a record."""
        options = {k: v for k, v in self.options.items() if k != "registry"}
        return replace(self, options=options, credentials=replace(self.credentials, secret_access_key=None))
