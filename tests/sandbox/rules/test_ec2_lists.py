"""What is looked up: filters, pages, ids, tokens, tags."""

from __future__ import annotations

import pytest

from .here import COMBINATION, INVALID, MISSING, Case, Here, check, code_of, filters, many, tagged

CASES: list[Case] = [
    (
        "ec2-page-token",
        "ec2",
        "describe_instances",
        lambda h: {"MaxResults": 5, "NextToken": "yesterday's"},
        "InvalidNextToken",
        None,
    ),
    ("ec2-model", "ec2", "delete_vpc", lambda h: {}, MISSING, None),
    (
        "ec2-model",
        "ec2",
        "describe_subnets",
        lambda h: {"MaxResults": 4},
        INVALID,
        lambda h: {"MaxResults": 5},
    ),
    (
        "ec2-model",
        "ec2",
        "describe_subnets",
        lambda h: {"MaxResults": 1001},
        INVALID,
        lambda h: {"MaxResults": 1000},
    ),
    (
        "ec2-model",
        "ec2",
        "create_vpc",
        lambda h: {"CidrBlock": "10.9.0.0/16", "InstanceTenancy": "odd"},
        INVALID,
        None,
    ),
    (
        "ec2-model",
        "ec2",
        "describe_launch_templates",
        lambda h: {"LaunchTemplateNames": ["a b c"]},
        "InvalidLaunchTemplateName.MalformedException",
        None,
    ),
    (
        "ec2-filter-values",
        "ec2",
        "describe_instances",
        lambda h: filters("instance-id", *(f"i-{n:08x}" for n in range(201))),
        "FilterLimitExceeded",
        lambda h: filters("instance-id", *(f"i-{n:08x}" for n in range(200))),
    ),
    (
        "ec2-filter-count",
        "ec2",
        "describe_vpcs",
        lambda h: {"Filters": filters("vpc-id", "vpc-1")["Filters"] * 51},
        "FilterLimitExceeded",
        lambda h: {"Filters": filters("vpc-id", "vpc-1")["Filters"] * 50},
    ),
    (
        "ec2-filter-length",
        "ec2",
        "describe_instances",
        lambda h: filters("tag:a", "x" * 256),
        "FilterLimitExceeded",
        lambda h: filters("tag:a", "x" * 255),
    ),
    ("ec2-filter-whole", "ec2", "describe_vpcs", lambda h: {"Filters": [{"Name": "vpc-id"}]}, INVALID, None),
    (
        "ec2-filter-names",
        "ec2",
        "describe_instances",
        lambda h: filters("colour", "red"),
        INVALID,
        lambda h: filters("tag:colour", "red"),
    ),
    (
        "ec2-filter-names",
        "ec2",
        "describe_nat_gateways",
        lambda h: {"Filter": filters("subnet", "x")["Filters"]},
        INVALID,
        lambda h: {"Filter": filters("subnet-id", "x")["Filters"]},
    ),
    (
        "ec2-page-size",
        "ec2",
        "describe_instances",
        lambda h: {"MaxResults": 4},
        INVALID,
        lambda h: {"MaxResults": 5},
    ),
    ("ec2-page-size", "ec2", "describe_volumes", lambda h: {"MaxResults": 1001}, INVALID, None),
    (
        "ec2-page-of-ids",
        "ec2",
        "describe_instances",
        lambda h: {"MaxResults": 5, "InstanceIds": ["i-12345678"]},
        COMBINATION,
        None,
    ),
    (
        "ec2-id-form",
        "ec2",
        "describe_instances",
        lambda h: {"InstanceIds": ["vpc-12345678"]},
        "InvalidInstanceID.Malformed",
        None,
    ),
    ("ec2-id-form", "ec2", "delete_vpc", lambda h: {"VpcId": "vpc-xyz"}, "InvalidVpcID.Malformed", None),
    (
        "ec2-id-count",
        "ec2",
        "terminate_instances",
        lambda h: {"InstanceIds": [f"i-{n:08x}" for n in range(1001)]},
        INVALID,
        None,
    ),
    (
        "ec2-tagged-there",
        "ec2",
        "create_tags",
        lambda h: {"Resources": ["i-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "1"}]},
        "InvalidInstanceID.NotFound",
        lambda h: {"Resources": h.run(), "Tags": [{"Key": "a", "Value": "1"}]},
    ),
    (
        "ec2-tagged-there",
        "ec2",
        "create_tags",
        lambda h: {"Resources": ["eni-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "1"}]},
        "InvalidNetworkInterfaceID.NotFound",
        None,
    ),
    (
        "ec2-tagged-there",
        "ec2",
        "create_tags",
        lambda h: {"Resources": ["nat-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "1"}]},
        "NatGatewayNotFound",
        None,
    ),
    (
        "ec2-tagged-there",
        "ec2",
        "create_tags",
        lambda h: {"Resources": ["eipalloc-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "1"}]},
        "InvalidAllocationID.NotFound",
        lambda h: {
            "Resources": [h.of("ec2").allocate_address(Domain="vpc")["AllocationId"]],
            "Tags": [{"Key": "a", "Value": "1"}],
        },
    ),
    (
        "ec2-tagged-there",
        "ec2",
        "create_tags",
        lambda h: {"Resources": ["vpce-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "1"}]},
        "InvalidVpcEndpointId.NotFound",
        None,
    ),
    (
        "ec2-token",
        "ec2",
        "run_instances",
        lambda h: h.launch(ClientToken="x" * 65),
        INVALID,
        lambda h: h.launch(ClientToken="x" * 64),
    ),
    (
        "ec2-tag-count",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(*many(51)),
        "TagLimitExceeded",
        lambda h: tagged(*many(50)),
    ),
    (
        "ec2-tag-length",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(("k", "v" * 257)),
        INVALID,
        lambda h: tagged(("k" * 127, "v" * 256)),
    ),
    ("ec2-tag-length", "ec2", "create_internet_gateway", lambda h: tagged(("k" * 128, "")), INVALID, None),
    (
        "ec2-tag-reserved",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(("aws:x", "")),
        INVALID,
        lambda h: tagged(("R&D, (all)", "é")),
    ),
    (
        "ec2-tag-once",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(("a", "1"), ("a", "2")),
        INVALID,
        None,
    ),
    (
        "ec2-tag-kinds",
        "ec2",
        "create_internet_gateway",
        lambda h: tagged(("a", "1"), kind="vpc"),
        INVALID,
        None,
    ),
    (
        "ec2-tag-kinds",
        "ec2",
        "run_instances",
        lambda h: h.launch(TagSpecifications=tagged(("a", "1"), kind="instance")["TagSpecifications"] * 2),
        INVALID,
        None,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


def test_dry_runs_are_held_to_the_rules_too(here: Here) -> None:
    ec2 = here.of("ec2")
    assert code_of(ec2.create_vpc, CidrBlock="nope", DryRun=True) == INVALID
    assert code_of(ec2.create_vpc, CidrBlock="10.0.0.0/16", DryRun=True) == "DryRunOperation"


def test_a_request_that_cannot_be_read_is_refused_and_not_a_fault_of_the_server(here: Here) -> None:
    assert (
        code_of(here.of("ssm").get_parameters_by_path, Path="/", MaxResults="many")
        == "SerializationException"
    )
    assert code_of(here.of("ec2").describe_vpcs, MaxResults="many") == INVALID
