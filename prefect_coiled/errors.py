"""Every error this library raises, as one tree.

    PrefectCoiledError
    ├── OptionsError              bad input; raised before anything is spent
    │   ├── AccountError          no such account, or its credentials cannot be used
    │   └── ArgumentError         a task's argument cannot be sent to a worker
    ├── AwsError                  an AWS call failed; carries operation, code and request id
    │   ├── AccessDeniedError     a permission is missing
    │   ├── CredentialsError      AWS does not accept the credentials
    │   ├── NotFoundError         the resource is not there (or not yet)
    │   ├── AlreadyExistsError    the name is taken
    │   ├── InUseError            something else still depends on the resource
    │   ├── UnavailableError      not at the moment
    │   │   ├── ThrottledError    too many requests, or AWS itself failed
    │   │   └── NoAnswerError     the connection was lost, or none came about
    │   ├── NoCapacityError       AWS has no machine of this type in this zone now
    │   ├── QuotaError            a limit of the AWS account is reached
    │   ├── AccountStateError     the AWS account may not do that: it is new, blocked, on the free plan
    │   └── InvalidRequestError   AWS does not take the request as it is
    ├── ProvisionError            a step failed; carries the first cause and what to do next
    │   ├── ClusterStartError     the cluster did not come up; nothing is left running
    │   ├── NameTakenError        another cluster has the name, or is about to
    │   └── WaitTimeoutError      a named wait ran past its bound
    ├── StoppedError              a stop was asked for while waiting
    ├── TaskLostError             Dask gave a task up; its run is marked Crashed
    ├── TaskFailedError           a task's error that cannot be read where the flow runs, in words
    ├── ResultError               a task's result cannot be sent from its worker, or be read elsewhere
    ├── NodeError                 a machine could not start or keep its Dask process
    └── SandboxError              the local sandbox cannot start or answer

AWS failures are told apart by their error *codes* (the table of `plan.aws_codes`), never by message text.
This module imports nothing of AWS, Prefect or Dask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

E = TypeVar("E", bound="AwsError")

# C0 but for tab and line feed, DEL, C1, and what turns the direction of writing: https://unicode.org/reports/tr9/.
# What has no width could hide in a name; the joiners of scripts and of emoji stay.
_CONTROLS = dict.fromkeys(
    [
        *range(0x09),
        *range(0x0B, 0x20),
        *range(0x7F, 0xA0),
        # Marks that turn the direction of a line, ends of lines and paragraphs, and tags, which are not seen.
        0x00AD,
        0x061C,
        0x180E,
        0x200B,
        *range(0x200E, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2060, 0x2070),
        0xFEFF,
        *range(0xFFF9, 0xFFFC),
        # Halves of a character, which JSON can hold and no terminal takes.
        *range(0xD800, 0xE000),
        *range(0xE0000, 0xE0080),
    ],
    "?",
)


def printable(text: str) -> str:
    """A text of AWS's or of a machine's without what a terminal would obey: such characters become "?"."""
    return str(text).replace("\r\n", "\n").translate(_CONTROLS)


def sentences(*parts: str) -> str:
    """What is told one after the other, each part a sentence of its own; what is blank falls away.

    AWS's own words come with a full stop and without. The last part stays as it is: it may end with what is
    to be copied.
    """
    told = [part.strip() for part in parts if part.strip()]
    ended = [part if part.endswith((".", "!", "?")) else part.rstrip(" ,;:") + "." for part in told[:-1]]
    return " ".join([*ended, *told[-1:]])


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
        return sentences(f"{self.what}: {self.why}" if self.why else self.what, self.next_step)


class PrefectCoiledError(Exception):
    """Base of every error of this library.

    Args:
        next_step: What to do next, as one sentence.

    Attributes:
        left: Of a removal that failed: what is left, with the reasons.
    """

    left: Mapping[str, str] = {}

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        self.diagnosis = Diagnosis(printable(what), printable(why), printable(next_step))
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


class ArgumentError(OptionsError, TypeError):
    """An argument of a task cannot be sent to a worker."""


class AwsError(PrefectCoiledError):
    """An AWS call failed.

    Args:
        what: What was being done, such as "creating Security Group (prefect-coiled-a)".
        request_id: AWS's request id, for a support case.

    Attributes:
        retried: Who tries again, by the table of codes: "never", "call", "step", "launch"; empty where the
            class alone says it.
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
        self.retried = ""

    def told_as(self, kind: type[E], *, what: str = "", why: str = "", next_step: str = "") -> E:
        """The same failure of the same call as an error of another kind; words that are not given stay."""
        d = self.diagnosis
        call = {"operation": self.operation, "code": self.code, "request_id": self.request_id}
        told = kind(what or d.what, why or d.why, next_step or d.next_step, **call)
        told.left = self.left
        return told


class AccessDeniedError(AwsError):
    """The credentials lack a permission.

    Args:
        action: The permission that is missing, which may be another than the call's; empty if AWS does not
            say.
        resource: The ARN on which it is missing.
        statements: IAM statements that permit the call, by themselves.
        **call: As of an `AwsError`.

    Attributes:
        denied_by: The kind of policy that denies it whatever else is attached, such as "service control
            policy"; empty where a permission is missing.
    """

    def __init__(
        self,
        what: str,
        why: str = "",
        next_step: str = "",
        *,
        action: str = "",
        resource: str = "",
        statements: Sequence[Mapping[str, Any]] = (),
        **call: str,
    ) -> None:
        super().__init__(what, why, next_step, **call)
        self.action, self.resource, self.statements = action, resource, tuple(statements)
        self.denied_by = ""

    def retold(
        self, next_step: str, *, action: str = "", statements: Sequence[Mapping[str, Any]] = (), **words: str
    ) -> AccessDeniedError:
        """The same denial in other words, for whoever knows more of what it means.

        Args:
            statements: IAM statements that permit the call; none if not given.
            **words: What and why, as of `told_as`.
        """
        told = self.told_as(AccessDeniedError, next_step=next_step, **words)
        told.__dict__.update(resource=self.resource, retried=self.retried, denied_by=self.denied_by)
        told.action, told.statements = action or self.action, tuple(statements)
        return told


class CredentialsError(AwsError):
    """AWS does not accept the credentials: wrong, expired or absent."""


class NotFoundError(AwsError):
    """The resource is not there, or not visible yet."""


class AlreadyExistsError(AwsError):
    """The name, route, rule or association is there already."""


class InUseError(AwsError):
    """Another resource still depends on this one."""


class UnavailableError(AwsError):
    """AWS did not do it at the moment; the same call may succeed a little later."""


class ThrottledError(UnavailableError):
    """AWS asked to slow down, or failed on its own side."""


class NoAnswerError(UnavailableError):
    """No answer came, so that it is not known whether AWS did it."""


class NoCapacityError(AwsError):
    """AWS has no machine of the wanted type in the wanted zone at the moment."""


class QuotaError(AwsError):
    """A limit (service quota) of the AWS account is reached."""


class AccountStateError(AwsError):
    """The AWS account itself may not do that: it is new, blocked, on the free plan, or not in this region."""


class InvalidRequestError(AwsError):
    """AWS does not take the request as it is."""


class ProvisionError(PrefectCoiledError):
    """A provisioning step failed for good."""


class PrefectApiError(ProvisionError):
    """The Prefect API did not do what provisioning needs of it; what had been launched was terminated."""


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


class TaskFailedError(PrefectCoiledError):
    """A task raised an error that cannot be read where the flow runs; this one has its kind and its words."""


class ResultError(PrefectCoiledError, TypeError):
    """A task has completed, and what it returned cannot be sent from its worker, or be read elsewhere."""


class NodeError(PrefectCoiledError):
    """A machine of the cluster could not start, or could not keep, its Dask process."""


class SandboxError(PrefectCoiledError):
    """The local sandbox cannot start, or does not answer."""


# A step may be tried again after these. No capacity is not among them: the launch itself goes on
# to the next type, the next zone and on demand, and then gives up with what it tried.
_RETRYABLE = (UnavailableError, InUseError, NotFoundError, AlreadyExistsError)


def is_retryable(error: BaseException) -> bool:
    """Whether running the whole idempotent step again can help."""
    if isinstance(error, AwsError) and error.retried:
        return error.retried in ("call", "step")
    return isinstance(error, (*_RETRYABLE, ConnectionError))
