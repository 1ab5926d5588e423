"""`Aws`: one account in one region, and the only way to call AWS.

Each call names its action ("ec2:CreateVpc"), which must be in the table of `plan.actions`; the IAM policies
are written from the same table. A failed call becomes an error of `prefect_coiled.errors`, classified by its
code.

Three kinds of retry are kept apart. Here, botocore's alone: calls that can safely be sent twice (reads,
deletes, calls with a client token) are retried on throttling and lost connections; creations without a token
are sent once, because a retry after a lost reply makes a second VPC; launches are sent once, because botocore
would retry "no capacity" (an HTTP 500) in silence. Waits are in `waits`; whole steps are retried by Prefect.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    DataNotFoundError,
    HTTPClientError,
    ParamValidationError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from botocore.parsers import ResponseParserError
from botocore.utils import InvalidArnException

from prefect_coiled.aws.credentials import as_cause, why_none
from prefect_coiled.aws.sandbox_info import SandboxInfo
from prefect_coiled.errors import (
    AccessDeniedError,
    AwsError,
    CredentialsError,
    NoAnswerError,
    QuotaError,
    StoppedError,
    sentences,
)
from prefect_coiled.events import Event, Watch, tell
from prefect_coiled.internals.botocore import came_of_credentials, check_tries, checked
from prefect_coiled.plan.actions import ACTIONS, PERMISSIONS_ALONE, changes, mode_of
from prefect_coiled.plan.aws_codes import BY_CLASS, CODES, DO_WITHOUT, SPOT_ROLE_MISSING
from prefect_coiled.plan.aws_errors import aws_error
from prefect_coiled.plan.boundary import BOUND, NO_BOUNDARY, boundary_arn
from prefect_coiled.plan.policies import permitting_statements
from prefect_coiled.plan.quotas import OF_CODES
from prefect_coiled.plan.tags import account_tags, check_user_tags

_ATTEMPTS = {"safe": 6, "once": 1, "launch": 1}

# boto3 builds clients from shared state that is not safe to build from two threads at once.
_BUILDING = threading.Lock()
# A client of EC2 takes a tenth of a second to build, so that all doors of a session share theirs.
_CLIENTS: WeakKeyDictionary[boto3.Session, dict[tuple[str, ...], Any]] = WeakKeyDictionary()

# Whose credentials a session has, number and ARN, by endpoint: they do not change owners.
_CALLERS: WeakKeyDictionary[boto3.Session, dict[str, tuple[str, str]]] = WeakKeyDictionary()

# Where boto3 calls a service otherwise than IAM does.
_CLIENT_NAMES = {"servicequotas": "service-quotas"}
# The region of IAM's and STS's one endpoint does not matter; everything else is regional but for these.
_ONE_REGION = {"freetier": "us-east-1"}
# Where AWS's price list is asked: https://docs.aws.amazon.com/general/latest/gr/billing.html.
_PRICE_LISTS = {"eu": "eu-central-1", "ap": "ap-south-1"}
# Seconds to connect and to read, of what nobody waits for longer.
_HURRIED = {"pricing": (2, 5)}
# What services call a token of a page that has expired.
_TOKEN_EXPIRED = {"ExpiredNextTokenException", "InvalidNextToken", "InvalidPaginationToken"}
# What botocore raises where an answer fits no model; it looks for a bucket behind each redirect, without end.
_UNREADABLE = (ResponseParserError, KeyError, RecursionError)
_UNTRUSTED = (
    "A proxy that looks into TLS may stand in between: give the file of its certificates as AWS_CA_BUNDLE. "
    "Else check the network and this machine's clock."
)
# IAM has one code for all of its quotas, and names in its words which one it is.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_IAM_IS_FULL = (
    "Delete what nobody uses of what is named (IAM console), or ask AWS for a higher quota (Service Quotas "
    "console of us-east-1, IAM). The size of a policy has none: delete policies that were added to the role."
)
# Nobody can own a bucket that is being made.
_WITHOUT_OWNER = {"s3:CreateBucket"}


def _bound(boundary: str, account: str) -> str:
    """What to do where the set-up policy wants a permissions boundary and there is none, or another one."""
    if boundary == NO_BOUNDARY:
        return (
            "The set-up policy wants a permissions boundary, and the account says that there is none: "
            f"`prefect-coiled account edit {account} --clear boundary`."
        )
    if boundary:
        return (
            f"The set-up policy wants another permissions boundary than {boundary}, or denies this outright."
        )
    named = boundary_arn(account, "NUMBER")
    return (
        "The set-up policy wants the role to have its permissions boundary; most likely the role is from "
        f"before that: `prefect-coiled account edit {account} --permissions-boundary {named}`, with the "
        "number of the AWS account, then run again. Or an administrator does it: `prefect-coiled setup iam "
        f"--account {account} --user NAME --apply`."
    )


class _ForeignAnswerError(Exception):
    """Somebody else answered in AWS's place."""


_FAILURES = (BotoCoreError, ClientError, *_UNREADABLE, _ForeignAnswerError)


def _is_failure(error: Exception) -> bool:
    """Whether an error is one of AWS, or of the way to it or to credentials, and no fault of ours."""
    return isinstance(error, _FAILURES) or came_of_credentials(error)


def _is_foreign(action: str, response: Mapping[str, Any]) -> bool:
    """Whether a reply is a page for a browser; AWS numbers what it answers, but for failures of its edge."""
    metadata = response.get("ResponseMetadata", {})
    headers = metadata.get("HTTPHeaders", {})
    page = (
        str(headers.get("content-type", "")).startswith("text/html") and headers.get("content-length") != "0"
    )
    numbered = metadata.get("RequestId") or int(metadata.get("HTTPStatusCode") or 0) >= 500
    return page and not numbered and action != "s3:HeadBucket"  # a HEAD has no page


def _check_author(action: str, reply: Mapping[str, Any]) -> None:
    if _is_foreign(action, reply):
        raise _ForeignAnswerError


class Aws:
    """One account in one region: the only way to call AWS.

    Args:
        session: A boto3 session whose credentials refresh by themselves.
        endpoint_url: Endpoint of every service; None for AWS itself.
        sandbox: The sandbox that the door leads to; None for AWS, and for an endpoint of the user's own.
        boundary: ARN of the permissions boundary of the machines' role; "none"; or empty, for the one that is
            made with the account's policies.
        own_tags: The account's own tags, as they were given.

    Attributes:
        fence: Called before each call that changes something; raises where it must not be made any more.
    """

    def __init__(
        self,
        session: boto3.Session,
        region: str,
        account: str,
        *,
        endpoint_url: str | None = None,
        sandbox: SandboxInfo | None = None,
        stop: threading.Event | None = None,
        boundary: str = "",
        own_tags: Mapping[str, str] | None = None,
    ) -> None:
        self.session = session
        self.region = region
        self.account = account
        self.boundary = boundary
        self.own_tags = dict(own_tags or {})
        self.endpoint_url = endpoint_url
        self.sandbox = sandbox
        self.stop = stop or threading.Event()
        self.fence: Callable[[], None] | None = None

    def without_stop(self) -> Aws:
        """The same door, deaf to the stop event: for the way down."""
        return self.beside()

    def beside(self, region: str | None = None, stop: threading.Event | None = None) -> Aws:
        """Another door of the account, with no fence.

        Args:
            region: Its region; the same one by default.
            stop: Its stop event; one of its own by default.
        """
        return Aws(
            self.session,
            region or self.region,
            self.account,
            endpoint_url=self.endpoint_url,
            sandbox=self.sandbox,
            stop=stop,
            boundary=self.boundary,
            own_tags=self.own_tags,
        )

    def labels(self, **more: str) -> dict[str, str]:
        """The tags of what is made for the account and not for a cluster: its own ones and ours, which win.

        Args:
            more: See `account_tags`.

        Raises:
            OptionsError: For a tag that AWS does not take, or that is ours.
        """
        return {**check_user_tags(self.own_tags), **account_tags(self.account, **more)}

    @property
    def in_sandbox(self) -> bool:
        """Whether this door leads to a local sandbox rather than to AWS."""
        return self.sandbox is not None

    @property
    def number(self) -> str:
        """The 12 digits of the AWS account behind the credentials, which is asked for once.

        Raises:
            CredentialsError: If AWS does not accept them.
        """
        return self.known_number or self.ask_caller()[0]

    @property
    def known_number(self) -> str:
        """The same, as far as it was asked for; else empty."""
        caller = self.known_caller
        return caller[0] if caller is not None else ""

    @property
    def known_caller(self) -> tuple[str, str] | None:
        """The number of the AWS account and the ARN of who calls, once somebody has asked."""
        return _CALLERS.get(self.session, {}).get(self.endpoint_url or "")

    def ask_caller(self) -> tuple[str, str]:
        """Ask AWS for the number of the AWS account and the ARN of who calls.

        Raises:
            CredentialsError: If AWS does not accept the credentials.
        """
        reply = self.call("sts:GetCallerIdentity", f"checking the credentials of account ({self.account})")
        found = str(reply["Account"]), str(reply["Arn"])
        _CALLERS.setdefault(self.session, {})[self.endpoint_url or ""] = found
        return found

    def tell(self, kind: str, text: str = "", **fields: Any) -> None:
        """Tell something of this account in this region, to whoever hears what is told in this context."""
        number = self.known_number
        tell(Event(kind, text, account=self.account, region=self.region, number=number, **fields))

    def call(self, action: str, what: str, **parameters: Any) -> dict[str, Any]:
        """Make one AWS call.

        Args:
            action: A key of `plan.actions.ACTIONS`, such as "ec2:CreateVpc".
            what: What is being done, for the error text, such as "creating VPC (my-team)".

        Returns:
            The response, as boto3 gives it.

        Raises:
            AwsError: With the class that the error's code names.
            StoppedError: If a stop was asked for before the call.
        """
        parameters = self._owned(action, parameters)
        client, method = self._prepare(action, what)
        watch = Watch()
        try:
            # botocore tries again by itself: what has held for the first try may be over by then.
            with checked(self.fence if changes(action) else None):
                reply: dict[str, Any] = getattr(client, method)(**parameters)
            _check_author(action, reply)
        except Exception as error:
            if not _is_failure(error):
                raise
            failure = self._translate(error, action, what)
            self.tell("reply", what, action=action, seconds=watch.seconds, error=failure)
            raise failure from as_cause(error)
        self.tell("reply", what, action=action, seconds=watch.seconds, reply=reply)
        return reply

    def pages(self, action: str, what: str, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The items under `key` of all pages of a listing call.

        All pages are read before the first item is given: where AWS takes the token of a page no more, the
        listing begins again, and no item comes twice.

        Raises:
            AwsError: As `call` does.
            StoppedError: As `call` does.
        """
        parameters = self._owned(action, parameters)
        for again in (True, True, False):
            client, method = self._prepare(action, what)
            items: list[dict[str, Any]] = []
            read = 0
            try:
                for page in client.get_paginator(method).paginate(**parameters):
                    _check_author(action, page)
                    self.tell("reply", what, action=action, reply=page)
                    items += page.get(key, ())
                    read += 1
            except Exception as error:
                if not _is_failure(error):
                    raise
                failure = self._translate(error, action, what)
                self.tell("reply", what, action=action, error=failure)
                if again and read and failure.code in _TOKEN_EXPIRED:
                    continue
                raise failure from as_cause(error)
            break
        return iter(items)

    def _owned(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Names of buckets are shared by all of AWS: whose the bucket has to be is said with every call.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
        """
        if action.startswith("s3:") and action not in _WITHOUT_OWNER:
            return {**parameters, "ExpectedBucketOwner": self.number}
        return parameters

    def _prepare(self, action: str, what: str) -> tuple[Any, str]:
        if self.stop.is_set():
            raise StoppedError(what, "a stop was asked for")
        if self.fence is not None and changes(action):
            self.fence()
        service, operation = action.split(":")
        client = self._client(service, mode_of(action))
        self.tell("call", what, action=action)
        return client, xform_name(operation)

    def _client(self, service: str, mode: str) -> Any:
        key = (service, mode, self.region, self.endpoint_url or "")
        with _BUILDING:
            clients = _CLIENTS.setdefault(self.session, {})
            if key not in clients:
                # botocore's `max_attempts` counts retries only, in spite of its name.
                connect, read = _HURRIED.get(service, (10, 60))
                config = Config(
                    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS[mode]},
                    max_pool_connections=32,
                    connect_timeout=connect,
                    read_timeout=read,
                )
                # The stubs know a service by its literal name only.
                make: Any = self.session.client
                try:
                    clients[key] = make(
                        _CLIENT_NAMES.get(service, service),
                        region_name=self._region_of(service),
                        endpoint_url=self.endpoint_url,
                        config=config,
                    )
                except (BotoCoreError, InvalidArnException) as error:
                    raise CredentialsError(f"opening a session with {service}", str(error)) from error
                check_tries(clients[key])
            return clients[key]

    def _region_of(self, service: str) -> str:
        if service == "pricing":
            return _PRICE_LISTS.get(self.region.partition("-")[0], "us-east-1")
        return _ONE_REGION.get(service, self.region)

    def _translate(self, error: Exception, action: str, what: str) -> AwsError:
        if isinstance(error, (*_UNREADABLE, _ForeignAnswerError)) or (
            isinstance(error, ClientError) and _is_foreign(action, error.response)
        ):
            return NoAnswerError(
                what,
                f"{action} got an answer that AWS did not write.",
                "A proxy, or the log-in page of a guest network, may stand in between: check the network, "
                "then run again.",
                operation=action,
            )
        if isinstance(error, ClientError):
            made = aws_error(what, action, error.response)
            if isinstance(made, AccessDeniedError):
                return self._explained(made)
            quota = OF_CODES.get(made.code) if isinstance(made, QuotaError) else None
            if isinstance(made, QuotaError) and action.startswith("iam:") and changes(action):
                made = aws_error(what, action, error.response, next_step=_IAM_IS_FULL)
            if quota is not None:
                where = sentences(made.diagnosis.next_step, f"Quota: {quota}, {quota.console(self.region)}")
                made = aws_error(what, action, error.response, next_step=where)
            return made
        if isinstance(error, (BotocoreConnectionError, HTTPClientError)):
            untrusted = isinstance(error, SSLError)
            made = NoAnswerError(
                what,
                f"{action} got no answer: {str(error).rstrip('. ')}.",
                _UNTRUSTED if untrusted else "Check the network, then run again.",
                operation=action,
            )
            made.retried = "never" if untrusted else made.retried
            return made
        if isinstance(error, (ParamValidationError, DataNotFoundError)):
            return AwsError(what, f"{action}: {error}", operation=action)
        # What is left is the way to credentials: none found, a profile gone, a login that has expired.
        return CredentialsError(
            what,
            f"{why_none(error)}.",
            "Check the credentials of the account block, or log in again.",
            operation=action,
        )

    def _explained(self, error: AccessDeniedError) -> AccessDeniedError:
        """The same, with the statements that permit the call, where our policies have them."""
        code = CODES.get(error.code, BY_CLASS[AccessDeniedError])
        if error.denied_by.startswith("identity-based") and error.operation in BOUND:
            return error.retold(_bound(self.boundary, self.account))
        if error.denied_by:
            instead = f" {DO_WITHOUT[error.operation]}" if error.operation in DO_WITHOUT else ""
            an = "an" if error.denied_by[:1] in "aeiou" else "a"
            # https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_mfa_configure-api-require.html
            mfa = " Or it wants a log-in with MFA." if error.denied_by.startswith("identity-based") else ""
            return error.retold(
                f"Whatever is attached here, {an} {error.denied_by} stands in the way: ask whoever keeps it."
                f"{mfa}{instead}"
            )
        if error.operation not in ACTIONS:  # of an administrator, and so in no policy of ours
            return error
        own_actions = {g.action for g in ACTIONS[error.operation].grants} | PERMISSIONS_ALONE
        if error.action and error.action not in own_actions:
            # Such as the use of a KMS key, which our policies do not give.
            on = f" on {error.resource}" if error.resource not in ("", "*") else ""
            return error.retold(f"Permit {error.action}{on} to the credentials, and run again.")
        lacks_spot_role = error.code == SPOT_ROLE_MISSING
        lacking = "iam:CreateServiceLinkedRole" if lacks_spot_role else error.action
        action = lacking or next((g.action for g in ACTIONS[error.operation].grants), error.operation)
        found = permitting_statements(
            lacking if lacks_spot_role else error.operation,
            self.account,
            permissions_boundary=self.boundary,
        )
        if found is None:
            return error
        policy, statements = found
        which = "this statement" if len(statements) == 1 else "these statements"
        shown = json.dumps(statements[0] if len(statements) == 1 else statements)
        own = code.next_step if code.next_step != BY_CLASS[AccessDeniedError].next_step else ""
        how = f"`prefect-coiled policies {policy} --account {self.account}`"
        return error.retold(
            sentences(own, f"Attach the {policy} policy ({how}), or add {which}: {shown}"),
            action=action,
            statements=statements,
        )
