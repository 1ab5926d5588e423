"""Which container image a cluster's nodes run in: from what a user writes to one full reference.

The account's registry decides what a short name means. Pure: whether the image is there is asked in
`aws.ecr`. The form of references: https://pkg.go.dev/github.com/distribution/reference
"""

from __future__ import annotations

import re
from typing import Literal

from prefect_coiled.errors import OptionsError
from prefect_coiled.options import RegistryOptions
from prefect_coiled.records import Record

DOCKER_HUB = "docker.io"
# What Docker calls the machine types of EC2.
PLATFORMS = {"x86_64": "amd64", "arm64": "arm64"}

# More than any reference has: a name of 255 characters, a tag of 128, a digest.
# https://pkg.go.dev/github.com/distribution/reference
_LONGEST = 512
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>localhost(?::\d+)?|[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::\d+)?|[a-z0-9-]+:\d+)/)?"
    rf"(?P<path>{_PART}(?:/{_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?P<digest>@sha256:[0-9a-f]{{64}})?"
)
_TAG = re.compile(r"\w[\w.-]{0,127}")
_ECR = re.compile(r"(?P<number>[0-9]{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


class ContainerImage(Record):
    """An image by its full reference.

    Attributes:
        reference: What `docker pull` is given.
        login: How machines log in there: "ecr" by their role, "token" with the account's token, or not.
        username: Who logs in, with a token.
        tag: In ECR, the tag; empty where a digest says which image it is.
    """

    reference: str
    host: str
    login: Literal["none", "ecr", "token"] = "none"
    username: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.reference


def repository_name(account: str) -> str:
    """Name of an account's repository in ECR."""
    return f"coiled-{account}"


def check_reference(text: object) -> str:
    """Check the form of what was given as `container`; whose image it is depends on the account.

    Raises:
        OptionsError: If it is neither a reference of an image nor a tag.
    """
    if (
        isinstance(text, str)
        and len(text) <= _LONGEST
        and (_REFERENCE.fullmatch(text) or _TAG.fullmatch(text))
    ):
        return text
    raise OptionsError(
        f"container {text!r}",
        "is not the name of an image.",
        'They look like "my-tag", "user/image:tag" or '
        '"123456789012.dkr.ecr.us-east-1.amazonaws.com/coiled-my-team:my-tag".',
    )


def container_image(
    text: str, registry: RegistryOptions, *, account: str, number: str, region: str
) -> ContainerImage:
    """The image that is meant.

    Args:
        text: A full reference, "user/image:tag" of Docker Hub, or a short name in the account's registry:
            a tag of its repository in ECR, or "name:tag" of its namespace in Docker Hub.

    Raises:
        OptionsError: If no image can be meant by it, or machines could not pull it.
    """
    what = f"container {check_reference(text)!r}"
    found = _REFERENCE.fullmatch(text)
    short = found is None or (not found["host"] and "/" not in found["path"])
    own = f"{number}.dkr.ecr.{region}.amazonaws.com"
    if short and registry.kind == "ecr":
        return _own_tag(text, what, own, repository_name(account))
    if found is None:
        raise OptionsError(what, "is not the name of an image.", 'Give "name:tag", in lower case.')
    host, path = found["host"] or DOCKER_HUB, found["path"]
    tag, digest = found["tag"] or "", (found["digest"] or "").removeprefix("@")
    if short:
        host = registry.uri.partition("/")[0]
        path = "/".join(filter(None, (registry.uri.partition("/")[2], registry.effective_namespace, path)))
    elif ecr := _ECR.fullmatch(host):
        return _in_ecr(what, ecr, path, tag, digest, own, repository_name(account))
    elif host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not tag and not digest:
        tag = "latest"
    end = (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    ours = registry.kind == "docker_hub" and host == registry.uri.partition("/")[0]
    return ContainerImage(
        reference=f"{host}/{path}{end}",
        host=host,
        login="token" if ours else "none",
        username=registry.username if ours else "",
    )


def _own_tag(text: str, what: str, host: str, repository: str) -> ContainerImage:
    name, _, tag = text.rpartition(":")
    if name and name != repository:
        raise OptionsError(
            what,
            f"is no image of {repository}, which is the account's repository in ECR.",
            f'Give the tag alone; or say "{DOCKER_HUB}/library/{text}", if it is one of Docker Hub.',
        )
    return _ecr_image(host, repository, tag, "")


def _in_ecr(
    what: str, found: re.Match[str], path: str, tag: str, digest: str, own: str, repository: str
) -> ContainerImage:
    host = found[0]
    if host != own and found["region"] != own.split(".")[3]:
        raise OptionsError(
            what,
            f"is in {found['region']}, and the cluster runs in {own.split('.')[3]}.",
            "Push it there too, or start the cluster in the image's region.",
        )
    if host != own or path != repository:
        raise OptionsError(
            what,
            "is in a repository that the account's machines may not read.",
            f"Push it to {own}/{repository}.",
        )
    if not tag and not digest:
        raise OptionsError(what, "names no tag.", f"Add one: {host}/{path}:TAG.")
    return _ecr_image(host, path, tag, digest)


def _ecr_image(host: str, repository: str, tag: str, digest: str) -> ContainerImage:
    end = (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    return ContainerImage(
        reference=f"{host}/{repository}{end}",
        host=host,
        login="ecr",
        username="AWS",
        repository=repository,
        tag=tag,
        digest=digest,
    )
