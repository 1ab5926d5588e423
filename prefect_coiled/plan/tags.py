"""The tags that every resource of this library carries: they are the only state there is.

Our own keys keep to letters and dashes, so that IAM conditions can name them in every service. A user's tags
are put as they are on what EC2 has, which takes any character; `plain` makes of them what others take.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from prefect_coiled.errors import OptionsError

OWNER = "owner"
OWNER_VALUE = "coiled"
ACCOUNT = "coiled-account"
CLUSTER = "coiled-cluster"
CLUSTER_UID = "coiled-cluster-uid"
ROLE = "coiled-role"
CREATOR = "coiled-creator"
# What the machine of a scheduler is beside that: "worker", or it has no such tag.
ALSO = "coiled-also"
# The flow that asked for a cluster.
FLOW = "coiled-flow"
TIER = "coiled-tier"
# The ARN of the machine that may launch by a launch template; see `machine_policies`.
LAUNCHER = "coiled-launcher"
NAME = "Name"

RESERVED = frozenset({OWNER, ACCOUNT, CLUSTER, CLUSTER_UID, ROLE, ALSO, CREATOR, FLOW, TIER, LAUNCHER, NAME})

# What tells things of an account apart; see `aws.route_tables` and `aws.baked_images`.
_KINDS = frozenset({"coiled-zone", "coiled-environment", "coiled-python"})

# By which policies judge, and not by `owner`, so that a company's `Owner` may be there: their conditions do
# not tell upper from lower case, and of two keys that differ by that alone they match neither.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
_JUDGED = RESERVED - {NAME, OWNER}

# EC2 allows 50 tags a resource, keys of 127 characters by its reference (128 by its guide) and values of 256
# (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Tag.html,
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions).
_MOST, _KEY, _VALUE = 50, 127, 256
# What no XML can hold (https://www.w3.org/TR/xml/#charsets), and EC2 answers in XML.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Beside letters, numbers and spaces: the pattern of the tags of SSM, CloudWatch Logs and IAM.
# https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_Tag.html
_PLAIN = frozenset("_.:/=+-@")


def account_tags(account: str, **more: str) -> dict[str, str]:
    """The tags of what an account owns: `owner`, the account's slug, and what is given.

    Args:
        more: Further tags, keyed by the constants of this module in lower case, such as `tier="public"`.
    """
    return {
        OWNER: OWNER_VALUE,
        ACCOUNT: account,
        **{f"coiled-{k.replace('_', '-')}": v for k, v in more.items()},
    }


def one_cluster(name: str) -> str:
    """See that a name means one cluster: EC2 reads "*" and "?" as patterns, and blank is no end of a path.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html#Filtering_Resources_CLI

    Raises:
        OptionsError: It does not.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise OptionsError(f"cluster {name!r}", "is no name of one cluster.", "Give its whole name.")
    return name


def cluster_filter(account: str, cluster: str | None, uid: str | None) -> dict[str, str]:
    """The tags by which what belongs to clusters is found: all of an account, of a name, or one of them."""
    wanted = account_tags(account)
    if cluster is not None:
        wanted[CLUSTER] = one_cluster(cluster)
    if uid is not None:
        wanted[CLUSTER_UID] = uid
    return wanted


def named(tags: Mapping[str, str], name: str) -> dict[str, str]:
    """The tags with a `Name`, which is what the AWS console shows."""
    return {**tags, NAME: name[:_VALUE]}


def check_user_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Check the tags that a user wants on every resource of a cluster.

    Raises:
        OptionsError: For a reserved key or prefix, or a character, length or number that EC2 refuses.
    """
    checked: dict[str, str] = {}
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise OptionsError(f"tags[{key!r}]", "keys and values of tags are strings")
        if key in RESERVED | _KINDS or key.lower().startswith("aws:"):
            raise OptionsError(f"tags[{key!r}]", "this key is reserved", "Choose another key.")
        if key.lower() in _JUDGED:
            why = f"AWS's policies do not tell it from {key.lower()!r}, which is reserved"
            raise OptionsError(f"tags[{key!r}]", why, "Choose another key.")
        if not 0 < len(key) <= _KEY or len(value) > _VALUE:
            raise OptionsError(
                f"tags[{key!r}]", f"a key has 1-{_KEY} characters and a value at most {_VALUE}"
            )
        if _NOT_XML.search(key) or _NOT_XML.search(value):
            raise OptionsError(f"tags[{key!r}]", "a key and a value are of characters that can be printed")
        checked[key] = value
    if len(checked) + len(RESERVED) > _MOST:
        raise OptionsError("tags", f"at most {_MOST - len(RESERVED)} tags can be given")
    return checked


def plain(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags as services take them that allow fewer characters than EC2: SSM, CloudWatch Logs, IAM, S3.

    A character that they refuse becomes "_". A key that is then the same as another one is left out, so that
    no tag replaces another.
    """
    found = {key: _plain(value) for key, value in tags.items() if _plain(key) == key}
    for key, value in sorted(tags.items()):
        found.setdefault(_plain(key), _plain(value))
    return found


def uncased(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags as IAM takes them: of keys that differ by upper and lower case alone one, ours before others.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/id_tags.html#id_tags_rules
    """
    found: dict[str, tuple[str, str]] = {}
    for key, value in sorted(plain(tags).items(), key=lambda tag: (tag[0] not in RESERVED, tag)):
        found.setdefault(key.lower(), (key, value))
    return dict(found.values())


def readable(text: str) -> str:
    """A text of somebody else's, such as a flow's name, as a value that EC2 takes."""
    return _NOT_XML.sub("_", text)[:_VALUE]


def _plain(text: str) -> str:
    return "".join(c if c in _PLAIN or unicodedata.category(c)[0] in "LZN" else "_" for c in text)


def to_aws(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """The tags in the list form of EC2, IAM and SSM."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def from_aws(tags: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """The tags of an AWS answer as a dict."""
    return {tag["Key"]: tag["Value"] for tag in tags or ()}


def specifications(tags: Mapping[str, str], *resource_types: str) -> list[dict[str, object]]:
    """`TagSpecifications` that put the same tags on each of the resource types, inside the creating call."""
    return [{"ResourceType": kind, "Tags": to_aws(tags)} for kind in resource_types]


def filters(tags: Mapping[str, str], **more: str | Iterable[str]) -> list[dict[str, object]]:
    """EC2 `Filters` that match the tags exactly, plus others such as `vpc_id="vpc-..."`."""
    found: list[dict[str, object]] = [
        {"Name": f"tag:{key}", "Values": [value]} for key, value in sorted(tags.items())
    ]
    for name, values in more.items():
        listed = [values] if isinstance(values, str) else list(values)
        found.append({"Name": name.replace("_", "-"), "Values": listed})
    return found
