"""`prefect-coiled environment`: what the machines would install, and images that hold it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from prefect_coiled.cli import names
from prefect_coiled.cli.common import no_cluster, out, quiet, sentence_or_json, show, showing, where
from prefect_coiled.cli.declare import At, JsonOption, command

IgnoreOption = Annotated[
    list[str] | None, typer.Option("--ignore", help="A package to leave out, or a glob; may be repeated.")
]
SoftwareOption = Annotated[
    str | None, typer.Option("--software", help="Requirements or a pylock.toml instead of this environment.")
]


@command("environment bake")
def bake(
    at: At,
    ignore: IgnoreOption = None,
    software: SoftwareOption = None,
    vm_type: Annotated[str | None, typer.Option(help="Instance type of the machine that bakes.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an image with this environment's packages, so that machines install nothing at their boot.

    Takes some minutes on one machine, which is removed afterwards. Clusters with these packages use the image
    by themselves; those with others use the nearest one and install the difference.
    """
    from prefect_coiled.aws.caller import find_caller
    from prefect_coiled.cluster.request import Request
    from prefect_coiled.provision import bake_image

    request = Request(
        n_workers=1,
        region=at.aws.region,
        worker_vm_types=vm_type,
        package_sync_ignore=ignore or None,
        software=software,
    )
    spec = request.spec(at.loaded, find_caller(at.aws).name, own_cidr=lambda: "127.0.0.1/32")
    with showing(quiet() if as_json else out(), "step"), at.session():
        image = bake_image(spec)
    sentence_or_json(f"Baked {image.image_id} ({image.name}){where(at.loaded)}", image, as_json)


@command("environment upload")
def upload(
    at: At, ignore: IgnoreOption = None, software: SoftwareOption = None, as_json: JsonOption = False
) -> None:
    """Put all that machines install into the account's bucket, also what they could fetch from an index.

    Over a slow line the first start of a cluster leaves that to its machines. After this they fetch
    everything from the bucket, which costs nothing there, while a NAT gateway takes a price for each GB.
    """
    from prefect_coiled.aws.bucket import ensure_bucket
    from prefect_coiled.aws.caller import find_caller
    from prefect_coiled.cluster.request import Request
    from prefect_coiled.tasks.environment import prepare, send

    aws = at.aws
    caller = find_caller(aws)
    request = Request(n_workers=1, region=aws.region, package_sync_ignore=ignore or None, software=software)
    spec = request.spec(at.loaded, caller.name, own_cidr=lambda: "127.0.0.1/32")
    with showing(quiet() if as_json else out(), "step"):
        locked = prepare(spec)
        try:
            delivery = send(aws, locked, ensure_bucket(aws, caller.aws_account_id))
        finally:
            locked.discard()
    sentence_or_json(f"{delivery}{where(at.loaded)}", delivery, as_json)


@command("environment diff")
def diff(
    script: Annotated[
        Path | None, typer.Argument(help="A script, or a flow's file: what it imports is looked for as well.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Compare with the machines of this cluster, which runs.",
            autocompletion=names.clusters,
        ),
    ] = None,
    *,
    at: At,
    ignore: IgnoreOption = None,
    architecture: Annotated[
        str | None, typer.Option(help='Of the machines: "x86_64", which is the default, or "arm64".')
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what machines would have otherwise than it is here, by the hashes of Python files.

    With a script also which of its imports would fail there; it is read, not run.

    Exits with 1 where something differs. Without --cluster nothing in AWS is asked.
    """
    from prefect_coiled.environment import capture, lock
    from prefect_coiled.environment.compare import against_lock, against_machines, manifest
    from prefect_coiled.environment.imports import missing_imports
    from prefect_coiled.environment.target import Target, check_architecture
    from prefect_coiled.errors import OptionsError

    if cluster is not None and (script or architecture):
        raise OptionsError("--cluster", "has its own architecture, and goes without it and without a script.")
    wanted = check_architecture("x86_64" if architecture is None else architecture)
    if script is not None and not script.is_file():
        raise OptionsError(f"script {script}", "there is no such file.")
    environment = capture(ignore=ignore or ())
    target = Target(environment.python, wanted)
    locked = lock(environment, target, fresh=True)
    try:
        if cluster is None:
            changes = against_lock(environment, locked)
            changes += missing_imports(script, environment, locked) if script is not None else []
        else:
            versions = {p.name: p.version for p in environment.packages}
            with _asking(cluster, at) as ask:
                changes = against_machines(manifest(environment, locked), versions, ask)
    finally:
        locked.discard()
    rows = ((one.package, one.here or "-", one.machines or "-", one.what) for one in changes)
    counts = f"{len(changes)} differences in {len(environment.packages)} packages"
    show(changes, as_json, ("PACKAGE", "HERE", "MACHINES", "DIFFERENCE"), rows, none=counts, after=[counts])
    if changes:
        raise typer.Exit(1)


@contextmanager
def _asking(name: str, at: At) -> Iterator[Any]:
    """Has each worker of a cluster that runs compare files with those that are expected."""
    from distributed import Client

    from prefect_coiled.cluster import Cluster
    from prefect_coiled.cluster.launch import find_launched
    from prefect_coiled.node.packages import differing

    if find_launched(at.aws, name) is None:
        raise no_cluster(at.aws, name)
    attached = Cluster(name=name, account=at.account, region=at.aws.region, report=lambda *_: None)
    with attached as running, Client(running) as client:
        yield lambda expected: client.run(differing, expected)


@command("environment images")
def list_images(at: At, as_json: JsonOption = False) -> None:
    """List the images that the account has baked, the newest first."""
    from prefect_coiled.aws.baked_images import find_baked_images

    found = find_baked_images(at.aws)
    columns = ("IMAGE", "ENVIRONMENT", "PYTHON", "ARCHITECTURE", "STATE", "MADE")
    rows = (
        (i.image_id, i.environment, i.python, i.architecture, i.state, f"{i.created_at:%Y-%m-%d %H:%M}")
        for i in found
    )
    show(found, as_json, columns, rows, none=f"Account {at.loaded.slug} has baked no image in {at}")
