"""The statements of IAM documents: as few as permit what the grants of `plan.actions` say, and no more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefect_coiled.plan import tags
from prefect_coiled.plan.actions import ACTIONS, Condition, Grant, Phase
from prefect_coiled.plan.machine_policies import ATTACHABLE, bucket_name, ec2_principal, owned_by

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


def named_statements(
    listed: list[Grant], account: str, number: str, region: str, partition: str
) -> list[tuple[str, dict[str, Any]]]:
    """Statements, each with a name that says what it is for; in the order in which a reviewer reads."""
    places = places_of(account, number, region, partition)
    made = []
    for condition, actions, resources in _merged(listed):
        sid = "ReadAll" if (condition, resources) == ("", {"*"}) else _SIDS[condition]
        where = [r.format(**places) for r in resources]
        made.append(
            (sid, statement_of(sorted(actions), where, condition_of(condition, account, number, partition)))
        )
    made += [("TagWhatIsMade", s) for s in _tagging(listed, account, places)]
    return sorted(made, key=lambda one: list(WHAT_FOR).index(one[0]))


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


def of_any_kind(resources: list[str], owner: str) -> list[str]:
    """EC2's resources of one owner, which are known by their tags here, without their kinds.

    What is done to which kind the actions say already; named once more, the policy would be too long. Images
    and snapshots have no owner.
    """
    some = [r for r in resources if r.startswith("arn:") and r.split(":")[2::2][:2] == ["ec2", owner]]
    if len(some) < 2:
        return resources
    return sorted([*(r for r in resources if r not in some), some[0].rpartition(":")[0] + ":*/*"])


def places_of(account: str, number: str, region: str, partition: str) -> dict[str, str]:
    """What fills a resource of a grant in."""
    return {
        "account": account,
        "number": number,
        "region": region,
        "partition": partition,
        "bucket": bucket_name(account, number, region),
    }


def statement_of(
    actions: Iterable[str], resources: list[str], condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A statement that allows something."""
    made: dict[str, Any] = {"Effect": "Allow", "Action": list(actions), "Resource": sorted(resources)}
    return {**made, "Condition": condition} if condition else made


def condition_of(
    name: Condition, account: str, number: str = "*", partition: str = "aws"
) -> dict[str, Any] | None:
    """A condition of `plan.actions` as IAM writes it; None for none."""

    def tagged(prefix: str) -> dict[str, str]:
        # Not by the tag `owner`: conditions do not tell it from a company's own `Owner`, and match neither
        # where a resource has both.
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
        return {f"{prefix}/{tags.ACCOUNT}": account}

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


def _tagging(listed: list[Grant], account: str, places: dict[str, str]) -> list[dict[str, Any]]:
    """ec2:CreateTags, inside creating calls alone: nobody can make a foreign resource look like ours."""
    made = [g for g in listed if g.condition == "made"]
    if not made:
        return []
    condition = condition_of("made", account) or {}
    calls = sorted({g.action.split(":")[1] for g in made})
    # The creating call, which is permitted for its own kinds alone, bounds the resource.
    # Images and snapshots have no account in their ARN.
    number = "{number}" if all("{number}" in g.resource for g in made) else "*"
    resources = [f"arn:{{partition}}:ec2:{{region}}:{number}:*/*".format(**places)]
    condition = {"StringEquals": {"ec2:CreateAction": calls, **condition["StringEquals"]}}
    return [statement_of(["ec2:CreateTags"], resources, condition)]
