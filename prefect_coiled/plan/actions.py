"""Every AWS action that this library uses: how often it may be sent, and which permission it takes.

One table for both: `aws.door` sends no action that is not in it or in `ADMINISTRATION`, and `plan.policies`
writes the IAM policies from it. Each permission is as narrow as AWS allows (Service Authorization Reference,
https://docs.aws.amazon.com/service-authorization/latest/reference/): what is made must carry our tags, what
is changed or deleted must carry them already, and where a service knows no such tags, the name is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

# "safe" calls may be repeated by botocore; the others are sent once, launches apart from the rest.
Mode = Literal["safe", "once", "launch"]
# What has to be permitted while an account is set up, extended or taken down; and at every cluster.
Phase = Literal["setup", "ongoing"]
Condition = Literal[
    "", "made", "ours", "amazon", "ec2-only", "ec2-if-said", "spot", "policy", "tagged", "owned", "bounded"
]


# Without these all goes on: less is told, or it is told less exactly.
OPTIONAL = ("ec2:DescribeSpotPriceHistory", "freetier:GetAccountPlanState", "pricing:GetProducts")


class Grant(NamedTuple):
    """A permission: an action, a resource, and what must hold besides.

    Attributes:
        action: In IAM's own spelling, which for S3 differs from the API's.
        resource: An ARN with {partition}, {region}, {number}, {account} and {bucket} to be filled in.
        condition: Name of a condition of `plan.statements`.
    """

    action: str
    resource: str
    condition: Condition = ""


class Action(NamedTuple):
    """An API call and what permits it."""

    mode: Mode
    phase: Phase
    grants: tuple[Grant, ...]


def _ec2(kind: str) -> str:
    # Images and snapshots belong to no account in their ARN.
    owner = "" if kind in ("image", "snapshot") else "{number}"
    return f"arn:{{partition}}:ec2:{{region}}:{owner}:{kind}/*"


_ROLE = "arn:{partition}:iam::{number}:role/{account}"
# See `plan.boundary`.
BOUNDARY = "arn:{partition}:iam::{number}:policy/coiled-boundary-{account}"
_PROFILE = "arn:{partition}:iam::{number}:instance-profile/{account}"
_SPOT_ROLE = "arn:{partition}:iam::{number}:role/aws-service-role/spot.amazonaws.com/*"
# A user's ARN holds the path, which the name does not.
_OWN_USER = "arn:{partition}:iam::{number}:user/${{aws:username}}"
_OWN_USER_BY_PATH = "arn:{partition}:iam::{number}:user/*/${{aws:username}}"
_GROUP = "arn:{partition}:logs:{region}:{number}:log-group:{account}"
# A group, whose ARN ends so where IAM is asked about it, and the streams in it.
_STREAMS = f"{_GROUP}:*"
_PARAMETERS = "arn:{partition}:ssm:{region}:{number}:parameter/prefect-coiled/{account}"
_PUBLIC_PARAMETERS = "arn:{partition}:ssm:{region}::parameter/aws/service/*"
_BUCKET = "arn:{partition}:s3:::{bucket}"
_REPOSITORY = "arn:{partition}:ecr:{region}:{number}:repository/coiled-{account}"


class _Rows:
    """Builds the table; a row for each call."""

    def __init__(self) -> None:
        self.table: dict[str, Action] = {}

    def add(self, phase: Phase, mode: Mode, call: str, *grants: Grant) -> None:
        self.table[call] = Action(mode, phase, grants)

    def read(self, *calls: str) -> None:
        """Reads for which AWS knows no resources."""
        for call in calls:
            self.add("ongoing", "safe", call, Grant(call, "*"))

    def make(
        self, phase: Phase, mode: Mode, call: str, kinds: Iterable[str], ours: Iterable[str] = ()
    ) -> None:
        """EC2 calls that make `kinds`, with our tags, in or from what is ours."""
        made = tuple(Grant(call, _ec2(k), "made") for k in kinds)
        self.add(phase, mode, call, *made, *(Grant(call, _ec2(k), "ours") for k in ours))

    def change(self, phase: Phase, mode: Mode, call: str, *ours: str) -> None:
        """EC2 calls that change or delete what is ours."""
        self.add(phase, mode, call, *(Grant(call, _ec2(k), "ours") for k in ours))


def _table() -> dict[str, Action]:
    rows = _Rows()
    add, make, change = rows.add, rows.make, rows.change
    # Permitted to everybody: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
    add("ongoing", "safe", "sts:GetCallerIdentity")
    # Nor is there a policy about this one:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_getsessiontoken.html
    add("ongoing", "once", "sts:GetSessionToken")
    rows.read(
        "ec2:DescribeAddresses",
        "ec2:DescribeAvailabilityZones",
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstances",
        "ec2:DescribeInternetGateways",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribeNatGateways",
        "ec2:DescribeNetworkAcls",
        "ec2:DescribeRouteTables",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSnapshots",
        "ec2:DescribeSpotPriceHistory",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcEndpoints",
        "ec2:DescribeVolumes",
        "ec2:DescribeVpcs",
        "ec2:GetEbsDefaultKmsKeyId",
        "logs:DescribeLogGroups",
        "servicequotas:GetServiceQuota",
    )

    # Not worth a second try: where AWS does not say, nothing depends on it.
    add("ongoing", "once", "freetier:GetAccountPlanState", Grant("freetier:GetAccountPlanState", "*"))

    # Nor this: the library's own table of prices stands in.
    add("ongoing", "once", "pricing:GetProducts", Grant("pricing:GetProducts", "*"))

    # The network
    make("setup", "once", "ec2:CreateVpc", ["vpc"])
    change("setup", "safe", "ec2:ModifyVpcAttribute", "vpc")
    change("ongoing", "safe", "ec2:DescribeVpcAttribute", "vpc")
    change("setup", "safe", "ec2:DeleteVpc", "vpc")
    make("setup", "once", "ec2:CreateSubnet", ["subnet"], ["vpc"])
    change("setup", "safe", "ec2:DeleteSubnet", "subnet")
    make("setup", "once", "ec2:CreateInternetGateway", ["internet-gateway"])
    change("setup", "once", "ec2:AttachInternetGateway", "internet-gateway", "vpc")
    change("setup", "safe", "ec2:DetachInternetGateway", "internet-gateway", "vpc")
    change("setup", "safe", "ec2:DeleteInternetGateway", "internet-gateway")
    make("setup", "safe", "ec2:CreateRouteTable", ["route-table"], ["vpc"])
    change("setup", "once", "ec2:AssociateRouteTable", "route-table", "subnet")
    change("setup", "safe", "ec2:DisassociateRouteTable", "route-table", "subnet")
    change("setup", "safe", "ec2:DeleteRouteTable", "route-table")
    make("setup", "safe", "ec2:CreateVpcEndpoint", ["vpc-endpoint"], ["vpc", "route-table"])
    change("setup", "safe", "ec2:ModifyVpcEndpoint", "vpc-endpoint", "route-table")
    change("setup", "safe", "ec2:DeleteVpcEndpoints", "vpc-endpoint")
    # NAT gateways come and go with clusters, because they cost money while they exist.
    change("ongoing", "once", "ec2:CreateRoute", "route-table")
    change("ongoing", "safe", "ec2:ReplaceRoute", "route-table")
    make("ongoing", "safe", "ec2:CreateNatGateway", ["natgateway"], ["elastic-ip", "subnet"])
    change("ongoing", "safe", "ec2:DeleteNatGateway", "natgateway")
    make("ongoing", "once", "ec2:AllocateAddress", ["elastic-ip"])
    change("ongoing", "safe", "ec2:ReleaseAddress", "elastic-ip")

    # Clusters
    make("ongoing", "once", "ec2:CreateSecurityGroup", ["security-group"], ["vpc"])
    change("ongoing", "once", "ec2:AuthorizeSecurityGroupIngress", "security-group")
    change("ongoing", "once", "ec2:RevokeSecurityGroupIngress", "security-group")
    change("ongoing", "safe", "ec2:DeleteSecurityGroup", "security-group")
    make("ongoing", "safe", "ec2:CreateLaunchTemplate", ["launch-template"])
    change("ongoing", "safe", "ec2:DeleteLaunchTemplate", "launch-template")
    run = "ec2:RunInstances"
    add(
        "ongoing",
        "launch",
        run,
        *(Grant(run, _ec2(k), "made") for k in ("instance", "volume", "network-interface")),
        *(Grant(run, _ec2(k), "ours") for k in ("subnet", "security-group", "launch-template")),
        Grant(run, _ec2("image"), "amazon"),
        Grant(run, _ec2("image"), "ours"),
        Grant(run, _ec2("key-pair")),
        Grant("iam:PassRole", _ROLE, "ec2-only"),
    )
    change("ongoing", "safe", "ec2:TerminateInstances", "instance")
    change("ongoing", "safe", "ec2:GetConsoleOutput", "instance")

    # Images
    # Baked by whoever sets an account up; launching from them is in RunInstances.
    make("setup", "once", "ec2:CreateImage", ["image", "snapshot"], ["instance"])
    change("setup", "safe", "ec2:DeregisterImage", "image")
    change("setup", "safe", "ec2:DeleteSnapshot", "snapshot")

    # Spot machines need this role, once in each AWS account.
    spot = Grant("iam:CreateServiceLinkedRole", _SPOT_ROLE, "spot")
    add("setup", "once", "iam:CreateServiceLinkedRole", spot)

    # The machines' role
    for call in ("iam:GetRole", "iam:GetRolePolicy"):
        add("ongoing", "safe", call, Grant(call, _ROLE))
    add("ongoing", "safe", "iam:GetInstanceProfile", Grant("iam:GetInstanceProfile", _PROFILE))
    add(
        "setup",
        "once",
        "iam:CreateRole",
        Grant("iam:CreateRole", _ROLE, "tagged"),
        Grant("iam:TagRole", _ROLE, "tagged"),
    )
    for call in (
        "iam:PutRolePolicy",
        "iam:ListRolePolicies",
        "iam:DeleteRolePolicy",
        "iam:ListAttachedRolePolicies",
        "iam:DeleteRole",
    ):
        add("setup", "safe", call, Grant(call, _ROLE))
    add("setup", "safe", "iam:AttachRolePolicy", Grant("iam:AttachRolePolicy", _ROLE, "policy"))
    # The boundary: looked for before anything is made, made if it is not there, and never changed again.
    add("setup", "safe", "iam:GetPolicy", Grant("iam:GetPolicy", BOUNDARY))
    add(
        "setup",
        "once",
        "iam:CreatePolicy",
        Grant("iam:CreatePolicy", BOUNDARY),
        Grant("iam:TagPolicy", BOUNDARY),
    )
    # Where a role is from before its boundary.
    put_boundary = "iam:PutRolePermissionsBoundary"
    add("setup", "safe", put_boundary, Grant(put_boundary, _ROLE, "bounded"))
    # Taking a policy away gives nobody anything; a role with one is not deleted.
    add("setup", "safe", "iam:DetachRolePolicy", Grant("iam:DetachRolePolicy", _ROLE))
    add(
        "setup",
        "once",
        "iam:CreateInstanceProfile",
        Grant("iam:CreateInstanceProfile", _PROFILE, "tagged"),
        Grant("iam:TagInstanceProfile", _PROFILE, "tagged"),
    )
    add(
        "setup",
        "once",
        "iam:AddRoleToInstanceProfile",
        Grant("iam:AddRoleToInstanceProfile", _PROFILE),
        Grant("iam:PassRole", _ROLE, "ec2-if-said"),
    )
    for call in ("iam:RemoveRoleFromInstanceProfile", "iam:DeleteInstanceProfile"):
        add("setup", "safe", call, Grant(call, _PROFILE))
    add(
        "ongoing",
        "safe",
        "iam:SimulatePrincipalPolicy",
        Grant("iam:SimulatePrincipalPolicy", _OWN_USER),
        Grant("iam:SimulatePrincipalPolicy", _OWN_USER_BY_PATH),
    )

    # Logs
    add("ongoing", "safe", "logs:ListTagsForResource", Grant("logs:ListTagsForResource", _GROUP))
    add(
        "setup",
        "once",
        "logs:CreateLogGroup",
        Grant("logs:CreateLogGroup", _STREAMS, "tagged"),
        Grant("logs:TagResource", _GROUP, "tagged"),
    )
    add("setup", "safe", "logs:PutRetentionPolicy", Grant("logs:PutRetentionPolicy", _STREAMS))
    add("setup", "safe", "logs:DeleteLogGroup", Grant("logs:DeleteLogGroup", _STREAMS))
    add("ongoing", "once", "logs:CreateLogStream", Grant("logs:CreateLogStream", _STREAMS))
    add("ongoing", "safe", "logs:PutLogEvents", Grant("logs:PutLogEvents", _STREAMS))
    add("ongoing", "safe", "logs:GetLogEvents", Grant("logs:GetLogEvents", _STREAMS))
    add("ongoing", "safe", "logs:FilterLogEvents", Grant("logs:FilterLogEvents", _STREAMS))

    # Keys and leases
    add(
        "ongoing",
        "safe",
        "ssm:GetParameter",
        Grant("ssm:GetParameter", f"{_PARAMETERS}/*"),
        Grant("ssm:GetParameter", _PUBLIC_PARAMETERS),
    )
    # Without it each is read by itself.
    add("ongoing", "safe", "ssm:GetParameters", Grant("ssm:GetParameters", f"{_PARAMETERS}/*"))
    # The account's path itself and what is below it, but no path that begins like it.
    add(
        "ongoing",
        "safe",
        "ssm:GetParametersByPath",
        Grant("ssm:GetParametersByPath", _PARAMETERS),
        Grant("ssm:GetParametersByPath", f"{_PARAMETERS}/*"),
    )
    add(
        "ongoing",
        "once",
        "ssm:PutParameter",
        Grant("ssm:PutParameter", f"{_PARAMETERS}/*"),
        Grant("ssm:AddTagsToResource", f"{_PARAMETERS}/*", "tagged"),
    )
    add("ongoing", "safe", "ssm:DeleteParameters", Grant("ssm:DeleteParameters", f"{_PARAMETERS}/*"))

    # Container images
    for call in (
        "ecr:DescribeRepositories",
        "ecr:ListTagsForResource",
        "ecr:GetLifecyclePolicy",
        "ecr:DescribeImages",
        "ecr:BatchGetImage",
    ):
        add("ongoing", "safe", call, Grant(call, _REPOSITORY))
    add(
        "setup",
        "once",
        "ecr:CreateRepository",
        Grant("ecr:CreateRepository", _REPOSITORY, "tagged"),
        Grant("ecr:TagResource", _REPOSITORY, "tagged"),
    )
    for call in ("ecr:PutLifecyclePolicy", "ecr:DeleteRepository"):
        add("setup", "safe", call, Grant(call, _REPOSITORY, "ours"))

    # Wheels
    add("ongoing", "safe", "s3:HeadBucket", Grant("s3:ListBucket", _BUCKET, "owned"))
    for call, mode, permission in (
        ("s3:CreateBucket", "once", "s3:CreateBucket"),
        ("s3:PutPublicAccessBlock", "safe", "s3:PutBucketPublicAccessBlock"),
        ("s3:PutBucketEncryption", "safe", "s3:PutEncryptionConfiguration"),
        ("s3:PutBucketPolicy", "safe", "s3:PutBucketPolicy"),
        ("s3:PutBucketTagging", "safe", "s3:PutBucketTagging"),
        ("s3:PutBucketLifecycleConfiguration", "safe", "s3:PutLifecycleConfiguration"),
    ):
        add("setup", mode, call, Grant(permission, _BUCKET, "owned"))  # type: ignore[arg-type]
    # S3 names what empties a bucket after the objects in it.
    add("ongoing", "safe", "s3:ListObjectsV2", Grant("s3:ListBucket", _BUCKET, "owned"))
    add("setup", "safe", "s3:DeleteObjects", Grant("s3:DeleteObject", f"{_BUCKET}/*", "owned"))
    add("setup", "safe", "s3:DeleteBucket", Grant("s3:DeleteBucket", _BUCKET, "owned"))
    add("ongoing", "safe", "s3:GetBucketTagging", Grant("s3:GetBucketTagging", _BUCKET, "owned"))
    add("ongoing", "safe", "s3:GetObject", Grant("s3:GetObject", f"{_BUCKET}/*", "owned"))
    for call in ("s3:PutObject", "s3:CreateMultipartUpload", "s3:UploadPart", "s3:CompleteMultipartUpload"):
        add("ongoing", "safe", call, Grant("s3:PutObject", f"{_BUCKET}/*", "owned"))
    return rows.table


ACTIONS: dict[str, Action] = _table()

# What `prefect-coiled setup iam --apply` sends, by the keys of somebody who manages IAM; destroy tries it for
# the permissions boundary, where such keys are its own. No policy of ours permits any of it: keys
# that could make users and policies could do everything. (What it does with roles is above, where it is
# permitted on the machines' role.)
ADMINISTRATION: dict[str, Mode] = {
    "iam:GetUser": "safe",
    "iam:GetGroup": "safe",
    "iam:CreateUser": "once",
    "iam:GetPolicyVersion": "safe",
    "iam:ListPolicyVersions": "safe",
    "iam:CreatePolicyVersion": "once",
    "iam:DeletePolicyVersion": "safe",
    "iam:DeletePolicy": "safe",
    "iam:ListAttachedUserPolicies": "safe",
    "iam:ListAttachedGroupPolicies": "safe",
    "iam:AttachUserPolicy": "safe",
    "iam:AttachGroupPolicy": "safe",
    "iam:ListAccessKeys": "safe",
    "iam:CreateAccessKey": "once",
}


def mode_of(call: str) -> Mode:
    """How often a call may be sent.

    Raises:
        KeyError: For a call that is in no table, which must not be sent at all.
    """
    return ADMINISTRATION[call] if call in ADMINISTRATION else ACTIONS[call].mode


# How the calls begin that change nothing.
_READS = ("BatchGet", "Describe", "Get", "Head", "List", "Simulate")


def changes(call: str) -> bool:
    """Whether a call such as "ec2:CreateVpc" changes anything."""
    return not call.partition(":")[2].startswith(_READS)


# Permissions that no call of that name takes: AWS asks for them beside another call.
PERMISSIONS_ALONE = frozenset(
    {
        "ec2:CreateTags",
        "ecr:TagResource",
        "iam:PassRole",
        "iam:TagInstanceProfile",
        "iam:TagPolicy",
        "iam:TagRole",
        "logs:TagResource",
        "ssm:AddTagsToResource",
    }
)
