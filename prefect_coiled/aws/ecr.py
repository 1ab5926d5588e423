"""The account's repository of container images in ECR, and the images in it.

Tags are immutable and images are scanned as they are pushed: what a cluster runs cannot change under it.
https://docs.aws.amazon.com/AmazonECR/latest/userguide/what-is-ecr.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.governed import set_if_permitted
from prefect_coiled.aws.ownership import check_ours
from prefect_coiled.errors import NotFoundError, OptionsError, ProvisionError
from prefect_coiled.plan import tags
from prefect_coiled.plan.containers import PLATFORMS, ContainerImage, repository_name
from prefect_coiled.plan.kinds import Item, Kind, Scope, There, Wanted
from prefect_coiled.records import Record

# Days after which an image that has lost its tag goes.
UNTAGGED_DAYS = 14
# Most tags that an error names.
_NAMED = 10
# An image for several platforms, whose manifest says which; others say it in a layer of their own.
_INDEXES = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)


class ImageRecord(Record):
    """An image in the account's repository.

    Attributes:
        repository: The repository's URI; with ":" and a tag it is what `docker pull` takes.
        size: Compressed, in bytes; 0 where ECR does not say.
    """

    repository: str
    tags: tuple[str, ...]
    digest: str
    size: int = 0
    pushed_at: datetime | None = None


def find_repository(aws: Aws) -> Item | None:
    """The account's repository, if there is one.

    Raises:
        ProvisionError: If a repository of that name exists that does not carry our tags.
    """
    found = _describe(aws)
    if found is not None:
        what = f"repository ({found['repositoryName']})"
        check_ours(aws, what, tags.from_aws(found["Tags"]), found["repositoryArn"])
    return found


def _describe(aws: Aws) -> Item | None:
    name = repository_name(aws.account)
    what = f"finding repository ({name})"
    try:
        found: Item = aws.call("ecr:DescribeRepositories", what, repositoryNames=[name])["repositories"][0]
        what = f"reading tags of repository ({name})"
        reply = aws.call("ecr:ListTagsForResource", what, resourceArn=found["repositoryArn"])
    except NotFoundError:
        return None
    return {**found, "Tags": reply["tags"]}


def _find(aws: Aws, scope: Scope) -> Iterator[Item]:
    found = _describe(aws)
    if found is not None:
        policy = _lifecycle(aws)
        try:
            images = sum(1 for _ in _images(aws, ""))
        except NotFoundError:
            return  # it is gone by now
        yield {**found, "Lifecycle": policy, "Images": images}


def _lifecycle(aws: Aws) -> bool:
    """Whether it has its lifecycle policy: a set-up may have been stopped before that."""
    name = repository_name(aws.account)
    try:
        aws.call("ecr:GetLifecyclePolicy", f"reading the policy of repository ({name})", repositoryName=name)
    except NotFoundError:
        return False
    return True


def _create(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    name = repository_name(aws.account)
    labels = tags.to_aws(tags.plain(tags.named(aws.labels(), name)))
    made: Item = aws.call(
        "ecr:CreateRepository",
        f"creating repository ({name})",
        repositoryName=name,
        imageTagMutability="IMMUTABLE",
        imageScanningConfiguration={"scanOnPush": True},
        encryptionConfiguration={"encryptionType": "AES256"},
        tags=labels,
    )["repository"]
    return {**made, "Tags": labels}


def _expire(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    name = repository_name(aws.account)
    rule = {
        "rulePriority": 1,
        "description": f"untagged images go after {UNTAGGED_DAYS} days",
        "selection": {
            "tagStatus": "untagged",
            "countType": "sinceImagePushed",
            "countUnit": "days",
            "countNumber": UNTAGGED_DAYS,
        },
        "action": {"type": "expire"},
    }
    what, text = f"setting the policy of repository ({name})", json.dumps({"rules": [rule]})
    without = f"untagged images of repository {name} stay until they are deleted"
    wanted = {"repositoryName": name, "lifecyclePolicyText": text}
    made = set_if_permitted(aws, "ecr:PutLifecyclePolicy", what, without, **wanted)
    return {**item, "Lifecycle": made}


def delete_repository(aws: Aws) -> bool:
    """Delete the repository with its images. Returns whether it was there.

    Raises:
        ProvisionError: If it does not carry our tags.
    """
    if find_repository(aws) is None:
        return False
    name = repository_name(aws.account)
    aws.call("ecr:DeleteRepository", f"deleting repository ({name})", repositoryName=name, force=True)
    return True


REPOSITORY = Kind(
    name="repository",
    find=_find,
    id_of=lambda item: str(item["repositoryName"]),
    owner=lambda item: str(item["repositoryArn"]),
    note=lambda item: f"{item['Images']} images",
    asked=lambda want: want.repository,
    lacks=lambda item, want, there: "" if item.get("Lifecycle") else "it has no lifecycle policy",
    create=_create,
    update=_expire,
    delete=lambda aws, items: delete_repository(aws),
)


def find_images(aws: Aws) -> tuple[ImageRecord, ...]:
    """The images in the account's repository, the newest first.

    Raises:
        ProvisionError: If the account has no repository in this region.
    """
    found = find_repository(aws)
    name = repository_name(aws.account)
    if found is None:
        raise _no_repository(aws, f"listing images of repository {name}")
    uri = str(found["repositoryUri"])
    return tuple(
        sorted(
            _images(aws, uri),
            key=lambda i: (i.pushed_at.timestamp() if i.pushed_at else 0.0, i.tags),
            reverse=True,
        )
    )


def _images(aws: Aws, uri: str) -> Iterator[ImageRecord]:
    name = repository_name(aws.account)
    pages = aws.pages(
        "ecr:DescribeImages", f"listing images of repository ({name})", "imageDetails", repositoryName=name
    )
    for item in pages:
        yield ImageRecord(
            repository=uri,
            tags=tuple(sorted(item.get("imageTags", ()))),
            digest=str(item["imageDigest"]),
            size=int(item.get("imageSizeInBytes") or 0),
            pushed_at=item.get("imagePushedAt"),
        )


def check_image(aws: Aws, image: ContainerImage, architecture: str) -> None:
    """See that an image of the account's repository is there, and fit for the machines. Reads only.

    Args:
        image: The image; one of another registry is left alone, because only its registry knows.

    Raises:
        OptionsError: If it is not there, or only for another architecture.
        ProvisionError: If the account has no repository in this region.
    """
    if image.login != "ecr":
        return
    wanted = {"imageDigest": image.digest} if image.digest else {"imageTag": image.tag}
    what = f"finding image ({image})"
    try:
        (item,) = aws.call("ecr:DescribeImages", what, repositoryName=image.repository, imageIds=[wanted])[
            "imageDetails"
        ]
    except NotFoundError as error:
        if error.code == "RepositoryNotFoundException":
            raise _no_repository(aws, f"container {str(image)!r}") from error
        raise _no_image(aws, image) from error
    if item.get("imageManifestMediaType") not in _INDEXES:
        return
    reply = aws.call(
        "ecr:BatchGetImage",
        what,
        repositoryName=image.repository,
        imageIds=[wanted],
        acceptedMediaTypes=list(_INDEXES),
    )
    listed = json.loads(reply["images"][0]["imageManifest"]).get("manifests", ())
    # Attestations are listed beside the images, for no platform.
    there = {str(m.get("platform", {}).get("architecture", "")) for m in listed} - {"", "unknown"}
    if there and PLATFORMS[architecture] not in there:
        raise OptionsError(
            f"container {str(image)!r}",
            f"is for {' and '.join(sorted(there))}, and the machines are {PLATFORMS[architecture]}.",
            "Build it for them (`docker buildx build --platform`), or choose other vm_types.",
        )


def _no_image(aws: Aws, image: ContainerImage) -> OptionsError:
    names = [tag for found in find_images(aws) for tag in found.tags]
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    wanted = image.digest or image.tag
    return OptionsError(
        f"container {str(image)!r}",
        f"there is no image {wanted} in repository {image.repository}; there "
        + (f"are: {shown}." if len(names) > 1 else f"is: {shown}." if names else "is none yet."),
        f"`prefect-coiled images --account {aws.account}` lists them.",
    )


def _no_repository(aws: Aws, what: str) -> ProvisionError:
    return ProvisionError(
        what,
        f"account {aws.account} has no repository in {aws.region} yet",
        f"Run `prefect-coiled setup region --account {aws.account}`, then push the image.",
    )
