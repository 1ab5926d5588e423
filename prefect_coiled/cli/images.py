"""`prefect-coiled images`: the container images in an account's repository."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_coiled.cli.common import At, JsonOption, show, told


@told
def list_images(at: At, as_json: JsonOption = False) -> None:
    """List the images that an account's clusters can run in: those of its repository in Amazon ECR."""
    from prefect_coiled.aws.ecr import find_images
    from prefect_coiled.errors import OptionsError
    from prefect_coiled.options import merge

    slug = at.loaded.slug
    registry = merge({"region": at.region}, at.loaded.options).options.registry
    if registry.kind != "ecr":
        raise OptionsError(f"images of account {slug}", f"are kept in {registry}.", "Look at them there.")
    found = find_images(at.aws)

    def rows() -> Iterator[tuple[str, ...]]:
        for one in found:
            size = f"{one.size / 2**20:,.0f} MiB" if one.size else ""
            pushed = one.pushed_at.astimezone().strftime("%Y-%m-%d %H:%M") if one.pushed_at else ""
            yield ", ".join(one.tags) or "(none)", one.digest, size, pushed

    none = f"Account {slug} has no images in {at.aws.region} yet."
    before = f"Images of {found[0].repository}" if found else ""
    show(found, as_json, ("TAG", "DIGEST", "SIZE", "PUSHED"), rows(), none=none, before=before)
