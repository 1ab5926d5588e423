"""Short-lived AWS credentials of this machine's, for tasks (`credentials="local"`).

What AWS tools find here: keys that last are turned into keys for an hour by STS, the others go as they are.
In the sandbox, which knows nobody else, they are those of the account.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from botocore.exceptions import ClientError

from prefect_coiled.aws.credentials import session_of_here, told_of_files
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccountError, CredentialsError
from prefect_coiled.internals.botocore import expiry_of

# Seconds for which keys are asked for. STS gives some for 15 minutes at least; botocore asks for new ones 15
# minutes before the end. https://docs.aws.amazon.com/STS/latest/APIReference/API_GetSessionToken.html
LASTS_S = 3600
# Seconds before their end in which new ones are taken.
_RENEWED_S = 1800.0
# Seconds for which a token counts that does not say when it ends.
_UNKNOWN_S = 900.0

# What is lent, in the words of a container's credentials:
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
Lent = dict[str, str]


class Lender:
    """Gives credentials, the same ones until they should be renewed.

    Args:
        aws: The door of the cluster's account.
    """

    def __init__(self, aws: Aws) -> None:
        session = aws.session if aws.in_sandbox else session_of_here(aws.region)
        self._door = Aws(session, aws.region, aws.account, endpoint_url=aws.endpoint_url, sandbox=aws.sandbox)
        self._lent: tuple[Lent, datetime] | None = None

    def lend(self, now: datetime | None = None) -> Lent:
        """Credentials for tasks; blocks while AWS is asked for them.

        Raises:
            AccountError: There are none on this machine, or a log-in is over.
            CredentialsError: AWS does not renew them.
            AwsError: If STS does not give any.
        """
        now = now or datetime.now(timezone.utc)
        if self._lent is not None and (self._lent[1] - now).total_seconds() > _RENEWED_S:
            return self._lent[0]
        try:
            with told_of_files('credentials="local"'):
                found: Any = self._door.session.get_credentials()
                frozen = found and found.get_frozen_credentials()
        except ClientError as error:  # such as of a role that may not be assumed any more
            raise CredentialsError(
                'credentials="local"',
                f"the AWS credentials of this machine could not be renewed: {error}",
                "Log in again (`aws sso login`): it is tried again each minute.",
            ) from error
        if found is None:
            raise AccountError(
                'credentials="local"',
                "there are no AWS credentials on this machine to lend to tasks.",
                "Run `aws configure` or `aws sso login`, or leave it out: machines have a role of their own.",
            )
        if frozen.token:
            end = expiry_of(found) or now + timedelta(seconds=_UNKNOWN_S)
            keys = frozen.access_key, frozen.secret_key, frozen.token
        else:
            reply = self._door.call(
                "sts:GetSessionToken", "getting credentials to lend to tasks", DurationSeconds=LASTS_S
            )["Credentials"]
            end = reply["Expiration"]
            keys = reply["AccessKeyId"], reply["SecretAccessKey"], reply["SessionToken"]
        lent = {
            "AccessKeyId": keys[0],
            "SecretAccessKey": keys[1],
            "Token": keys[2],
            "Expiration": end.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self._lent = lent, end
        return lent
