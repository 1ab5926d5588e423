"""The service-linked role that spot machines need, once in each AWS account.

EC2 makes it at the first request for a spot machine, if whoever asks may make it; else it answers with
`AuthFailure.ServiceLinkedRoleCreationNotPermitted`.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/service-linked-roles-spot-instance-requests.html
"""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccessDeniedError, AlreadyExistsError, InvalidRequestError, QuotaError
from prefect_coiled.plan.kinds import Item, Kind, There, Wanted

SERVICE = "spot.amazonaws.com"
# What IAM says of a role that is there: "has been taken in this account".
_TAKEN = "InvalidInput"


def ensure_spot_role(aws: Aws) -> bool:
    """See that the role is there. Returns whether it is; False where it may not be made."""
    try:
        aws.call(
            "iam:CreateServiceLinkedRole",
            "creating the service-linked role of spot machines",
            AWSServiceName=SERVICE,
        )
    except AlreadyExistsError:
        return True
    except (AccessDeniedError, QuotaError):
        return False  # what is set up does without spot machines
    except InvalidRequestError as error:
        if error.code != _TAKEN:
            raise
    return True


def _create(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    return {"made": ensure_spot_role(aws)}


# AWS's own, which is neither listed nor removed: made with the account's role, where that is permitted.
SPOT_ROLE = Kind(
    name="role of spot machines",
    find=lambda aws, scope: (),
    id_of=lambda item: SERVICE,
    listed=False,
    asked=lambda want: True,
    # What is planned to be made has no ARN yet.
    places=lambda want, there: () if any("Arn" in role for role in there["role"]) else (SERVICE,),
    place=lambda item: SERVICE,
    create=_create,
)
