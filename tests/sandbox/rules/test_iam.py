"""IAM's rules."""

from __future__ import annotations

import json

import pytest

from .here import Case, Here, check, code_of, pairs, policy, story

CASES: list[Case] = [
    ("iam-model", "iam", "get_role", lambda h: {"RoleName": "rôle"}, "ValidationError", None),
    (
        "iam-model",
        "iam",
        "create_role",
        lambda h: {"RoleName": "r" * 65, "AssumeRolePolicyDocument": h.trust},
        "ValidationError",
        lambda h: {"RoleName": "r" * 64, "AssumeRolePolicyDocument": h.trust},
    ),
    (
        "iam-model",
        "iam",
        "create_role",
        lambda h: {"RoleName": "t", "AssumeRolePolicyDocument": h.trust, "Tags": pairs(("team", "R&D"))},
        "ValidationError",
        lambda h: {
            "RoleName": "t",
            "AssumeRolePolicyDocument": h.trust,
            "Tags": pairs(("team", "Größe 1+2 = @_.:/-")),
        },
    ),
    (
        "iam-boundary-there",
        "iam",
        "create_role",
        lambda h: {
            "RoleName": "bound",
            "AssumeRolePolicyDocument": h.trust,
            "PermissionsBoundary": "arn:aws:iam::123456789012:policy/none",
        },
        "NoSuchEntity",
        lambda h: {
            "RoleName": "bound",
            "AssumeRolePolicyDocument": h.trust,
            "PermissionsBoundary": h.of("iam").create_policy(PolicyName="bound", PolicyDocument=policy())[
                "Policy"
            ]["Arn"],
        },
    ),
    ("iam-no-such", "iam", "get_role", lambda h: {"RoleName": "nobody"}, "NoSuchEntity", None),
    (
        "iam-trust-document",
        "iam",
        "create_role",
        lambda h: {"RoleName": "x", "AssumeRolePolicyDocument": "{}"},
        "MalformedPolicyDocument",
        None,
    ),
    (
        "iam-trust-size",
        "iam",
        "create_role",
        lambda h: {
            "RoleName": "x",
            "AssumeRolePolicyDocument": json.dumps({**json.loads(h.trust), "Id": "i" * 2048}),
        },
        "LimitExceeded",
        None,
    ),
    (
        "iam-document",
        "iam",
        "put_role_policy",
        lambda h: {"RoleName": "node", "PolicyName": "p", "PolicyDocument": policy(Effect="Maybe")},
        "MalformedPolicyDocument",
        lambda h: {"RoleName": "node", "PolicyName": "p", "PolicyDocument": policy()},
    ),
    (
        "iam-policy-size",
        "iam",
        "create_policy",
        lambda h: {"PolicyName": "big", "PolicyDocument": policy(Resource=["arn:aws:s3:::" + "b" * 6144])},
        "LimitExceeded",
        None,
    ),
    (
        "iam-inline-size",
        "iam",
        "put_role_policy",
        lambda h: {
            "RoleName": "node",
            "PolicyName": "big",
            "PolicyDocument": policy(Resource=["arn:aws:s3:::" + "b" * 10240]),
        },
        "LimitExceeded",
        None,
    ),
    (
        "iam-profile-role",
        "iam",
        "add_role_to_instance_profile",
        lambda h: {"InstanceProfileName": "node", "RoleName": "node"},
        "LimitExceeded",
        None,
    ),
    (
        "iam-role-in-profile",
        "iam",
        "remove_role_from_instance_profile",
        lambda h: {"InstanceProfileName": "node", "RoleName": "another"},
        "NoSuchEntity",
        None,
    ),
    (
        "iam-name-once",
        "iam",
        "create_role",
        lambda h: {"RoleName": "NODE", "AssumeRolePolicyDocument": h.trust},
        "EntityAlreadyExists",
        None,
    ),
    (
        "iam-tags",
        "iam",
        "create_role",
        lambda h: {
            "RoleName": "x",
            "AssumeRolePolicyDocument": h.trust,
            "Tags": pairs(("a", "1"), ("A", "2")),
        },
        "InvalidInput",
        None,
    ),
    ("iam-delete-conflict", "iam", "delete_role", lambda h: {"RoleName": "node"}, "DeleteConflict", None),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


@story("iam-attached", "iam-linked-role")
def test_a_role_takes_ten_managed_policies_and_a_linked_role_is_there_once(here: Here) -> None:
    iam = here.of("iam")
    iam.create_role(RoleName="ten", AssumeRolePolicyDocument=here.trust)
    arns = [
        iam.create_policy(PolicyName=f"ten-{n}", PolicyDocument=policy())["Policy"]["Arn"] for n in range(11)
    ]
    for arn in arns[:10]:
        iam.attach_role_policy(RoleName="ten", PolicyArn=arn)
    assert code_of(iam.attach_role_policy, RoleName="ten", PolicyArn=arns[10]) == "LimitExceeded"
    iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    assert code_of(iam.create_service_linked_role, AWSServiceName="spot.amazonaws.com") == "InvalidInput"
