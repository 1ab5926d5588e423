"""Who is calling, and from where."""

from __future__ import annotations

import ipaddress
import urllib.request

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import OptionsError
from prefect_coiled.records import Record

# AWS's own answer to "what is my address".
_CHECK_IP = "https://checkip.amazonaws.com"


class Caller(Record):
    """The identity behind the credentials."""

    aws_account_id: str
    arn: str

    @property
    def name(self) -> str:
        """The last part of the ARN: a user's name, or a role session's."""
        return self.arn.rsplit("/", 1)[-1].rsplit(":", 1)[-1]


def find_caller(aws: Aws) -> Caller:
    """Ask STS who we are; this also shows that the credentials work.

    Raises:
        CredentialsError: If AWS does not accept them.
    """
    number, arn = aws.ask_caller()
    return Caller(aws_account_id=number, arn=arn)


def known_caller(aws: Aws) -> Caller:
    """Who we are; asked for once with these credentials, for which the next call is as good a test.

    Raises:
        CredentialsError: As `find_caller` does.
    """
    number, arn = aws.known_caller or aws.ask_caller()
    return Caller(aws_account_id=number, arn=arn)


def own_cidr(aws: Aws) -> str:
    """The caller's public IPv4 address as a /32, which is what the word "me" stands for.

    Raises:
        OptionsError: If it cannot be found out.
    """
    if aws.sandbox is not None:
        return f"{ipaddress.IPv4Address(aws.sandbox.client_address)}/32"
    try:
        with urllib.request.urlopen(_CHECK_IP, timeout=10) as reply:
            return f"{ipaddress.IPv4Address(reply.read().decode().strip())}/32"
    except (OSError, ValueError) as error:
        raise OptionsError(
            'ingress cidr "me"', f"{_CHECK_IP} did not tell our address: {error}", "Give the CIDR itself."
        ) from error
