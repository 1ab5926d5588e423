"""`Aws`: one account in one region, and the list of every AWS action that this library uses.

Each call names its action ("ec2:CreateVpc"), which must be in `ACTIONS`: the table doubles as the list of
permissions. A failed call becomes an error of `prefect_coiled.errors`, classified by its code.

Three kinds of retry are kept apart. Here, botocore's alone: calls that can safely be sent twice (reads,
deletes, calls with a client token) are retried on throttling and lost connections; creations without a token
are sent once, because a retry after a lost reply makes a second VPC; launches are sent once, because botocore
would retry "no capacity" (an HTTP 500) in silence. Waits are in `waits`; whole steps are retried by Prefect.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    DataNotFoundError,
    HTTPClientError,
    ParamValidationError,
)
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from botocore.utils import InvalidArnException

from prefect_coiled.errors import AwsError, CredentialsError, StoppedError, ThrottledError, aws_error

# Every action in use, and how often it may be sent: "safe" calls may be repeated by botocore, "once" not.
ACTIONS: dict[str, str] = {
    "sts:GetCallerIdentity": "safe",
    "ec2:DescribeAvailabilityZones": "safe",
    "ec2:DescribeVpcs": "safe",
    "ec2:CreateVpc": "once",
    "ec2:ModifyVpcAttribute": "safe",
    "ec2:DeleteVpc": "safe",
    "ec2:DescribeSubnets": "safe",
    "ec2:CreateSubnet": "once",
    "ec2:DeleteSubnet": "safe",
    "ec2:DescribeInternetGateways": "safe",
    "ec2:CreateInternetGateway": "once",
    "ec2:AttachInternetGateway": "once",
    "ec2:DetachInternetGateway": "safe",
    "ec2:DeleteInternetGateway": "safe",
    "ec2:DescribeRouteTables": "safe",
    "ec2:CreateRouteTable": "safe",
    "ec2:AssociateRouteTable": "once",
    "ec2:DisassociateRouteTable": "safe",
    "ec2:CreateRoute": "once",
    "ec2:ReplaceRoute": "safe",
    "ec2:DeleteRouteTable": "safe",
    "ec2:DescribeVpcEndpoints": "safe",
    "ec2:CreateVpcEndpoint": "safe",
    "ec2:ModifyVpcEndpoint": "safe",
    "ec2:DeleteVpcEndpoints": "safe",
    "ec2:DescribeNatGateways": "safe",
    "ec2:CreateNatGateway": "safe",
    "ec2:DeleteNatGateway": "safe",
    "ec2:DescribeAddresses": "safe",
    "ec2:AllocateAddress": "once",
    "ec2:ReleaseAddress": "safe",
    "ec2:DescribeSecurityGroups": "safe",
    "ec2:CreateSecurityGroup": "once",
    "ec2:AuthorizeSecurityGroupIngress": "once",
    "ec2:RevokeSecurityGroupIngress": "once",
    "ec2:DeleteSecurityGroup": "safe",
    "ec2:DescribeLaunchTemplates": "safe",
    "ec2:CreateLaunchTemplate": "safe",
    "ec2:DeleteLaunchTemplate": "safe",
    "ec2:DescribeInstanceTypes": "safe",
    "ec2:DescribeInstances": "safe",
    "ec2:RunInstances": "launch",
    "ec2:TerminateInstances": "safe",
    "ec2:GetConsoleOutput": "safe",
    "iam:GetRole": "safe",
    "iam:CreateRole": "once",
    "iam:DeleteRole": "safe",
    "iam:GetRolePolicy": "safe",
    "iam:PutRolePolicy": "safe",
    "iam:ListRolePolicies": "safe",
    "iam:DeleteRolePolicy": "safe",
    "iam:ListAttachedRolePolicies": "safe",
    "iam:DetachRolePolicy": "safe",
    "iam:GetInstanceProfile": "safe",
    "iam:CreateInstanceProfile": "once",
    "iam:AddRoleToInstanceProfile": "once",
    "iam:RemoveRoleFromInstanceProfile": "safe",
    "iam:DeleteInstanceProfile": "safe",
    "logs:DescribeLogGroups": "safe",
    "logs:ListTagsForResource": "safe",
    "logs:CreateLogGroup": "once",
    "logs:PutRetentionPolicy": "safe",
    "logs:DeleteLogGroup": "safe",
    "logs:CreateLogStream": "once",
    "logs:GetLogEvents": "safe",
    "ssm:GetParameter": "safe",
    "ssm:GetParametersByPath": "safe",
    "ssm:PutParameter": "once",
    "ssm:DeleteParameters": "safe",
    "s3:HeadBucket": "safe",
    "s3:CreateBucket": "once",
    "s3:PutPublicAccessBlock": "safe",
    "s3:PutBucketTagging": "safe",
    "s3:PutBucketLifecycleConfiguration": "safe",
    "s3:HeadObject": "safe",
    "s3:PutObject": "safe",
}

_ATTEMPTS = {"safe": 6, "once": 1, "launch": 1}

# boto3 builds clients from shared state that is not safe to build from two threads at once.
_BUILDING = threading.Lock()

# The region of IAM's and STS's one endpoint does not matter; everything else is regional.
Observer = Callable[[str, str], None]


class Aws:
    """One account in one region: the only way to call AWS.

    Args:
        session: A boto3 session whose credentials refresh by themselves.
        region: Region of the regional services.
        account: The account's slug; what is made is tagged with it.
        endpoint_url: Endpoint of every service, for the sandbox; None for AWS itself.
        stop: When set, calls and waits end with `StoppedError`.
        observer: Called with (action, what) before each call, for progress and tests.

    Attributes:
        calls: How often each action was called.
    """

    def __init__(
        self,
        session: boto3.Session,
        region: str,
        account: str,
        *,
        endpoint_url: str | None = None,
        stop: threading.Event | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.session = session
        self.region = region
        self.account = account
        self.endpoint_url = endpoint_url
        self.stop = stop or threading.Event()
        self.observer = observer
        self.calls: Counter[str] = Counter()
        self._clients: dict[tuple[str, str], Any] = {}

    def without_stop(self) -> Aws:
        """The same door, deaf to the stop event: for the way down."""
        door = Aws(
            self.session, self.region, self.account, endpoint_url=self.endpoint_url, observer=self.observer
        )
        door.calls, door._clients = self.calls, self._clients
        return door

    @property
    def in_sandbox(self) -> bool:
        """Whether this door leads to a local sandbox rather than to AWS."""
        return self.endpoint_url is not None

    def call(self, action: str, what: str, **parameters: Any) -> dict[str, Any]:
        """Make one AWS call.

        Args:
            action: A key of `ACTIONS`, such as "ec2:CreateVpc".
            what: What is being done, for the error text, such as "creating VPC (my-team)".
            parameters: The API's own parameters.

        Returns:
            The response, as boto3 gives it.

        Raises:
            AwsError: With the class that the error's code names.
            StoppedError: If a stop was asked for before the call.
        """
        client, method = self._prepare(action, what)
        try:
            reply: dict[str, Any] = getattr(client, method)(**parameters)
        except (BotoCoreError, ClientError) as error:
            raise self._translate(error, action, what) from error
        return reply

    def pages(self, action: str, what: str, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the items under `key` of every page of a listing call.

        Raises:
            AwsError: As `call` does.
            StoppedError: As `call` does.
        """
        client, method = self._prepare(action, what)
        try:
            for page in client.get_paginator(method).paginate(**parameters):
                yield from page.get(key, ())
        except (BotoCoreError, ClientError) as error:
            raise self._translate(error, action, what) from error

    def _prepare(self, action: str, what: str) -> tuple[Any, str]:
        if self.stop.is_set():
            raise StoppedError(what, "a stop was asked for")
        service, operation = action.split(":")
        client = self._client(service, ACTIONS[action])
        self.calls[action] += 1
        if self.observer:
            self.observer(action, what)
        return client, xform_name(operation)

    def _client(self, service: str, mode: str) -> Any:
        with _BUILDING:
            if (service, mode) not in self._clients:
                # botocore's `max_attempts` counts retries only, in spite of its name.
                config = Config(
                    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS[mode]},
                    max_pool_connections=32,
                    connect_timeout=10,
                    read_timeout=60,
                )
                # The stubs know a service by its literal name only.
                make: Any = self.session.client
                try:
                    self._clients[service, mode] = make(
                        service, region_name=self.region, endpoint_url=self.endpoint_url, config=config
                    )
                except (BotoCoreError, InvalidArnException) as error:
                    raise CredentialsError(f"opening a session with {service}", str(error)) from error
            return self._clients[service, mode]

    @staticmethod
    def _translate(error: BotoCoreError | ClientError, action: str, what: str) -> AwsError:
        if isinstance(error, ClientError):
            return aws_error(what, action, error.response)
        if isinstance(error, (BotocoreConnectionError, HTTPClientError)):
            return ThrottledError(
                what,
                f"{action} got no answer: {error}",
                "Check the network, then run again.",
                operation=action,
            )
        if isinstance(error, (ParamValidationError, DataNotFoundError)):
            return AwsError(what, f"{action}: {error}", operation=action)
        # What is left is the way to credentials: none found, a profile gone, a login that has expired.
        return CredentialsError(
            what,
            f"{' '.join(str(error).split()).rstrip('.')}.",
            "Check the credentials of the account block, or log in again.",
            operation=action,
        )
