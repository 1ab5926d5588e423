"""`prefect-coiled environment`: what the machines would install, and images that hold it."""

from __future__ import annotations

from typing import Annotated

import typer

from prefect_coiled.cli.common import (
    AccountOption,
    JsonOption,
    RegionOption,
    door,
    out,
    print_json,
    table,
    told,
    where,
)

environment_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

IgnoreOption = Annotated[
    list[str] | None, typer.Option("--ignore", help="A package to leave out, or a glob; may be repeated.")
]
SoftwareOption = Annotated[
    str | None, typer.Option("--software", help="Requirements or a pylock.toml instead of this environment.")
]


@environment_app.command("bake")
@told
def bake(
    account: AccountOption = None,
    region: RegionOption = None,
    ignore: IgnoreOption = None,
    software: SoftwareOption = None,
    vm_type: Annotated[str | None, typer.Option(help="Instance type of the machine that bakes.")] = None,
) -> None:
    """Make an image with this environment's packages, so that machines install nothing at their boot.

    Takes some minutes on one machine, which is removed afterwards. Clusters with these packages use the image
    by themselves; those with others use the nearest one and install the difference.
    """
    from prefect_coiled.aws.caller import find_caller
    from prefect_coiled.cluster.request import Request
    from prefect_coiled.provision import bake_image
    from prefect_coiled.tasks.steps import Session, use_session

    loaded, aws = door(account, region)
    request = Request(
        n_workers=1,
        region=aws.region,
        worker_vm_types=[vm_type] if vm_type else None,
        package_sync_ignore=ignore or None,
        software=software,
    )
    spec = request.spec(loaded, find_caller(aws).name, own_cidr=lambda: "127.0.0.1/32")
    console = out()

    def report(step: str, state: str) -> None:
        console.print(f"{step:<12} {state}")

    with use_session(Session(aws, report=report)):
        image = bake_image(spec)
    console.print(f"Baked {image.image_id} ({image.name}){where(loaded)}")


@environment_app.command("images")
@told
def list_images(
    account: AccountOption = None, region: RegionOption = None, as_json: JsonOption = False
) -> None:
    """List the images that the account has baked, the newest first."""
    from prefect_coiled.aws.baked_images import find_baked_images

    loaded, aws = door(account, region)
    found = find_baked_images(aws)
    if as_json:
        print_json([image.model_dump(mode="json") for image in found])
        return
    console = out()
    if not found:
        console.print(f"Account {loaded.slug} has baked no image in {aws.region}{where(loaded)}")
        return
    rows = table("IMAGE", "ENVIRONMENT", "PYTHON", "ARCHITECTURE", "STATE", "MADE")
    for image in found:
        made = f"{image.created_at:%Y-%m-%d %H:%M}"
        rows.add_row(image.image_id, image.environment, image.python, image.architecture, image.state, made)
    console.print(rows)
