"""What each error code of AWS means here: its class, whether it is tried again, and what to do about it.

One table for all services. Its sources are the error pages of EC2
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html), IAM, SSM, CloudWatch Logs, S3
(https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), ECR, Service Quotas and STS, and the
errors that botocore's models name for the calls of `plan.actions`. `aws_errors` makes
errors of them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from prefect_coiled.errors import (
    AccessDeniedError,
    AccountStateError,
    AlreadyExistsError,
    AwsError,
    CredentialsError,
    InUseError,
    InvalidRequestError,
    NoCapacityError,
    NotFoundError,
    QuotaError,
    ThrottledError,
)

# Who tries again: nobody; botocore, where the call may be repeated, and then the step; the step alone; or the
# launch, in the next type, zone or market.
Retried = Literal["never", "call", "step", "launch"]

# What EC2 answers to a first request for spot machines, where it may not make their role.
SPOT_ROLE_MISSING = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
# https://docs.aws.amazon.com/organizations/latest/userguide/orgs_manage_policies_declarative.html
DECLARED = "DeclarativePolicyViolation"
# Of RunInstances, in no word of which it is said whether fewer would have been launched.
SUBNET_FULL = "InsufficientFreeAddressesInSubnet"
SPOT_ROLE_COMMAND = "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"

# By these AWS says that calls come too often, and that it did nothing; an error of its own leaves that open.
SLOW_DOWN = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


class Code(NamedTuple):
    """What a code means.

    Attributes:
        cls: The class of its error.
        retried: Who tries again.
        gloss: What it means, where AWS's own words do not say it.
        next_step: What a person can do.
    """

    cls: type[AwsError]
    retried: Retried
    gloss: str = ""
    next_step: str = ""


BY_CLASS: dict[type[AwsError], Code] = {
    AccessDeniedError: Code(
        AccessDeniedError,
        "never",
        next_step="Attach the missing permission to the credentials of the account and run again.",
    ),
    AccountStateError: Code(AccountStateError, "never"),
    AlreadyExistsError: Code(
        AlreadyExistsError,
        "step",
        next_step="Run again: what is there is taken where it is this account's; else delete or rename it.",
    ),
    AwsError: Code(AwsError, "never", next_step="Look it up in AWS's documents, or report it."),
    CredentialsError: Code(
        CredentialsError,
        "never",
        next_step="Check the AWS credentials of the account block: keys, profile or role.",
    ),
    InUseError: Code(InUseError, "step", next_step="Run again in a minute."),
    InvalidRequestError: Code(
        InvalidRequestError,
        "never",
        next_step="If no option of yours is named in it, report it, with the request id.",
    ),
    NoCapacityError: Code(
        NoCapacityError,
        "launch",
        next_step="Try another zone or instance type, or allow more than one vm_type.",
    ),
    NotFoundError: Code(
        NotFoundError,
        "step",
        next_step="Run again: AWS may not know it yet, and set-up makes again what was deleted.",
    ),
    QuotaError: Code(
        QuotaError,
        "never",
        next_step="Ask AWS for a higher quota (Service Quotas console), or use less at a time.",
    ),
    ThrottledError: Code(
        ThrottledError, "call", next_step="AWS is slowing requests down or failing; run again in a minute."
    ),
}

_NO_NAT = 'Or do without: egress="public-ip", or a network of your own (`network`).'
_OWN_NETWORK = "Or use a network of your own (`network`)."
# What does without a call that an organisation forbids.
DO_WITHOUT: dict[str, str] = {
    "ec2:AllocateAddress": _NO_NAT,
    "ec2:CreateNatGateway": _NO_NAT,
    **dict.fromkeys(
        (
            "ec2:AttachInternetGateway",
            "ec2:CreateInternetGateway",
            "ec2:CreateRoute",
            "ec2:CreateRouteTable",
            "ec2:CreateSubnet",
            "ec2:CreateVpc",
            "ec2:CreateVpcEndpoint",
        ),
        _OWN_NETWORK,
    ),
    "ec2:AuthorizeSecurityGroupIngress": 'Or open less: `ingress` of the account, such as cidr="me".',
}

_CLOCK = "Set this machine's clock: AWS accepts a request that is at most minutes off."
_REGION = "Enable the region in the AWS console (Account > AWS Regions), or choose another one."
_SUPPORT = "Ask AWS's support, or aws-verification@amazon.com."
_LOG_IN = "Log in again, or use credentials that refresh by themselves."
_BUCKET_TAKEN = "Choose another account slug: the bucket's name is made from it."
_KMS = "See `prefect-coiled policies ongoing --kms-key ARN` for a KMS key of your own."

# Codes that say what there is to say, by class.
_BARE: dict[type[AwsError], str] = {
    AccessDeniedError: """
        AccessDenied AccessDeniedException Client.UnauthorizedOperation NotAuthorized
        UnauthorizedOperation
    """,
    AlreadyExistsError: """
        AlreadyExistsException BucketAlreadyOwnedByYou InvalidAMIName.Duplicate
        InvalidGroup.Duplicate InvalidLaunchTemplateName.AlreadyExistsException
        InvalidPermission.Duplicate ParameterAlreadyExists RepositoryAlreadyExistsException
        Resource.AlreadyAssociated ResourceAlreadyExistsException
    """,
    CredentialsError: """
        IDPCommunicationError IDPRejectedClaim IncompleteSignature InvalidAccessKeyId
        InvalidIdentityToken InvalidSecurity MissingAuthenticationToken
        MissingAuthenticationTokenException MissingSecurityHeader
    """,
    InUseError: """
        409 ConcurrentCreateImageNoRebootLimitExceeded ConcurrentSnapshotLimitExceeded
        ConditionalRequestConflict ConflictException DeleteConflict EntityTemporarilyUnmodifiable
        IncorrectInstanceState InvalidAddress.Locked InvalidGroup.InUse InvalidIPAddress.InUse
        InvalidNetworkInterface.InUse InvalidSnapshot.InUse InvalidStateTransition
        LifecyclePolicyPreviewInProgressException RepositoryNotEmptyException
        Resource.AlreadyAssigned ResourceCountExceeded ResourceInUseException VolumeInUse
    """,
    InvalidRequestError: """
        405 411 412 413 416 AccessControlListNotSupported CannotDelete DataAlreadyAcceptedException
        DryRunOperation EncryptionTypeMismatch EntityTooLarge EntityTooSmall
        ExpiredNextTokenException HierarchyLevelLimitExceededException
        HierarchyTypeMismatchException IllegalArgumentException IncompatiblePolicyException
        InvalidAMIName.Malformed InvalidAction InvalidAllowedPatternException InvalidArgument
        InvalidAvailabilityZone InvalidBucketState InvalidCharacter InvalidClientToken InvalidDigest
        InvalidFilter InvalidFilterKey InvalidFilterOption InvalidFilterValue InvalidFormat
        InvalidGroup.Reserved InvalidHostConfiguration InvalidID InvalidInput
        InvalidInstanceAttributeValue InvalidInstanceFamily InvalidInterface.IpAddressLimitExceeded
        InvalidLaunchTemplateId.Malformed InvalidLaunchTemplateName.MalformedException
        InvalidLocationConstraint InvalidMaxResults InvalidNextToken InvalidNextTokenException
        InvalidObjectState InvalidOption.Conflict InvalidPaginationToken InvalidParameter
        InvalidParameterCombination InvalidParameterDependency InvalidParameterException
        InvalidParameterValue InvalidPartOrder InvalidPolicyAttributeException InvalidPolicyDocument
        InvalidPolicyTypeException InvalidQueryParameter InvalidRange InvalidRequest
        InvalidRoute.InvalidState InvalidSequenceTokenException InvalidServiceName InvalidSubnet
        InvalidSubnet.Range InvalidTag InvalidTagParameterException InvalidURI
        InvalidVpcEndpointType InvalidVpcRange InvalidWriteOffset KeyTooLongError
        MalformedHttpRequestException MalformedPolicy MalformedPolicyDocument
        MalformedPolicyDocumentException MalformedQueryString MalformedXML MaxMessageLengthExceeded
        MetadataTooLarge MethodNotAllowed MissingAction MissingContentLength MissingParameter
        MissingRequestBodyError NonEBSInstance NotImplemented PackedPolicyTooLarge
        ParameterPatternMismatchException PoliciesLimitExceededException PolicyEvaluation
        PreconditionFailed Redirect RequestEntityTooLargeException RequestHeaderSectionTooLarge
        RequestResourceCountExceeded TooManyParts TooManyTagsError TooManyTagsException
        UnableToGetUpstreamImageException UnexpectedContent UnknownOperationException
        UnknownParameter UnsupportedHibernationConfiguration UnsupportedInstanceAttribute
        UnsupportedOperation UnsupportedOperationException UnsupportedParameterType
        UnsupportedProtocol VPCResourceNotSpecified ValidationError ValidationException
        ZonesMismatched
    """,
    NoCapacityError: """
        InsufficientCapacity InsufficientCapacityOnHost InsufficientHostCapacity
        InsufficientInstanceCapacity InsufficientReservedInstanceCapacity
        InsufficientReservedInstancesCapacity ReservationCapacityExceeded SpotMaxPriceTooLow
        UnavailableHostRequirements UnfulfillableCapacity UnsupportedInstanceTypeOnHost
    """,
    NotFoundError: """
        Gateway.NotAttached ImageNotFoundException InvalidAddress.NotFound InvalidAddressID.NotFound
        InvalidAllocationID.NotFound InvalidAssociationID.NotFound InvalidGatewayID.NotFound
        InvalidGroup.NotFound InvalidInstanceID.NotFound InvalidInternetGatewayID.NotFound
        InvalidLaunchTemplateId.NotFound InvalidLaunchTemplateId.VersionNotFound
        InvalidLaunchTemplateName.NotFoundException InvalidNatGatewayID.NotFound
        InvalidNetworkInterfaceID.NotFound InvalidPermission.NotFound InvalidRoute.NotFound
        InvalidRouteTableID.NotFound InvalidSecurityGroupID.NotFound InvalidSnapshot.NotFound
        InvalidSpotInstanceRequestID.NotFound InvalidSubnetID.NotFound InvalidVolume.NotFound
        InvalidVpcEndpointId.NotFound InvalidVpcID.NotFound LifecyclePolicyNotFoundException
        NatGatewayMalformed NatGatewayNotFound NoSuchBucket NoSuchBucketPolicy NoSuchEntity
        NoSuchKey NoSuchLifecycleConfiguration NoSuchPublicAccessBlockConfiguration
        NoSuchResourceException NoSuchTagSet NoSuchUpload NoSuchVersion NotFoundException
        ParameterNotFound ParameterVersionNotFound RepositoryNotFoundException
        ResourceNotFoundException ServerSideEncryptionConfigurationNotFoundError
    """,
    QuotaError: """
        AttachmentLimitExceeded InstanceLimitExceeded InternetGatewayLimitExceeded LimitExceeded
        LimitExceededException MaxIOPSLimitExceeded MaxSpotInstanceCountExceeded
        NatGatewayLimitExceeded NetworkInterfaceLimitExceeded PrivateIpAddressLimitExceeded
        ResourceLimitExceeded RouteLimitExceeded RouteTableLimitExceeded
        SecurityGroupsPerInstanceLimitExceeded SecurityGroupsPerInterfaceLimitExceeded
        ServiceQuotaExceededException SnapshotLimitExceeded SubnetLimitExceeded VcpuLimitExceeded
        VolumeIOPSLimit VpcEndpointLimitExceeded
    """,
    ThrottledError: """
        429 500 502 503 504 BandwidthLimitExceeded EC2ThrottledException InternalError
        InternalErrorException InternalFailure InternalServerError InternalServerException
        InternalServiceException PriorRequestNotComplete RequestAbortedException
        RequestLimitExceeded RequestThrottled RequestThrottledException RequestTimeout
        RequestTimeoutException ServerException ServiceException ServiceFailure ServiceUnavailable
        ServiceUnavailableException SlowDown ThrottledException Throttling ThrottlingException
        TooManyRequestsException TransactionInProgressException Unavailable
    """,
}
# The others: what they mean, and what to do where that is another thing than for the class.
_TOLD: dict[type[AwsError], dict[str, tuple[str, ...]]] = {
    AccessDeniedError: {
        "403": ("S3 says no more than that: it is another AWS account's, or a permission is missing",),
        DECLARED: (
            "a policy of the organisation sets this for all of its AWS accounts; its keepers may add words",
        ),
        SPOT_ROLE_MISSING: (
            "spot machines need the service-linked role AWSServiceRoleForEC2Spot, once in each AWS account",
            f"Have somebody with the permission run `{SPOT_ROLE_COMMAND}`, or use on-demand machines.",
        ),
    },
    AccountStateError: {
        "AllAccessDisabled": ("S3 has closed this bucket", _SUPPORT),
        "AccountProblem": ("S3 sees a problem with the AWS account", _SUPPORT),
        "Blocked": ("the AWS account is blocked", _SUPPORT),
        "InvalidPayer": ("the AWS account has no valid way of payment", "Give one in the Billing console."),
        "NotSignedUp": ("the AWS account is not signed up for this service", "Sign up in the AWS console."),
        "OptInRequired": (
            "the AWS account is not subscribed to a service, a region or an image",
            "Do as AWS's words say; else finish the account's sign-up, with a way of payment, and enable the "
            "region (AWS console > Account > AWS Regions), or choose another one.",
        ),
        "PendingVerification": (
            "AWS is still validating the account for this region; it takes minutes, at most four hours",
            "Wait for AWS's mail, then run again; or choose another region.",
        ),
        "RegionDisabledException": ("the region is not enabled", _REGION),
        "SubscriptionRequiredException": ("the AWS account is not subscribed to this service", _REGION),
    },
    CredentialsError: {
        "AuthFailure": ("", "Check the keys; that the region is enabled; and this machine's clock."),
        "ExpiredToken": ("", _LOG_IN),
        "ExpiredTokenException": ("", _LOG_IN),
        "InvalidClientTokenId": (
            "",
            "Check the keys; those of GovCloud and China are not valid in other regions.",
        ),
        "InvalidSecurity.RequestHasExpired": ("", _CLOCK),
        "InvalidSignature": ("", "Check the secret key, and this machine's clock."),
        "InvalidSignatureException": ("", _CLOCK),
        "InvalidToken": ("", _LOG_IN),
        "RequestExpired": ("", f"{_LOG_IN} If they have not expired: {_CLOCK[0].lower()}{_CLOCK[1:]}"),
        "RequestTimeTooSkewed": ("", _CLOCK),
        "SignatureDoesNotMatch": ("", "Check the secret key, and this machine's clock."),
        "TokenRefreshRequired": ("", _LOG_IN),
        "UnsupportedSignature": ("", "Check the credentials, and that boto3 is not years old."),
        "UnrecognizedClientException": ("", "Check the keys, and that the region is enabled."),
    },
    AlreadyExistsError: {
        "RouteAlreadyExists": (
            "a route table leads there already, such as by somebody else's S3 endpoint",
            "Delete that (VPC console > Endpoints, or > Route tables), then run again.",
        ),
        "EntityAlreadyExists": (
            "IAM has each name once, whatever its case and path",
            "Choose another account slug, or delete what has the name.",
        ),
    },
    InUseError: {
        "BucketHasAccessPointsAttached": (
            "somebody made an access point of the bucket",
            "Delete it (S3 console > Access Points), then run again.",
        ),
        "BucketNotEmpty": (
            "somebody puts files there, or the bucket keeps versions of them",
            "Empty it (S3 console > Empty), then run again.",
        ),
        "ConcurrentModification": ("somebody else changes it at this moment",),
        "ConcurrentModificationException": ("somebody else changes it at this moment",),
        "ConcurrentTagAccess": ("somebody else changes its tags at this moment",),
        "DependencyViolation": (
            "something still uses it",
            "Run again in a minute. What stays so is used by something that is not this account's, such as "
            "an endpoint that GuardDuty made: see the VPC console.",
        ),
        "IncorrectState": ("it is still coming or going",),
        "InvalidState": ("it is still coming or going",),
        "InvalidVpcState": ("it is still coming or going",),
        "OperationAborted": ("S3 is still at another change of this bucket",),
        "OperationNotPermitted": (
            "it is kept from that: by termination or deregistration protection, or by a setting of the AWS "
            "account or the VPC",
            "Take that off (EC2 console > Actions > Instance settings, or VPC console), then run again.",
        ),
        "PendingSnapshotLimitExceeded": ("as many snapshots are being made as may be at once",),
        "SnapshotCreationPerVolumeRateExceeded": ("one snapshot of a disk every 15 seconds",),
        "TooManyUpdates": ("another one writes the parameter at this moment",),
    },
    InvalidRequestError: {
        "301": ("a bucket of that name is in another region", _BUCKET_TAKEN),
        "307": ("S3 is still making the bucket known", "Run again in a minute."),
        "400": (
            "S3 says no more than that: credentials that have expired, or of another region's bucket",
            "Check the credentials with `prefect-coiled check`.",
        ),
        "AuthorizationHeaderMalformed": ("the bucket is in another region", _BUCKET_TAKEN),
        "BadDigest": ("what arrived is not what was sent", "Run again."),
        "BucketAlreadyExists": (
            "the name of a bucket is AWS's alone, and somebody else has this one",
            _BUCKET_TAKEN,
        ),
        "FilterLimitExceeded": ("a call takes 200 values of filters",),
        "IdempotentInstanceTerminated": ("the machines of this client token are gone",),
        "IdempotentParameterMismatch": ("this client token was used with other parameters",),
        "IllegalLocationConstraintException": ("the bucket is in another region", _BUCKET_TAKEN),
        "IncompleteBody": ("what arrived is not all that was sent", "Run again."),
        "InvalidBlockDeviceMapping": ("", "Give a larger worker_disk_size or scheduler_disk_size."),
        "InvalidBucketName": ("", _BUCKET_TAKEN),
        "InvalidInstanceType": ("", "Choose other vm_types; `prefect-coiled check` looks at the defaults."),
        "InvalidKeyId": ("", _KMS),
        "InvalidPart": ("a part of the upload did not arrive, or is gone", "Run again."),
        "InvalidPermission.Malformed": ("", "Check the CIDRs and ports of the ingress rules."),
        "InvalidSubnet.Conflict": ("another subnet has these addresses",),
        "InvalidTagKey.Malformed": ("", "Choose another key for the tag."),
        "InvalidUserData.Malformed": ("", "Use shorter worker_options or scheduler_options."),
        "InvalidZone.NotFound": ("this AWS account sees no such zone", "Choose another zone, or none."),
        "KMS.DisabledException": ("", _KMS),
        "KMS.InvalidKeyUsageException": ("", _KMS),
        "KMS.KMSInvalidStateException": ("", _KMS),
        "KMS.NotFoundException": ("", _KMS),
        "KMSDisabledException": ("", _KMS),
        "KMSInvalidStateException": ("", _KMS),
        "KMSNotFoundException": ("", _KMS),
        "KmsException": ("ECR could not use the KMS key", _KMS),
        "MissingInput": ("", "Give an instance type that the launch template lacks."),
        "ParameterMaxVersionLimitExceeded": (
            "an SSM parameter holds 100 versions, of which a labelled one is never dropped",
            "Take the label off the parameter's oldest version.",
        ),
        "PermanentRedirect": ("a bucket of that name is in another region", _BUCKET_TAKEN),
        "PolicyNotAttachable": ("only AWS's own services may attach that policy", "Choose another policy."),
        # EC2's, and S3's.
        **dict.fromkeys(
            ("TagPolicyViolation", "TagPolicyException"),
            (
                "a tag policy of the organisation does not take a tag, or asks for one",
                "Give tags that it takes (`tags` of the account); "
                "owner, Name and coiled-... are always there.",
            ),
        ),
        "TemporaryRedirect": ("S3 is still making the bucket known", "Run again in a minute."),
        "UnmodifiableEntity": (
            "only AWS's own services may change that role",
            "Use another role. One of IAM Identity Center gets policies by its permission set: "
            "`prefect-coiled setup iam --role ARN` says how.",
        ),
        "VPCIdNotSpecified": ("the AWS account has no default VPC",),
        "XAmzContentSHA256Mismatch": ("what arrived is not what was sent", "Run again."),
    },
    NoCapacityError: {
        "EncryptedVolumesNotSupported": ("machines of this type have no encrypted disks",),
        "InsufficientAddressCapacity": ("AWS has no address to give at the moment",),
        SUBNET_FULL: ("the subnet has no address left",),
        "NotAvailableInZone": (
            "the zone has no NAT gateways",
            'Choose another zone, or egress="public-ip", which needs none.',
        ),
        "InsufficientVolumeCapacity": ("AWS has no disk of that kind in this zone at the moment",),
        "Unsupported": ("the zone does not have the type, or not as it was asked for",),
        "UnsupportedTenancy": ("machines of this type are not to be had in a network of that tenancy",),
        **dict.fromkeys(
            ("UnknownVolumeType", "VolumeTypeNotAvailableInRegion", "VolumeTypeNotAvailableInZone"),
            (
                "there are no disks of this kind here; machines have gp3 disks, which every zone of a region "
                "has, and not every Local or Wavelength Zone",
                "Choose a subnet in another zone.",
            ),
        ),
    },
    NotFoundError: {
        "404": ("S3 says no more than that",),
        "InvalidAMIID.NotFound": (
            "the image is gone",
            "Run again: the newest is looked up. An image of your own: `prefect-coiled environment bake`.",
        ),
        "InvalidAMIID.Unavailable": (
            "the image is gone, or is still being made",
            "Run again: the newest is looked up. An image of your own: `prefect-coiled environment bake`.",
        ),
        "InvalidKeyPair.NotFound": (
            "",
            "Give the name of a key pair of this region (EC2 console > Key Pairs) as key_name.",
        ),
    },
    QuotaError: {
        "AddressLimitExceeded": (
            "",
            'Use egress="public-ip", which needs no elastic address; or ask AWS for more.',
        ),
        "ParameterLimitExceeded": ("10,000 standard parameters fit into a region of an AWS account",),
        "RulesPerSecurityGroupLimitExceeded": ("", "Give fewer ingress rules or ports, or ask AWS for more."),
        "SecurityGroupLimitExceeded": ("", "Sweep what is no longer used: `prefect-coiled sweep`."),
        "TagLimitExceeded": ("a resource bears 50 tags", "Give fewer tags."),
        "TooManyBuckets": ("10,000 buckets fit into an AWS account until it asks for more",),
        "VolumeLimitExceeded": ("", "Give smaller disks, or ask AWS for more."),
        "VpcLimitExceeded": ("", "Bring a network of your own, delete a VPC, or ask AWS for more."),
    },
    ThrottledError: {
        "OperationAbortedException": ("another change of the log group is under way",),
    },
}
# Where it is not as for the class.
_RETRIED: dict[str, Retried] = {
    # botocore repeats none of these.
    "OperationAbortedException": "step",
    "InvalidKeyPair.NotFound": "never",
    "RepositoryNotEmptyException": "never",
    "429": "step",
    "BucketHasAccessPointsAttached": "never",
    "BucketNotEmpty": "never",
    "RequestAbortedException": "step",
    "OperationNotPermitted": "never",
    "TemporaryRedirect": "step",
    "307": "step",
    "BadDigest": "step",
    "IncompleteBody": "step",
    "InvalidPart": "step",
    "XAmzContentSHA256Mismatch": "step",
    # Quotas that a launch meets: other types and markets have others.
    "InstanceLimitExceeded": "launch",
    "MaxSpotInstanceCountExceeded": "launch",
    "VcpuLimitExceeded": "launch",
    SPOT_ROLE_MISSING: "launch",
    "InvalidInstanceType": "launch",
}


def _rows() -> dict[str, Code]:
    found: dict[str, Code] = {}
    for cls, base in BY_CLASS.items():
        told = {**dict.fromkeys(_BARE.get(cls, "").split(), ()), **_TOLD.get(cls, {})}
        for code, words in told.items():
            gloss, next_step = (*words, "", "")[:2]
            retried = _RETRIED.get(code, base.retried)
            found[code] = Code(cls, retried, gloss, next_step or base.next_step)
    return found


CODES: dict[str, Code] = _rows()
