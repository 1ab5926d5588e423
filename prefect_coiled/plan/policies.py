"""IAM documents: who may be a machine of ours, what such a machine may do, and what the user's keys may.

    setup       to set an account up, extend it, and take it down; may be detached afterwards
    ongoing     for everything else: clusters, logs, NAT gateways
    instance    of the machines' role
    boundary    the most that the machines' role can be given

The first two are written from `plan.actions`: what is not in that table is neither called nor permitted.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from prefect_coiled.errors import OptionsError
from prefect_coiled.options import NetworkIds
from prefect_coiled.plan import tags
from prefect_coiled.plan.actions import ACTIONS, BOUNDARY, Condition, Grant, Phase
from prefect_coiled.plan.boundary import (
    BOUND,
    boundary_arn,
    boundary_policy,
    check_boundary,
    effective_boundary,
    guards,
)
from prefect_coiled.plan.containers import repository_name

__all__ = [
    "LONGEST",
    "NEVER_ATTACHED",
    "OWN",
    "OWN_PATH",
    "POLICIES",
    "WHAT_FOR",
    "PolicyName",
    "Question",
    "attachable",
    "boundary_of",
    "bucket_name",
    "bucket_policy",
    "grants",
    "iam_policies",
    "instance_policy",
    "key_questions",
    "key_statements",
    "owned_by",
    "permitting_statements",
    "policy",
    "questions",
    "size",
    "trust_policy",
]

PolicyName = Literal["setup", "ongoing", "instance"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
# Characters of a managed policy, white space not counted
# (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html).
LONGEST = 6144
# What holds the statements about parts of one's own, where "ongoing" has no room for them.
OWN = "own"

# Bytes of a bucket's hash, which become 16 characters, and how much of a slug its name shows.
_HASHED, _SHOWN = 10, 11

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
PARTITIONS = ("aws", "aws-cn", "aws-us-gov")
# A policy with these opens the AWS account to whatever runs on a machine.
NEVER_ATTACHED = ("AdministratorAccess", "IAMFullAccess", "PowerUserAccess")
# What the set-up policy lets be attached to the machines' role: reads, S3, and what somebody who makes
# policies in the AWS account put under this path for machines.
OWN_PATH = "coiled"
ATTACHABLE = (
    "arn:*:iam::aws:policy/*ReadOnly*",
    "arn:*:iam::aws:policy/AmazonS3*",
    f"arn:*:iam::*:policy/{OWN_PATH}/*",
)


def iam_policies(
    account: str = "default",
    *,
    aws_account_id: str = "*",
    region: str = "*",
    partition: str = "aws",
    network: NetworkIds | None = None,
    kms_key: str = "",
    role_arn: str = "",
    permissions_boundary: str = "",
) -> dict[str, dict[str, Any]]:
    """The three IAM policies of an account, as documents: "setup", "ongoing" and "instance".

    Attach the first two to whoever calls AWS for you. Once the account is set up, the set-up policy can be
    detached: everything but new subnets, networks and images goes on. The third belongs to the machines'
    role; set-up writes it. What bounds that role, `prefect-coiled policies boundary` prints: the first set-up
    makes it, as the policy `coiled-boundary-SLUG`, if an administrator has not.

    Args:
        account: The account's slug, which is in the names and tags that the policies allow.
        aws_account_id: The 12 digits of the AWS account, for narrower resources.
        region: One region only.
        partition: "aws", or that of China or GovCloud.
        network: A network of one's own, whose parts do not carry our tags and are allowed by their ids.
        kms_key: ARN of a KMS key of one's own, where the AWS account encrypts disks with one by default.
        role_arn: The role that the policies are attached to, if it is one: it may then ask what it may do.
            A user may without that, because IAM has a variable for a user's name and none for a role's.
        permissions_boundary: ARN of the policy that bounds the machines' role, if it is to be another one
            than `coiled-boundary-SLUG`. The set-up policy denies its holder a role without it, and any change
            of it. With "none" it does not, and whoever has it can make an administrator of himself.

    Returns:
        The documents by name; `json.dumps` makes what AWS takes. Where a long slug leaves no room for the
        network, the key and the role in "ongoing", they are a fourth one, "own", to be attached beside it.

    Raises:
        OptionsError: If the AWS account's number, the slug or the partition is not one.
    """
    if not re.fullmatch(r"\*|[0-9]{12}", aws_account_id):
        raise OptionsError(f"aws_account_id {aws_account_id!r}", "must have 12 digits.")
    if partition not in PARTITIONS:
        raise OptionsError(f"partition {partition!r}", f"is one of {', '.join(PARTITIONS)}.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", account):
        raise OptionsError(f"account {account!r}", "must be of lower-case letters, digits and dashes.")
    if permissions_boundary:
        check_boundary(permissions_boundary)
    made = {
        name: policy(name, account, aws_account_id, region, partition, permissions_boundary)
        for name in ("setup", "ongoing")
    }
    own: list[dict[str, Any]] = []
    if network is not None:
        own += _network_statements(network, aws_account_id, region, partition)
    if kms_key:
        own += _key_statements(kms_key, region)
    if role_arn:
        own += _role_statements(role_arn)
    whole = {**made["ongoing"], "Statement": [*made["ongoing"]["Statement"], *own]}
    if size(whole) <= LONGEST:
        made["ongoing"] = whole
    else:
        made[OWN] = {**whole, "Statement": own}
    for name, document in made.items():
        if size(document) > LONGEST:
            raise OptionsError(
                f"the {name} policy",
                f"would have {size(document)} characters, and AWS takes {LONGEST}.",
                "Use a shorter account slug, or a role with a shorter path.",
            )
    return {**made, "instance": json.loads(instance_policy(account, aws_account_id, partition))}


def policy(
    phase: Phase,
    account: str,
    number: str = "*",
    region: str = "*",
    partition: str = "aws",
    permissions_boundary: str = "",
) -> dict[str, Any]:
    """The document of a phase; see `iam_policies`."""
    boundary = effective_boundary(permissions_boundary, account, number, partition)
    # The guards hold them to it.
    held = _held(phase, boundary, boundary_arn(account, number, partition))
    listed = [g._replace(condition="") if g.condition == "bounded" else g for g in held]
    named = _named_statements(listed, account, number, region, partition)
    named += _never(phase, partition)
    if boundary and phase == "setup":
        named += guards(boundary, account)
    seen: Counter[str] = Counter()
    statements = []
    for sid, statement in named:
        if sid == "ChangeOurs":
            statement["Resource"] = _of_any_kind(statement["Resource"], number)
        if sid != "AmazonsImages":
            statement["Resource"] = _of_any_kind(statement["Resource"], "")
        seen[sid] += 1
        statements.append({"Sid": f"{sid}{seen[sid]}" if seen[sid] > 1 else sid, **statement})
    return {"Version": "2012-10-17", "Statement": statements}


def _held(phase: Phase, boundary: str, made: str) -> list[Grant]:
    """The permissions of a phase, about a boundary only if there is one, and then about that one.

    Args:
        made: The ARN, or a pattern of it, of the boundary that set-up makes; another one is made by whoever
            named it.
    """
    listed = grants(phase)
    if not boundary:
        return [g for g in listed if g.condition != "bounded" and g.resource != BOUNDARY]
    if not fnmatch.fnmatchcase(boundary, made):
        listed = [g for g in listed if g.resource != BOUNDARY or g.action == "iam:GetPolicy"]
    return [g._replace(resource=boundary) if g.resource == BOUNDARY else g for g in listed]


def _of_any_kind(resources: list[str], owner: str) -> list[str]:
    """EC2's resources of one owner, which are known by their tags here, without their kinds.

    What is done to which kind the actions say already; named once more, the policy would be too long. Images
    and snapshots have no owner.
    """
    some = [r for r in resources if r.startswith("arn:") and r.split(":")[2::2][:2] == ["ec2", owner]]
    if len(some) < 2:
        return resources
    return sorted([*(r for r in resources if r not in some), some[0].rpartition(":")[0] + ":*/*"])


def _never(phase: Phase, partition: str) -> list[tuple[str, dict[str, Any]]]:
    """What nobody launches who has the policy, even where another one permits it.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ExamplePolicies_EC2.html#iam-example-instance-metadata,
    https://docs.aws.amazon.com/ebs/latest/userguide/encryption-examples.html
    """
    if phase == "setup":
        return []

    def deny(kind: str, condition: dict[str, Any]) -> dict[str, Any]:
        made = _statement(["ec2:RunInstances"], [f"arn:{partition}:ec2:*:*:{kind}/*"], condition)
        return {**made, "Effect": "Deny"}

    return [
        ("NoOpenMetadata", deny("instance", {"StringNotEquals": {"ec2:MetadataHttpTokens": "required"}})),
        ("NoPlainDisks", deny("volume", {"Bool": {"ec2:Encrypted": "false"}})),
    ]


# What a statement is for, by its name without a number; in the order of the documents.
WHAT_FOR = {
    "ReadAll": "Look at what there is. AWS knows no narrower resource for these.",
    "MakeTagged": "Make things, if they carry the tags of this account from the first moment.",
    "TagWhatIsMade": "Tag things while they are made, and only then: nothing foreign becomes one of ours.",
    "ChangeOurs": "Use, change and delete what carries the tags of this account.",
    "OwnBucket": "This account's bucket in each region, if it is in this AWS account.",
    "ByName": "What has the account's own name: role, profile, log group, parameters, repository; and the "
    "public parameters that name AWS's images, key pairs for SSH, and what the keys themselves may do.",
    "AmazonsImages": "Start machines from images of Amazon.",
    "RoleToMachines": "Give the machines' role to machines of EC2, and to nothing else.",
    "RoleToProfile": "Put the machines' role into its instance profile, for EC2.",
    "SpotRole": "Let AWS make the role that spot machines need, once in an AWS account.",
    "AttachPolicies": "Attach policies to the machines' role: AWS's for reading and for S3, and those under "
    "the path /coiled/.",
    "NoOpenMetadata": "No machine whose metadata answers without a token, whatever else permits it.",
    "NoPlainDisks": "No disk that is not encrypted.",
    "KeepRoleBound": "No role without the permissions boundary, and no policy given to or taken from one "
    "without it.",
    "KeepBoundary": "No change of the boundary that is there, and the machines' role keeps it.",
}
_SIDS: dict[Condition, str] = {
    "": "ByName",
    "made": "MakeTagged",
    "tagged": "MakeTagged",
    "ours": "ChangeOurs",
    "owned": "OwnBucket",
    "amazon": "AmazonsImages",
    "ec2-only": "RoleToMachines",
    "ec2-if-said": "RoleToProfile",
    "spot": "SpotRole",
    "policy": "AttachPolicies",
    "bounded": "ByName",
}


def grants(phase: Phase | None = None) -> list[Grant]:
    """Every permission of a phase that the table names, or of both, in the table's order."""
    listed = [g for a in ACTIONS.values() if phase in (None, a.phase) for g in a.grants]
    return list(dict.fromkeys(listed))


class Question(NamedTuple):
    """Whether actions are permitted on a resource under some conditions."""

    actions: tuple[str, ...]
    resource: str
    context: Mapping[str, str]


def questions(
    phase: Phase,
    account: str,
    number: str,
    region: str,
    partition: str = "aws",
    permissions_boundary: str = "",
) -> list[Question]:
    """All that a phase asks of IAM, for a simulation: the statements of its policy taken apart."""
    places = _places(account, number, region, partition)
    boundary = effective_boundary(permissions_boundary, account, number, partition)
    groups: dict[tuple[Condition, str], list[str]] = {}
    for grant in _held(phase, boundary, boundary_arn(account, number, partition)):
        groups.setdefault((grant.condition, grant.resource), []).append(grant.action)
    bound = {"iam:PermissionsBoundary": boundary} if boundary else {}
    found = [
        Question(
            tuple(actions),
            resource.format(**places),
            {
                **_context(condition, account, number, partition),
                **(bound if set(actions) & set(BOUND) else {}),
            },
        )
        for (condition, resource), actions in groups.items()
    ]
    for grant in grants(phase):
        if grant.condition == "made":
            context = {**_context("made", account, number), "ec2:CreateAction": grant.action.split(":")[1]}
            found.append(Question(("ec2:CreateTags",), grant.resource.format(**places), context))
    return found


def _context(name: Condition, account: str, number: str, partition: str = "aws") -> dict[str, str]:
    """What fulfils a condition."""
    if name == "bounded":
        return {}
    if name == "owned":
        return {"aws:ResourceAccount": number, "aws:PrincipalAccount": number}
    if name == "policy":
        return {"iam:PolicyARN": f"arn:{partition}:iam::aws:policy/AmazonS3ReadOnlyAccess"}
    (keys,) = (_condition(name, account, number, partition) or {"": {}}).values()
    return {**keys, **(_LAUNCHED if name == "made" else {})}


# What our launches say of machines and of their disks.
_LAUNCHED = {"ec2:MetadataHttpTokens": "required", "ec2:Encrypted": "true"}

_Group = tuple[Condition, set[str], set[str]]


def _merged(listed: list[Grant]) -> list[_Group]:
    """Grants as few groups of actions and resources, which permit no pair that means something more.

    What holds for a pair (action, resource) differs for the creating calls alone: making a subnet asks for
    our tags in the request on the subnet, and for those on the VPC itself. Statements are merged unless the
    tags in a request would do for a resource that must be ours already. An action of one service means
    nothing on a resource of another, and one on a bucket nothing on its objects.
    """
    ours = {(g.action, g.resource) for g in listed if g.condition == "ours"}
    groups: list[_Group] = []
    for grant in listed:
        for condition, actions, resources in groups:
            if condition != grant.condition:
                continue
            pairs = {(a, r) for a in (*actions, grant.action) for r in (*resources, grant.resource)}
            same = {grant.action} == actions or {grant.resource} == resources
            if condition in ("ours", "owned") or same or (condition == "made" and not pairs & ours):
                actions.add(grant.action)
                resources.add(grant.resource)
                break
        else:
            groups.append((grant.condition, {grant.action}, {grant.resource}))
    return _side_by_side(groups)


def _side_by_side(groups: list[_Group]) -> list[_Group]:
    """Groups of different services, or kinds, under one condition, as one."""
    found: list[_Group] = []
    for condition, actions, resources in groups:
        services = {_service(name) for name in (*actions, *resources)}
        for other, more, places in found:
            theirs = {_service(name) for name in (*more, *places)}
            if _alike(condition, other) and not services & theirs and "*" not in services | theirs:
                more |= actions
                places |= resources
                break
        else:
            found.append((condition, actions, resources))
    return found


def _alike(one: Condition, other: Condition) -> bool:
    """Whether two conditions say the same."""
    return one == other or {one, other} == {"made", "tagged"}


def _service(name: str) -> str:
    """The service of an action or of an ARN; of IAM the kind, too: each of its actions knows one kind."""
    if not name.startswith("arn:"):
        return _IAM_KINDS.get(name) or name.partition(":")[0]
    service, place = name.split(":")[2], name.rpartition(":")[2]
    return f"iam:{place.partition('/')[0]}" if service == "iam" else service


_IAM_KINDS = {
    g.action: _service(g.resource) for g in grants() if g.resource.startswith("arn:{partition}:iam:")
}


def permitting_statements(
    call: str,
    account: str,
    number: str = "*",
    region: str = "*",
    partition: str = "aws",
    permissions_boundary: str = "",
) -> tuple[PolicyName, tuple[dict[str, Any], ...]] | None:
    """The policy that permits a call, and statements that permit this call alone, added to no other one.

    Args:
        call: A row of `plan.actions`, such as "ec2:RunInstances". It may take more than one permission: on
            what it uses, on what it makes, for tags, and to pass the machines' role.
        permissions_boundary: See `number`; what is given to roles is permitted for one that has it.

    Returns:
        The policy's name and the statements; None for a call that is in no policy.
    """
    row = ACTIONS.get(call)
    if row is None or not row.grants:
        return None
    boundary = effective_boundary(permissions_boundary, account, number, partition)
    listed = [g._replace(resource=boundary or BOUNDARY) if g.resource == BOUNDARY else g for g in row.grants]
    found = [s for _, s in _named_statements(listed, account, number, region, partition)]
    return row.phase, tuple(part for statement in found for part in _bounded(statement, boundary))


def _bounded(statement: dict[str, Any], boundary: str) -> list[dict[str, Any]]:
    """A statement as one that is safe beside no guard: without the boundary it would be a way around it."""
    actions = [a for a in statement["Action"] if a in BOUND]
    others = [a for a in statement["Action"] if a not in BOUND]
    if not (actions and boundary):
        return [statement]
    condition = dict(statement.get("Condition", {}))
    condition["ArnLike"] = {**condition.get("ArnLike", {}), "iam:PermissionsBoundary": boundary}
    held = {**statement, "Action": actions, "Condition": condition}
    return [held, *([{**statement, "Action": others}] if others else [])]


def _named_statements(
    listed: list[Grant], account: str, number: str, region: str, partition: str
) -> list[tuple[str, dict[str, Any]]]:
    """Statements, each with a name that says what it is for; in the order in which a reviewer reads."""
    places = _places(account, number, region, partition)
    made = []
    for condition, actions, resources in _merged(listed):
        sid = "ReadAll" if (condition, resources) == ("", {"*"}) else _SIDS[condition]
        where = [r.format(**places) for r in resources]
        made.append(
            (sid, _statement(sorted(actions), where, _condition(condition, account, number, partition)))
        )
    made += [("TagWhatIsMade", s) for s in _tagging(listed, account, places)]
    return sorted(made, key=lambda one: list(WHAT_FOR).index(one[0]))


def size(document: dict[str, Any]) -> int:
    """The characters that AWS counts."""
    return len(re.sub(r"\s", "", json.dumps(document)))


def _places(account: str, number: str, region: str, partition: str) -> dict[str, str]:
    return {
        "account": account,
        "number": number,
        "region": region,
        "partition": partition,
        "bucket": bucket_name(account, number, region),
    }


def _statement(
    actions: Iterable[str], resources: list[str], condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    made: dict[str, Any] = {"Effect": "Allow", "Action": list(actions), "Resource": sorted(resources)}
    return {**made, "Condition": condition} if condition else made


def _condition(
    name: Condition, account: str, number: str = "*", partition: str = "aws"
) -> dict[str, Any] | None:
    def tagged(prefix: str) -> dict[str, str]:
        return {f"{prefix}/{tags.OWNER}": tags.OWNER_VALUE, f"{prefix}/{tags.ACCOUNT}": account}

    conditions: dict[Condition, dict[str, Any] | None] = {
        "": None,
        "made": {"StringEquals": tagged("aws:RequestTag")},
        "tagged": {"StringEquals": tagged("aws:RequestTag")},
        "ours": {"StringEquals": tagged("aws:ResourceTag")},
        "amazon": {"StringEquals": {"ec2:Owner": "amazon"}},
        "ec2-only": {"StringEquals": {"iam:PassedToService": ec2_principal(partition)}},
        # Putting a role into a profile passes it too, without saying to which service.
        "ec2-if-said": {"StringEqualsIfExists": {"iam:PassedToService": ec2_principal(partition)}},
        "spot": {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
        "policy": {"ArnLike": {"iam:PolicyARN": list(ATTACHABLE)}},
        "owned": owned_by(number),
        "bounded": None,
    }
    return conditions[name]


def owned_by(number: str) -> dict[str, Any]:
    """The condition that a resource is in an AWS account; with "*", in that of whoever asks.

    Names of buckets say nothing of whose they are.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-resourceaccount
    """
    whose = "${aws:PrincipalAccount}" if number == "*" else number
    return {"StringEquals": {"aws:ResourceAccount": whose}}


def _tagging(listed: list[Grant], account: str, places: dict[str, str]) -> list[dict[str, Any]]:
    """ec2:CreateTags, inside creating calls alone: nobody can make a foreign resource look like ours."""
    made = [g for g in listed if g.condition == "made"]
    if not made:
        return []
    condition = _condition("made", account) or {}
    calls = sorted({g.action.split(":")[1] for g in made})
    # The creating call, which is permitted for its own kinds alone, bounds the resource.
    # Images and snapshots have no account in their ARN.
    number = "{number}" if all("{number}" in g.resource for g in made) else "*"
    resources = [f"arn:{{partition}}:ec2:{{region}}:{number}:*/*".format(**places)]
    condition = {"StringEquals": {"ec2:CreateAction": calls, **condition["StringEquals"]}}
    return [_statement(["ec2:CreateTags"], resources, condition)]


def _network_statements(
    network: NetworkIds, number: str, region: str, partition: str
) -> list[dict[str, Any]]:
    def arn(kind: str, name: str) -> str:
        return f"arn:{partition}:ec2:{region}:{number}:{kind}/{name}"

    subnets = {network.scheduler_subnet_id, network.effective_worker_subnet_id}
    groups = {g for g in (network.scheduler_firewall_id, network.firewall_id) if g}
    places = [*(arn("subnet", s) for s in subnets), *(arn("security-group", g) for g in groups)]
    made = [{"Sid": "OwnNetwork", **_statement(["ec2:RunInstances"], places)}]
    if len(groups) < 2:
        vpc = arn("vpc", network.network_id)
        made.append({"Sid": "OwnNetworkGroups", **_statement(["ec2:CreateSecurityGroup"], [vpc])})
    return made


_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+", re.ASCII)


def _key_statements(key: str, region: str) -> list[dict[str, Any]]:
    """What EC2 asks of whoever launches a machine whose disk a key of the user's own encrypts.

    https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html#ebs-encryption-permissions
    """
    if not _KEY.fullmatch(key):
        raise OptionsError(
            f"kms_key {key!r}", "must look like arn:aws:kms:us-east-1:123456789012:key/1234abcd-..."
        )
    by_ec2 = {"StringLike": {"kms:ViaService": f"ec2.{region}.amazonaws.com"}}
    uses = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncrypt*"]
    grant = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    return [
        {"Sid": "OwnKey", **_statement(uses, [key], by_ec2)},
        {"Sid": "OwnKeyForDisks", **_statement(["kms:CreateGrant"], [key], grant)},
    ]


def key_questions(key: str, region: str) -> list[Question]:
    """The statements about a KMS key of one's own, for a simulation."""
    return [
        Question(
            tuple(statement["Action"]),
            key,
            {name: str(value) for keys in statement["Condition"].values() for name, value in keys.items()},
        )
        for statement in _key_statements(key, region)
    ]


def key_statements(key: str, region: str) -> tuple[dict[str, Any], ...]:
    """What has to be permitted beside our policies where a KMS key of one's own encrypts disks."""
    return tuple(_key_statements(key, region))


# A role of IAM's, with its path.
ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)


def _role_statements(role_arn: str) -> list[dict[str, Any]]:
    if not ROLE_ARN.fullmatch(role_arn):
        raise OptionsError(
            f"role {role_arn!r}", "must look like arn:aws:iam::123456789012:role/name, with its path."
        )
    # A session's ARN has no path; the role itself tells its own.
    return [{"Sid": "OwnRole", **_statement(["iam:GetRole", "iam:SimulatePrincipalPolicy"], [role_arn])}]


def ec2_principal(partition: str = "aws") -> str:
    """What EC2 is called where a policy names a service; China has another name.

    https://docs.amazonaws.cn/en_us/aws/latest/userguide/iam.html
    """
    return "ec2.amazonaws.com.cn" if partition == "aws-cn" else "ec2.amazonaws.com"


def trust_policy(partition: str = "aws") -> str:
    """The trust policy of the machines' role: EC2 alone may assume it."""
    principal = {"Service": ec2_principal(partition)}
    return _document({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"})


def instance_policy(account: str, aws_account_id: str, partition: str = "aws") -> str:
    """What a machine of the account may do: write its logs, read its keys, fetch its wheels and its image.

    Args:
        account: The account's slug, which is also the name of the log group.
    """
    logs = f"arn:{partition}:logs:*:{aws_account_id}:log-group:{account}"
    keys = f"arn:{partition}:ssm:*:{aws_account_id}:parameter/prefect-coiled/{account}/*/node/*"
    images = f"arn:{partition}:ecr:*:{aws_account_id}:repository/{repository_name(account)}"
    # A role serves all regions.
    wheels = f"arn:{partition}:s3:::{bucket_name(account, aws_account_id, '*')}"
    return _document(
        {
            "Sid": "ShipLogs",
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            # Streams of machines are named as they are; that of the notifications is not theirs. IAM has no
            # variable that is an instance's id alone, so a machine may write the streams of others.
            "Resource": [f"{logs}:log-stream:i-*"],
        },
        {"Sid": "ReadOwnKeys", "Effect": "Allow", "Action": ["ssm:GetParameter"], "Resource": [keys]},
        {
            "Sid": "ListWheels",
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [wheels],
            "Condition": owned_by(aws_account_id),
        },
        {
            "Sid": "FetchWheels",
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": [f"{wheels}/wheels/*"],
            "Condition": owned_by(aws_account_id),
        },
        # AWS knows no narrower resource for this one; what the token opens, the next statement says.
        {
            "Sid": "LogInToRegistry",
            "Effect": "Allow",
            "Action": ["ecr:GetAuthorizationToken"],
            "Resource": ["*"],
        },
        {
            "Sid": "PullImages",
            "Effect": "Allow",
            "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": [images],
        },
    )


def boundary_of(
    account: str, aws_account_id: str, partition: str = "aws", services: Iterable[str] = ()
) -> tuple[str, dict[str, Any]]:
    """A permissions boundary for the machines' role: its ARN and its document.

    Args:
        services: What the work on the machines may use beside S3, in full; see `plan.boundary`.
    """
    instance = json.loads(instance_policy(account, aws_account_id, partition))
    document = boundary_policy(instance, services, partition)
    return boundary_arn(account, aws_account_id, partition), document


def attachable(arn: str, number: str) -> bool:
    """Whether the set-up policy lets a managed policy be attached to the machines' role."""
    # IAM takes those of the AWS account itself, beside AWS's.
    return arn.split(":")[4] in ("aws", number) and any(fnmatch.fnmatchcase(arn, one) for one in ATTACHABLE)


def bucket_name(account: str, aws_account_id: str, region: str) -> str:
    """Name of the account's bucket in a region, such as coiled-123456789012-us-east-1-my-team-HASH.

    The hash is of the whole slug and ends the name. So long slugs, of which only the beginning is shown, have
    buckets of their own; and a pattern over regions or AWS accounts ("*") fits the buckets of no other slug.
    At most 63 characters: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    digest = base64.b32encode(hashlib.sha256(account.encode()).digest()[:_HASHED]).decode().lower()
    return f"coiled-{aws_account_id}-{region}-{account[:_SHOWN].rstrip('-')}-{digest}"


def bucket_policy(name: str, partition: str = "aws") -> str:
    """The bucket's own policy: nobody comes by plain HTTP."""
    bucket = f"arn:{partition}:s3:::{name}"
    return _document(
        {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [bucket, f"{bucket}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    )


def _document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, indent=1)
