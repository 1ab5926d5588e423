"""IAM documents of whoever calls AWS for an account.

    setup       to set an account up, extend it, and take it down; may be detached afterwards
    ongoing     for everything else: clusters, logs, NAT gateways
    instance    of the machines' role
    boundary    the most that the machines' role can be given

The first two are written from `plan.actions`: what is not in that table is neither called nor permitted. The
others are those of `plan.machine_policies`.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter
from typing import Any, Literal, get_args

from prefect_coiled.errors import OptionsError
from prefect_coiled.options import NetworkIds
from prefect_coiled.plan.actions import ACTIONS, BOUNDARY, Grant, Phase
from prefect_coiled.plan.boundary import BOUND, boundary_arn, check_boundary, effective_boundary, guards
from prefect_coiled.plan.machine_policies import KEY_USES, instance_policy
from prefect_coiled.plan.machine_policies import bucket_name as bucket_name  # scripts know it by this place
from prefect_coiled.plan.statements import grants, named_statements, of_any_kind, statement_of

PolicyName = Literal["setup", "ongoing", "instance"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
# Characters of a managed policy, white space not counted
# (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html).
LONGEST = 6144
# What holds the statements about parts of one's own, where "ongoing" has no room for them.
OWN = "own"
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
PARTITIONS = ("aws", "aws-cn", "aws-us-gov")


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
    if not isinstance(aws_account_id, str) or not re.fullmatch(r"\*|[0-9]{12}", aws_account_id):
        raise OptionsError(f"aws_account_id {aws_account_id!r}", "must have 12 digits.")
    if partition not in PARTITIONS:
        raise OptionsError(f"partition {partition!r}", f"is one of {', '.join(PARTITIONS)}.")
    if not isinstance(account, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", account):
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
        own += key_statements(kms_key, region)
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
    listed = held(phase, boundary, boundary_arn(account, number, partition))
    listed = [g._replace(condition="") if g.condition == "bounded" else g for g in listed]
    named = named_statements(listed, account, number, region, partition)
    named += _never(phase, partition)
    if boundary and phase == "setup":
        named += guards(boundary, account)
    seen: Counter[str] = Counter()
    statements = []
    for sid, statement in named:
        if sid == "ChangeOurs":
            statement["Resource"] = of_any_kind(statement["Resource"], number)
        if sid != "AmazonsImages":
            statement["Resource"] = of_any_kind(statement["Resource"], "")
        seen[sid] += 1
        statements.append({"Sid": f"{sid}{seen[sid]}" if seen[sid] > 1 else sid, **statement})
    return {"Version": "2012-10-17", "Statement": statements}


def held(phase: Phase, boundary: str, made: str) -> list[Grant]:
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


def _never(phase: Phase, partition: str) -> list[tuple[str, dict[str, Any]]]:
    """What nobody launches who has the policy, even where another one permits it.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ExamplePolicies_EC2.html#iam-example-instance-metadata,
    https://docs.aws.amazon.com/ebs/latest/userguide/encryption-examples.html
    """
    if phase == "setup":
        return []

    def deny(kind: str, condition: dict[str, Any]) -> dict[str, Any]:
        made = statement_of(["ec2:RunInstances"], [f"arn:{partition}:ec2:*:*:{kind}/*"], condition)
        return {**made, "Effect": "Deny"}

    return [
        ("NoOpenMetadata", deny("instance", {"StringNotEquals": {"ec2:MetadataHttpTokens": "required"}})),
        ("NoPlainDisks", deny("volume", {"Bool": {"ec2:Encrypted": "false"}})),
    ]


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
    found = [s for _, s in named_statements(listed, account, number, region, partition)]
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


def size(document: dict[str, Any]) -> int:
    """The characters that AWS counts."""
    return len(re.sub(r"\s", "", json.dumps(document)))


def _network_statements(
    network: NetworkIds, number: str, region: str, partition: str
) -> list[dict[str, Any]]:
    def arn(kind: str, name: str, whose: str = number) -> str:
        return f"arn:{partition}:ec2:{region}:{whose}:{kind}/{name}"

    # What another AWS account shares is that account's; its id is of itself alone.
    # https://docs.aws.amazon.com/vpc/latest/userguide/vpc-sharing.html
    subnets = {network.scheduler_subnet_id, network.effective_worker_subnet_id}
    groups = {g for g in (network.scheduler_firewall_id, network.firewall_id) if g}
    places = [*(arn("subnet", s, "*") for s in subnets), *(arn("security-group", g) for g in groups)]
    made = [{"Sid": "OwnNetwork", **statement_of(["ec2:RunInstances"], places)}]
    if len(groups) < 2:
        vpc = arn("vpc", network.network_id, "*")
        made.append({"Sid": "OwnNetworkGroups", **statement_of(["ec2:CreateSecurityGroup"], [vpc])})
    return made


_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+", re.ASCII)


def key_statements(key: str, region: str) -> list[dict[str, Any]]:
    """What EC2 asks of whoever launches a machine whose disk a KMS key of the user's own encrypts.

    https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html#ebs-encryption-permissions

    Raises:
        OptionsError: If it is no key's ARN.
    """
    if not _KEY.fullmatch(key):
        raise OptionsError(
            f"kms_key {key!r}", "must look like arn:aws:kms:us-east-1:123456789012:key/1234abcd-..."
        )
    by_ec2 = {"StringLike": {"kms:ViaService": f"ec2.{region}.amazonaws.com"}}
    grant = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    return [
        {"Sid": "OwnKey", **statement_of(KEY_USES, [key], by_ec2)},
        {"Sid": "OwnKeyForDisks", **statement_of(["kms:CreateGrant"], [key], grant)},
    ]


# A role of IAM's, with its path.
ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)


def _role_statements(role_arn: str) -> list[dict[str, Any]]:
    if not ROLE_ARN.fullmatch(role_arn):
        raise OptionsError(
            f"role {role_arn!r}", "must look like arn:aws:iam::123456789012:role/name, with its path."
        )
    # A session's ARN has no path; the role itself tells its own.
    return [{"Sid": "OwnRole", **statement_of(["iam:GetRole", "iam:SimulatePrincipalPolicy"], [role_arn])}]
