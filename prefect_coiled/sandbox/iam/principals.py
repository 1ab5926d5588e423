"""Who signed a call, and with which policies: IAM users and roles as they are in moto."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Principal",
    "SessionKeys",
    "principal_by_arn",
    "principal_of",
    "secret_key_of",
    "session_keys",
    "session_of",
]

_PARTITION = "aws"


@dataclass(frozen=True)
class Principal:
    """A user, or a role's session.

    Attributes:
        arn: As STS tells it.
        number: The number of its AWS account.
        documents: Its policies, those of its groups too.
        context: The condition keys that tell of it.
        role: The name of the role, for a role's session.
        boundary: The policy beyond which its own give nothing, if it has one.
    """

    arn: str
    number: str
    documents: tuple[Mapping[str, Any], ...]
    context: Mapping[str, str]
    role: str = ""
    boundary: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SessionKeys:
    """Keys that GetSessionToken gave.

    Attributes:
        of: The access key with which they were asked for.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    of: str = ""


def session_keys(backend: Any) -> list[SessionKeys]:
    """The keys that GetSessionToken of a backend of moto's gave; they go with the backend."""
    found: list[SessionKeys] = backend.__dict__.setdefault("given_session_keys", [])
    return found


def session_of(access_key: str) -> SessionKeys | None:
    """The keys that GetSessionToken gave, by their access key."""
    from moto.sts.models import sts_backends

    listed = (regions[_PARTITION] for regions in list(sts_backends.values()) if _PARTITION in regions)
    every = (keys for backend in listed for keys in session_keys(backend))
    return next((keys for keys in every if keys.access_key_id == access_key), None)


def principal_of(access_key: str) -> Principal | None:
    """Who the access key belongs to; None for one that IAM does not know."""
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    if (session := session_of(access_key)) is not None:
        return principal_of(session.of)
    for number, regions in list(sts_backends.items()):
        for given in list(regions[_PARTITION].assumed_roles) if _PARTITION in regions else ():
            if given.access_key_id == access_key:
                source = getattr(given, "source_instance", "")
                return _role_session(number, given.role_arn, given.arn, source)
    for number, partitions in list(iam_backends.items()):
        for user in partitions[_PARTITION].users.values():
            if any(key.access_key_id == access_key for key in user.access_keys):
                return _user(number, user)
    return None


def secret_key_of(access_key: str) -> str | None:
    """The secret key that belongs to an access key; None for one that IAM does not know."""
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    if (session := session_of(access_key)) is not None:
        return session.secret_access_key
    for regions in list(sts_backends.values()):
        for given in list(regions[_PARTITION].assumed_roles) if _PARTITION in regions else ():
            if given.access_key_id == access_key:
                return str(given.secret_access_key)
    for partitions in list(iam_backends.values()):
        for user in list(partitions[_PARTITION].users.values()):
            for key in user.access_keys:
                if key.access_key_id == access_key:
                    return str(key.secret_access_key)
    return None


def principal_by_arn(arn: str) -> Principal | None:
    """The user or role of that ARN."""
    from moto.iam.models import iam_backends

    number = arn.split(":")[4]
    backend = iam_backends[number][_PARTITION]
    for user in backend.users.values():
        if user.arn == arn:
            return _user(number, user)
    return _role_session(number, arn, arn) if any(r.arn == arn for r in backend.roles.values()) else None


def _user(number: str, user: Any) -> Principal:
    from moto.iam.models import iam_backends

    backend = iam_backends[number][_PARTITION]
    documents = [*_inline(user.policies), *_managed(user.managed_policies)]
    for group in backend.groups.values():
        if any(member.name == user.name for member in group.users):
            documents += [*_inline(group.policies), *_managed(group.managed_policies)]
    context = {"aws:username": user.name, "aws:principalarn": user.arn, "aws:principalaccount": number}
    return Principal(user.arn, number, tuple(documents), context)


def _role_session(number: str, role_arn: str, arn: str, source: str = "") -> Principal:
    """A role's session.

    Args:
        source: The ARN of the machine that was given it. It is a key of all requests of credentials that come
            from a machine's metadata, and of no others:
            https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/iam-policies-for-amazon-ec2.html
    """
    from moto.iam.models import iam_backends

    roles = iam_backends[number][_PARTITION].roles.values()
    role = next((r for r in roles if r.arn == role_arn), None)
    documents = [] if role is None else [*_inline(role.policies), *_managed(role.managed_policies)]
    context = {"aws:principalarn": role_arn, "aws:principalaccount": number}
    if source:
        context["ec2:sourceinstancearn"] = source
    name = role_arn.rpartition("/")[2]
    return Principal(arn, number, tuple(documents), context, name, _boundary(number, role))


def _boundary(number: str, role: Any) -> Mapping[str, Any] | None:
    """The boundary of a role; one that is not there any more lets nothing through."""
    from moto.iam.models import iam_backends

    arn = getattr(role, "permissions_boundary_arn", None)
    if not arn:
        return None
    policy = iam_backends[number][_PARTITION].managed_policies.get(arn)
    return {"Statement": []} if policy is None else _managed({arn: policy})[0]


def _inline(policies: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [_document(text) for text in policies.values()]


def _managed(policies: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = (next(v for v in policy.versions if v.is_default) for policy in policies.values())
    return [_document(version.document) for version in found]


def _document(text: Any) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads(text) if isinstance(text, str) else text
    return document
