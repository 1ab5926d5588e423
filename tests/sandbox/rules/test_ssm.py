"""Parameter Store's rules."""

from __future__ import annotations

import pytest

from .here import Case, Here, check, code_of, many, pairs, parameter, story

CASES: list[Case] = [
    (
        "ssm-model",
        "ssm",
        "put_parameter",
        lambda h: parameter(Overwrite=False, Tags=pairs(("team", "R&D"))),
        "ValidationException",
        None,
    ),
    (
        "ssm-model",
        "ssm",
        "delete_parameters",
        lambda h: {"Names": [f"/x{n}" for n in range(11)]},
        "ValidationException",
        lambda h: {"Names": [f"/x{n}" for n in range(10)]},
    ),
    (
        "ssm-value-size",
        "ssm",
        "put_parameter",
        lambda h: parameter(Value="v" * 4097),
        "ValidationException",
        lambda h: parameter(Value="v" * 4096),
    ),
    (
        "ssm-value",
        "ssm",
        "put_parameter",
        lambda h: parameter(Value="{{ other }}"),
        "ValidationException",
        None,
    ),
    (
        "ssm-tags-or-overwrite",
        "ssm",
        "put_parameter",
        lambda h: parameter(Tags=pairs(("a", "1"))),
        "ValidationException",
        None,
    ),
    ("ssm-name", "ssm", "put_parameter", lambda h: parameter(Name="/rules/a b"), "ValidationException", None),
    (
        "ssm-name",
        "ssm",
        "put_parameter",
        lambda h: parameter(Name="/aws/service/x"),
        "AccessDeniedException",
        None,
    ),
    ("ssm-read-name", "ssm", "get_parameter", lambda h: {"Name": "/rules/a b"}, "ValidationException", None),
    (
        "ssm-type",
        "ssm",
        "put_parameter",
        lambda h: {"Name": "/rules/without-a-type", "Value": "v"},
        "ValidationException",
        None,
    ),
    (
        "ssm-levels",
        "ssm",
        "put_parameter",
        lambda h: parameter(Name="/l" * 16),
        "HierarchyLevelLimitExceededException",
        lambda h: parameter(Name="/l" * 15),
    ),
    (
        "ssm-path",
        "ssm",
        "get_parameters_by_path",
        lambda h: {"Path": "rules"},
        "ValidationException",
        lambda h: {"Path": "/rules"},
    ),
    (
        "ssm-tag-count",
        "ssm",
        "put_parameter",
        lambda h: parameter(Name="/t", Overwrite=False, Tags=pairs(*many(51))),
        "TooManyTagsError",
        lambda h: parameter(Name="/t", Overwrite=False, Tags=pairs(*many(50))),
    ),
    (
        "ssm-tags",
        "ssm",
        "put_parameter",
        lambda h: parameter(Overwrite=False, Tags=pairs(("aws:a", "1"))),
        "ValidationException",
        None,
    ),
    ("ssm-no-such", "ssm", "get_parameter", lambda h: {"Name": "/nobody"}, "ParameterNotFound", None),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


@story("ssm-once", "ssm-versions")
def test_a_parameter_is_overwritten_on_purpose_and_a_hundred_times(here: Here) -> None:
    ssm = here.of("ssm")
    asked = parameter(Name="/rules/versions")
    ssm.put_parameter(**asked)
    assert code_of(ssm.put_parameter, **{**asked, "Overwrite": False}) == "ParameterAlreadyExists"
    ssm.label_parameter_version(Name="/rules/versions", ParameterVersion=1, Labels=["first"])
    for _ in range(99):
        ssm.put_parameter(**asked)
    assert code_of(ssm.put_parameter, **asked) == "ParameterMaxVersionLimitExceeded"
