"""What `container` may say, and which image is meant by it."""

from __future__ import annotations

import pytest

from prefect_coiled.errors import OptionsError
from prefect_coiled.options import RegistryOptions
from prefect_coiled.plan.containers import ContainerImage, container_image

NUMBER = "123456789012"
OWN = f"{NUMBER}.dkr.ecr.eu-west-1.amazonaws.com/coiled-my-team"
ECR = RegistryOptions()
HUB = RegistryOptions(kind="docker_hub", username="me", access_token="t", namespace="org")
QUAY = RegistryOptions(kind="docker_hub", username="me", access_token="t", uri="quay.io")
DIGEST = "sha256:" + "a" * 64


def meant(text: str, registry: RegistryOptions) -> ContainerImage:
    return container_image(text, registry, account="my-team", number=NUMBER, region="eu-west-1")


@pytest.mark.parametrize(
    ("text", "registry", "reference", "login"),
    [
        (f"{OWN}:v1", ECR, f"{OWN}:v1", "ecr"),
        (f"{OWN}:v1", HUB, f"{OWN}:v1", "ecr"),
        (f"{OWN}@{DIGEST}", ECR, f"{OWN}@{DIGEST}", "ecr"),
        ("v1", ECR, f"{OWN}:v1", "ecr"),
        ("2026.11_Final", ECR, f"{OWN}:2026.11_Final", "ecr"),
        ("coiled-my-team:v1", ECR, f"{OWN}:v1", "ecr"),
        ("user/image:v1", ECR, "docker.io/user/image:v1", "none"),
        ("user/image", ECR, "docker.io/user/image:latest", "none"),
        ("docker.io/python:3.11", ECR, "docker.io/library/python:3.11", "none"),
        ("ghcr.io/a/b/c:v1", ECR, "ghcr.io/a/b/c:v1", "none"),
        ("localhost:5000/a:v1", ECR, "localhost:5000/a:v1", "none"),
        ("image:v1", HUB, "docker.io/org/image:v1", "token"),
        ("image", HUB, "docker.io/org/image:latest", "token"),
        ("user/image:v1", HUB, "docker.io/user/image:v1", "token"),
        ("ghcr.io/a/b:v1", HUB, "ghcr.io/a/b:v1", "none"),
        ("image:v1", QUAY, "quay.io/me/image:v1", "token"),
        ("user/image:v1", QUAY, "docker.io/user/image:v1", "none"),
    ],
)
def test_a_name_means_one_image(text: str, registry: RegistryOptions, reference: str, login: str) -> None:
    found = meant(text, registry)
    assert (found.reference, found.login) == (reference, login)
    assert found.reference.startswith(f"{found.host}/")


@pytest.mark.parametrize(
    ("text", "registry", "says"),
    [
        ("", ECR, "is not the name of an image"),
        ("no spaces", ECR, "is not the name of an image"),
        ("User/Image:v1", ECR, "is not the name of an image"),
        ("$(reboot)", ECR, "is not the name of an image"),
        ("a;b", HUB, "is not the name of an image"),
        (f"{OWN}:", ECR, "is not the name of an image"),
        ("Upper", HUB, "in lower case"),
        (OWN, ECR, "names no tag"),
        ("python:3.11", ECR, r"no image of coiled-my-team.*docker\.io/library/python:3\.11"),
        (f"{OWN}-2:v1", ECR, "may not read.*Push it to"),
        (f"{OWN}:v1".replace("1234", "9999"), ECR, "may not read"),
        (f"{OWN}:v1".replace("eu-west-1", "us-east-1"), ECR, "is in us-east-1.* runs in eu-west-1"),
    ],
)
def test_what_can_be_no_image_is_one_clear_line(text: str, registry: RegistryOptions, says: str) -> None:
    with pytest.raises(OptionsError, match=says) as caught:
        meant(text, registry)
    assert "\n" not in str(caught.value)


def test_the_token_is_not_part_of_it() -> None:
    hub = RegistryOptions(kind="docker_hub", username="me", access_token="canary-7d1")
    found = container_image("image:v1", hub, account="a", number=NUMBER, region="eu-west-1")
    assert "canary-7d1" not in found.model_dump_json() + repr(found)
    assert found.username == "me"
