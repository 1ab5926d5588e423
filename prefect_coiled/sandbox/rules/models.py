"""Validation by botocore's models: what members are required, how long, how many, of which characters.

Clients check types and lower bounds and little else; AWS checks all of it. Each service has its own code and
its own words for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.patterns import matches
from prefect_coiled.sandbox.rules.table import Refusal, kept

__all__ = ["Violation", "refused_by_model", "unreadable", "violations"]

_EC2_ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"
_COMMON = "https://docs.aws.amazon.com/{}/latest/APIReference/CommonErrors.html"

kept(
    "model",
    "ec2",
    "*",
    "MissingParameter, InvalidParameterValue",
    "Required members, lengths, ranges and enumerations of botocore's model.",
    _EC2_ERRORS,
)
kept(
    "model",
    "iam",
    "*",
    "ValidationError",
    "Required members, lengths, ranges, patterns and enumerations of botocore's model.",
    _COMMON.format("IAM"),
)
kept(
    "model",
    "logs",
    "*",
    "InvalidParameterException",
    "Required members, lengths, ranges, patterns and enumerations of botocore's model.",
    "https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/CommonErrors.html",
)
kept(
    "model",
    "ssm",
    "*",
    "ValidationException",
    "Required members, lengths, ranges, patterns and enumerations of botocore's model.",
    _COMMON.format("systems-manager"),
)
kept(
    "model",
    "ecr",
    "*",
    "InvalidParameterException",
    "Required members, lengths, ranges, patterns and enumerations of botocore's model.",
    _COMMON.format("AmazonECR"),
)
kept(
    "model",
    "s3",
    "*",
    "MalformedXML, InvalidLocationConstraint",
    "Required members and enumerations of the documents in botocore's model.",
    "https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html",
)

Kind = Literal["missing", "length", "count", "range", "pattern", "enum"]

# AWS has new ones before botocore does, and moto knows what there is, with a code of its own.
_OPEN = {"InstanceType"}
_EC2_CODES = {
    ("LaunchTemplateName", "length"): "InvalidLaunchTemplateName.MalformedException",
    ("LaunchTemplateName", "pattern"): "InvalidLaunchTemplateName.MalformedException",
    ("LaunchTemplateNames", "length"): "InvalidLaunchTemplateName.MalformedException",
    ("LaunchTemplateNames", "pattern"): "InvalidLaunchTemplateName.MalformedException",
}
_JSON_CODES = {
    "ssm": "ValidationException",
    "logs": "InvalidParameterException",
    "ecr": "InvalidParameterException",
    "tagging": "InvalidParameterException",
    "servicequotas": "IllegalArgumentException",
}
_S3_CODES = {"LocationConstraint": "InvalidLocationConstraint"}


@dataclass(frozen=True)
class Violation:
    """One member that breaks the model.

    Attributes:
        kind: What of the model it breaks.
        path: Where it is: names, and positions from 1 on.
        value: What it is; None where it is missing.
        bound: The bound, the pattern or the enumeration.
        upper: For a bound, whether it is the upper one.
    """

    kind: Kind
    path: tuple[str | int, ...]
    value: Any = None
    bound: Any = None
    upper: bool = False

    @property
    def member(self) -> str:
        """The name of the member of the model, or that of the list that it is in."""
        return next((str(part) for part in reversed(self.path) if isinstance(part, str)), "")


def violations(shape: Any, value: Any, path: tuple[str | int, ...] = ()) -> Iterator[Violation]:
    """All that a value breaks of its model.

    Args:
        shape: botocore's shape.
        value: What was sent.
        path: Where it is.
    """
    bounds = shape.metadata
    if shape.type_name == "structure" and isinstance(value, Mapping):
        for name in shape.required_members:
            # A query that says nothing of a list leaves it out.
            if value.get(name) is None and shape.members[name].type_name != "blob":
                yield Violation("missing", (*path, name))
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from violations(member, value[name], (*path, name))
    elif shape.type_name == "list" and isinstance(value, list):
        yield from _bounded("count", len(value), value, bounds, path)
        for position, item in enumerate(value, 1):
            yield from violations(shape.member, item, (*path, position))
    elif shape.type_name == "map" and isinstance(value, Mapping):
        yield from _bounded("count", len(value), value, bounds, path)
        for key, item in value.items():
            yield from violations(shape.key, key, path)
            yield from violations(shape.value, item, path)
    elif isinstance(value, str):
        yield from _bounded("length", len(value), value, bounds, path)
        pattern, enum = bounds.get("pattern"), bounds.get("enum")
        if pattern and not matches(pattern, value):
            yield Violation("pattern", path, value, pattern)
        if enum and value not in enum and shape.name not in _OPEN:
            yield Violation("enum", path, value, enum)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _bounded("range", value, value, bounds, path)


def _bounded(
    kind: Kind, measured: float, value: Any, bounds: Mapping[str, Any], path: tuple[str | int, ...]
) -> Iterator[Violation]:
    if "min" in bounds and measured < bounds["min"]:
        yield Violation(kind, path, value, bounds["min"])
    if "max" in bounds and measured > bounds["max"]:
        yield Violation(kind, path, value, bounds["max"], True)


def refused_by_model(asked: Asked) -> Refusal | None:
    """The service's own answer to a call that breaks its model; None where the call is well.

    Args:
        asked: The call.
    """
    shape = asked.operation.input_shape
    found = list(violations(shape, asked.params)) if shape is not None else []
    if asked.service == "s3":
        return _s3(asked, found)
    if not found:
        return None
    if asked.service == "ec2":
        return _ec2(found[0])
    code = _JSON_CODES.get(asked.service, "") or _modelled_code(asked)
    if asked.service == "ecr":
        return Refusal(code, "; ".join(_ecr_words(violation) for violation in found))
    plural = "" if len(found) == 1 else "s"
    words = "; ".join(_words(violation) for violation in found)
    return Refusal(code, f"{len(found)} validation error{plural} detected: {words}")


def unreadable(asked_service: str, json: bool) -> Refusal:
    """The answer to a request that does not fit the model at all."""
    if json:
        return Refusal("SerializationException", "The request could not be read.")
    if asked_service == "s3":
        message = "The XML you provided was not well-formed or did not validate against our published schema"
        return Refusal("MalformedXML", message)
    return Refusal(
        "InvalidParameterValue" if asked_service == "ec2" else "MalformedInput", "Unexpected value."
    )


def _modelled_code(asked: Asked) -> str:
    if str(asked.operation.service_model.protocol) == "query":
        return "ValidationError"
    known = {shape.name for shape in asked.operation.error_shapes}
    choices = ("ValidationException", "InvalidParameterException", "InvalidParameterValueException")
    return next((code for code in choices if code in known), "ValidationException")


def _place(violation: Violation) -> str:
    """A path as AWS spells it: "tags.1.member.value"."""
    parts = (f"{p}.member" if isinstance(p, int) else p[:1].lower() + p[1:] for p in violation.path)
    return ".".join(parts)


def _constraint(violation: Violation) -> str:
    side = "less" if violation.upper else "greater"
    bound = f"{side} than or equal to {violation.bound}"
    if violation.kind == "missing":
        return "not be null"
    if violation.kind in ("length", "count"):
        return f"have length {bound}"
    if violation.kind == "range":
        return f"have value {bound}"
    if violation.kind == "pattern":
        return f"satisfy regular expression pattern: {violation.bound}"
    return f"satisfy enum value set: [{', '.join(sorted(violation.bound))}]"


def _words(violation: Violation) -> str:
    value = "null" if violation.kind == "missing" else f"'{violation.value}'"
    place = _place(violation)
    return f"Value {value} at '{place}' failed to satisfy constraint: Member must {_constraint(violation)}"


def _ecr_words(violation: Violation) -> str:
    return (
        f"Invalid parameter at '{_place(violation)}' failed to satisfy constraint: 'must "
        f"{_constraint(violation)}'"
    )


def _ec2(violation: Violation) -> Refusal:
    name = violation.member
    if violation.kind == "missing":
        return Refusal("MissingParameter", f"The request must contain the parameter {name}")
    code = _EC2_CODES.get((name, violation.kind), "InvalidParameterValue")
    if name == "ResourceType" and violation.kind == "enum":
        message = f"'{violation.value}' is not a valid taggable resource type for this operation."
        return Refusal(code, message)
    text = f"Value ( {violation.value} ) for parameter {name[:1].lower() + name[1:]} is invalid."
    bound = f"{'less' if violation.upper else 'greater'} than or equal to {violation.bound}."
    if violation.kind == "range":
        text += f" Expecting a value {bound}"
    elif violation.kind in ("length", "count"):
        text += f" It must have length {bound}"
    return Refusal(code, text)


def _s3(asked: Asked, found: list[Violation]) -> Refusal | None:
    # Of headers and queries AWS checks what it uses; the documents are checked by their schema.
    payload = asked.operation.input_shape.serialization.get("payload", "")
    for violation in found:
        if violation.path[0] != payload:
            continue
        code = _S3_CODES.get(violation.member, "MalformedXML")
        if code == "MalformedXML":
            return unreadable("s3", False)
        words = re.sub(r"(?<!^)([A-Z])", lambda match: f" {match[1].lower()}", violation.member)
        return Refusal(code, f"{words} is not valid: {violation.value}")
    return None
