"""ECR's rules."""

from __future__ import annotations

import json

import pytest

from .here import Case, Here, check, code_of, many, pairs, story

CASES: list[Case] = [
    (
        "ecr-names-or-pages",
        "ecr",
        "describe_repositories",
        lambda h: {"repositoryNames": ["images"], "maxResults": 5},
        "InvalidParameterException",
        lambda h: {"repositoryNames": ["images"]},
    ),
    (
        "ecr-model",
        "ecr",
        "create_repository",
        lambda h: {"repositoryName": "Upper"},
        "InvalidParameterException",
        None,
    ),
    (
        "ecr-tag-count",
        "ecr",
        "create_repository",
        lambda h: {"repositoryName": "many", "tags": pairs(*many(51))},
        "TooManyTagsException",
        None,
    ),
    (
        "ecr-tags",
        "ecr",
        "create_repository",
        lambda h: {"repositoryName": "tagged", "tags": pairs(("team", "R&D"))},
        "InvalidTagParameterException",
        None,
    ),
    (
        "ecr-lifecycle",
        "ecr",
        "put_lifecycle_policy",
        lambda h: {
            "repositoryName": "images",
            "lifecyclePolicyText": json.dumps({"rules": [], "x": "x" * 100}),
        },
        "InvalidParameterException",
        None,
    ),
    (
        "ecr-once",
        "ecr",
        "create_repository",
        lambda h: {"repositoryName": "images"},
        "RepositoryAlreadyExistsException",
        None,
    ),
    (
        "ecr-no-such",
        "ecr",
        "describe_images",
        lambda h: {"repositoryName": "nobody"},
        "RepositoryNotFoundException",
        None,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


@story("ecr-not-empty")
def test_a_repository_with_images_is_deleted_by_force(here: Here) -> None:
    ecr = here.of("ecr")
    ecr.create_repository(repositoryName="full")
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"digest": "sha256:" + "0" * 64, "size": 1},
        "layers": [],
    }
    ecr.put_image(repositoryName="full", imageTag="v1", imageManifest=json.dumps(manifest))
    assert code_of(ecr.delete_repository, repositoryName="full") == "RepositoryNotEmptyException"
    ecr.delete_repository(repositoryName="full", force=True)
