"""Every error this library raises, as one tree, and the tables that classify AWS error codes.

    PrefectCoiledError
    ├── OptionsError              bad input; raised before anything is spent
    │   └── AccountError          no such account, or its credentials cannot be used
    ├── AwsError                  an AWS call failed; carries operation, code and request id
    │   ├── AccessDeniedError     a permission is missing
    │   ├── CredentialsError      AWS does not accept the credentials
    │   ├── NotFoundError         the resource is not there (or not yet)
    │   ├── AlreadyExistsError    the name is taken
    │   ├── InUseError            something else still depends on the resource
    │   ├── ThrottledError        too many requests, or AWS itself failed
    │   ├── NoCapacityError       AWS has no machine of this type in this zone now
    │   └── QuotaError            a limit of the AWS account is reached
    ├── ProvisionError            a step failed; carries the first cause and what to do next
    │   ├── ClusterStartError     the cluster did not come up; nothing is left running
    │   ├── NameTakenError        another cluster has the name, or is about to
    │   └── WaitTimeoutError      a named wait ran past its bound
    ├── StoppedError              a stop was asked for while waiting
    ├── TaskLostError             Dask gave a task up; its run is marked Crashed
    ├── NodeError                 a machine could not start or keep its Dask process
    └── SandboxError              the local sandbox cannot start or answer

AWS failures are told apart by their error *codes* (the tables below), never by message text.
This module imports nothing of AWS, Prefect or Dask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AccessDeniedError",
    "AccountError",
    "AlreadyExistsError",
    "AwsError",
    "ClusterStartError",
    "CredentialsError",
    "Diagnosis",
    "InUseError",
    "NameTakenError",
    "NoCapacityError",
    "NodeError",
    "NotFoundError",
    "OptionsError",
    "PrefectCoiledError",
    "ProvisionError",
    "QuotaError",
    "SandboxError",
    "StoppedError",
    "TaskLostError",
    "ThrottledError",
    "WaitTimeoutError",
    "aws_error",
    "is_retryable",
]


@dataclass(frozen=True)
class Diagnosis:
    """What failed, why, and what a person can do next.

    Attributes:
        what: What was being done, such as "creating VPC".
        why: The first cause, in AWS's or Dask's own words where there are any.
        next_step: What to do about it; empty when nothing is known to help.
    """

    what: str
    why: str
    next_step: str = ""

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text} {self.next_step}".rstrip() if self.next_step else text


class PrefectCoiledError(Exception):
    """Base of every error of this library.

    Args:
        what: What failed, in one clause.
        why: The first cause.
        next_step: What to do next, as one sentence.
    """

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        self.diagnosis = Diagnosis(what, why, next_step)
        super().__init__(str(self.diagnosis))

    def __reduce__(self) -> tuple[Any, ...]:
        d = self.diagnosis
        return (_rebuild, (type(self), (d.what, d.why, d.next_step), self.__dict__.copy()))


def _rebuild(
    cls: type[PrefectCoiledError], args: tuple[str, str, str], state: dict[str, Any]
) -> PrefectCoiledError:
    error = cls.__new__(cls)
    PrefectCoiledError.__init__(error, *args)
    error.__dict__.update(state)
    return error


class OptionsError(PrefectCoiledError, ValueError):
    """An option, parameter or combination of them is wrong. Nothing was created."""


class AccountError(OptionsError):
    """The account is not known, or its credentials cannot be used."""


class AwsError(PrefectCoiledError):
    """An AWS call failed.

    Args:
        what: What was being done, such as "creating Security Group (prefect-coiled-a)".
        why: AWS's message.
        next_step: What to do next.
        operation: The API action, such as "ec2:CreateVpc".
        code: AWS's error code.
        request_id: AWS's request id, for a support case.
    """

    def __init__(
        self,
        what: str,
        why: str = "",
        next_step: str = "",
        *,
        operation: str = "",
        code: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(what, why, next_step)
        self.operation = operation
        self.code = code
        self.request_id = request_id


class AccessDeniedError(AwsError):
    """The credentials lack a permission.

    Args:
        what: What was being done.
        why: AWS's message.
        next_step: What to do next.
        operation: The API action that was called.
        code: AWS's error code.
        request_id: AWS's request id.
        action: The permission that is missing, which may be another than the call's; empty if AWS does not
            say.
        resource: The ARN on which it is missing.
        statement: The IAM statement that permits it.
    """

    def __init__(
        self,
        what: str,
        why: str = "",
        next_step: str = "",
        *,
        operation: str = "",
        code: str = "",
        request_id: str = "",
        action: str = "",
        resource: str = "",
        statement: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what, why, next_step, operation=operation, code=code, request_id=request_id)
        self.action = action
        self.resource = resource
        self.statement = statement


class CredentialsError(AwsError):
    """AWS does not accept the credentials: wrong, expired or absent."""


class NotFoundError(AwsError):
    """The resource is not there, or not visible yet."""


class AlreadyExistsError(AwsError):
    """The name, route, rule or association is there already."""


class InUseError(AwsError):
    """Another resource still depends on this one."""


class ThrottledError(AwsError):
    """AWS asked to slow down, or failed on its own side."""


class NoCapacityError(AwsError):
    """AWS has no machine of the wanted type in the wanted zone at the moment."""


class QuotaError(AwsError):
    """A limit (service quota) of the AWS account is reached."""


class ProvisionError(PrefectCoiledError):
    """A provisioning step failed for good."""


class ClusterStartError(ProvisionError):
    """The cluster did not come up; what had been launched was terminated."""


class NameTakenError(ProvisionError):
    """Another cluster of the account and region has the name, or is coming up under it."""


class WaitTimeoutError(ProvisionError, TimeoutError):
    """A named wait ran past its documented bound."""


class StoppedError(PrefectCoiledError):
    """A stop (cancel, Ctrl-C, close) was asked for while something was being waited for."""


class TaskLostError(PrefectCoiledError):
    """Dask gave up on a task, for example because its workers kept dying."""


class NodeError(PrefectCoiledError):
    """A machine of the cluster could not start, or could not keep, its Dask process."""


class SandboxError(PrefectCoiledError):
    """The local sandbox cannot start, or does not answer."""


# Codes as in https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html and the
# "Common Errors" pages of IAM, SSM, CloudWatch Logs and STS.
_DENIED = {
    "403",  # all that S3 says to a HEAD request
    "AccessDenied",
    "AccessDeniedException",
    "UnauthorizedOperation",
    "Client.UnauthorizedOperation",
    "NotAuthorized",
}
_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "OptInRequired",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_NOT_FOUND = {
    "404",  # all that S3 says to a HEAD request
    "ImageNotFoundException",
    "InvalidAMIID.Unavailable",
    "LifecyclePolicyNotFoundException",
    "NatGatewayNotFound",
    "NoSuchBucket",
    "NoSuchEntity",
    "NoSuchKey",
    "NoSuchTagSet",
    "ParameterNotFound",
    "ParameterVersionNotFound",
    "RepositoryNotFoundException",
    "ResourceNotFoundException",
    "Gateway.NotAttached",
}
_EXISTS = {
    "AlreadyExistsException",
    "BucketAlreadyExists",
    "BucketAlreadyOwnedByYou",
    "EntityAlreadyExists",
    "InvalidAMIName.Duplicate",
    "InvalidGroup.Duplicate",
    "InvalidLaunchTemplateName.AlreadyExistsException",
    "InvalidPermission.Duplicate",
    "ParameterAlreadyExists",
    "RepositoryAlreadyExistsException",
    "Resource.AlreadyAssociated",
    "ResourceAlreadyExistsException",
    "RouteAlreadyExists",
}
_IN_USE = {
    "DeleteConflict",
    "DependencyViolation",
    "InvalidGroup.InUse",
    "InvalidIPAddress.InUse",
    "InvalidNetworkInterface.InUse",
    "InvalidSnapshot.InUse",
    "ResourceInUseException",
}
_THROTTLED = {
    "EC2ThrottledException",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceException",
    "OperationAbortedException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TooManyUpdates",
    "Unavailable",
}
_NO_CAPACITY = {
    "InsufficientCapacity",
    "InsufficientCapacityOnHost",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "Unsupported",
}
_QUOTA = {
    "AddressLimitExceeded",
    "InstanceLimitExceeded",
    "InternetGatewayLimitExceeded",
    "LimitExceeded",
    "LimitExceededException",
    "MaxSpotInstanceCountExceeded",
    "NatGatewayLimitExceeded",
    "ParameterLimitExceeded",
    "RouteTableLimitExceeded",
    "SecurityGroupLimitExceeded",
    "SubnetLimitExceeded",
    "VcpuLimitExceeded",
    "VpcLimitExceeded",
}

_NEXT: dict[type[AwsError], str] = {
    AccessDeniedError: "Attach the missing permission to the credentials of the account and run again.",
    CredentialsError: "Check the AWS credentials of the account block: keys, profile or role.",
    NoCapacityError: "Try another zone or instance type, or allow more than one vm_type.",
    QuotaError: "Ask AWS for a higher quota (Service Quotas console), or use less at a time.",
    ThrottledError: "AWS is slowing requests down or failing; run again in a minute.",
}


def _class_for(code: str) -> type[AwsError]:
    for codes, cls in (
        (_DENIED, AccessDeniedError),
        (_CREDENTIALS, CredentialsError),
        (_NOT_FOUND, NotFoundError),
        (_EXISTS, AlreadyExistsError),
        (_IN_USE, InUseError),
        (_THROTTLED, ThrottledError),
        (_NO_CAPACITY, NoCapacityError),
        (_QUOTA, QuotaError),
    ):
        if code in codes:
            return cls
    # EC2 spells absence as "InvalidVpcID.NotFound", "InvalidInstanceID.NotFound" and so on.
    return NotFoundError if code.endswith(".NotFound") else AwsError


def aws_error(what: str, operation: str, response: Mapping[str, Any]) -> AwsError:
    """Turn the response of a failed AWS call into an error of this tree.

    Args:
        what: What was being done, for a person.
        operation: The API action, such as "ec2:CreateVpc".
        response: The `response` of a botocore ClientError.

    Returns:
        An error of the class that the code table names.
    """
    error = response.get("Error", {})
    code = str(error.get("Code", ""))
    cls = _class_for(code)
    # What follows is for `sts:DecodeAuthorizationMessage`, and hundreds of characters long.
    message = str(error.get("Message", "")).partition(" Encoded authorization failure message:")[0]
    named = _MISSING.search(message) if cls is AccessDeniedError else None
    made = cls(
        what,
        f"{operation} answered {code}: {message}".rstrip(": "),
        _NEXT.get(cls, ""),
        operation=operation,
        code=code,
        request_id=str(response.get("ResponseMetadata", {}).get("RequestId", "")),
    )
    if isinstance(made, AccessDeniedError) and named is not None:
        made.action, made.resource = named[1], named[2]
    return made


# How AWS names what is missing:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
_MISSING = re.compile(r"not authorized to perform: ([\w:-]+) on resource: (\S+)")


# A step may be tried again after these. No capacity is not among them: the launch itself goes on
# to the next type, the next zone and on demand, and then gives up with what it tried.
_RETRYABLE = (ThrottledError, InUseError, NotFoundError, AlreadyExistsError)


def is_retryable(error: BaseException) -> bool:
    """Whether running the whole idempotent step again can help."""
    return isinstance(error, (*_RETRYABLE, ConnectionError))
