"""What is ours: proven by tags and by the number of the AWS account, before anything is touched.

EC2 finds by tags, in the AWS account of the credentials alone. What has a name that somebody else can have
too (a bucket, a role, a log group, a repository) is proven here before it is written to or deleted.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import ProvisionError
from prefect_coiled.plan import tags


def is_ours(aws: Aws, labels: Mapping[str, str], owner: str) -> bool:
    """Whether something carries this account's tags and is in the AWS account of the credentials.

    Args:
        owner: Its ARN, or the number of the AWS account that it is in.
    """
    number = owner.split(":")[4] if owner.startswith("arn:") else owner
    return (
        labels.get(tags.OWNER) == tags.OWNER_VALUE
        and labels.get(tags.ACCOUNT) == aws.account
        and number == aws.number
    )


def check_ours(aws: Aws, what: str, labels: Mapping[str, str], owner: str) -> None:
    """See that something is ours; the arguments are those of `is_ours`, and its name.

    Raises:
        ProvisionError: If it is not.
    """
    if not is_ours(aws, labels, owner):
        raise foreign(what)


def foreign(what: str) -> ProvisionError:
    """The error that says that something of our name is not ours."""
    return ProvisionError(
        f"finding {what}",
        "there is one of that name that does not carry our tags in this AWS account",
        "Choose another account slug, so that nothing foreign is touched.",
    )
