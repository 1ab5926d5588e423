"""`prefect-coiled images`: the container images in an account's repository."""

from __future__ import annotations

from prefect_coiled.cli.common import (
    AccountOption,
    JsonOption,
    RegionOption,
    door,
    out,
    print_json,
    table,
    told,
)


@told
def list_images(
    account: AccountOption = None, region: RegionOption = None, as_json: JsonOption = False
) -> None:
    """List the images that an account's clusters can run in: those of its repository in Amazon ECR."""
    from prefect_coiled.aws.ecr import find_images
    from prefect_coiled.errors import OptionsError
    from prefect_coiled.options import merge

    loaded, aws = door(account, region)
    registry = merge({"region": region}, loaded.options).options.registry
    if registry.kind != "ecr":
        raise OptionsError(
            f"images of account {loaded.slug}", f"are kept in {registry}.", "Look at them there."
        )
    found = find_images(aws)
    if as_json:
        print_json([i.model_dump(mode="json") for i in found])
        return
    console = out()
    if not found:
        console.print(f"Account {loaded.slug} has no images in {aws.region} yet.")
        return
    rows = table("TAG", "DIGEST", "SIZE", "PUSHED")
    for one in found:
        size = f"{one.size / 2**20:,.0f} MiB" if one.size else ""
        pushed = one.pushed_at.astimezone().strftime("%Y-%m-%d %H:%M") if one.pushed_at else ""
        rows.add_row(", ".join(one.tags) or "(none)", one.digest, size, pushed)
    console.print(f"Images of {found[0].repository}")
    console.print(rows)
