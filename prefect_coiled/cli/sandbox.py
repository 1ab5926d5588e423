"""`prefect-coiled sandbox`: the local stand-in for AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prefect_coiled.cli.common import out, print_json, sentence_or_json
from prefect_coiled.cli.declare import JsonOption, command

if TYPE_CHECKING:
    from prefect_coiled.sandbox import SandboxInfo


@command("sandbox start")
def sandbox_start(
    idle: Annotated[
        float | None,
        typer.Option(help="Seconds without use after which it ends by itself; 1800 if not given."),
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port; 0 for a free one.")] = 0,
    plane: Annotated[
        Literal["process", "netns"] | None,
        typer.Option(help="What instances are made of: processes, or network namespaces with a firewall."),
    ] = None,
    profile: Annotated[
        Literal["fast", "realistic"] | None,
        typer.Option(help="Fast, or with the delays and rates of AWS."),
    ] = None,
    account: Annotated[
        Literal["used", "fresh"] | None,
        typer.Option(help="An AWS account in use, or a new one: few vCPUs, the free plan, no role for spot."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start the sandbox in the background, or find the one that runs."""
    from prefect_coiled.sandbox import start

    given = {"plane": plane, "profile": profile, "account": account}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value}
    info = start(port=port, idle=idle, settings=settings)
    if as_json:
        print_json(_known(info))
        return
    out().print(f"The sandbox runs at {info.endpoint} (process {info.pid}). Its files: {info.state_dir}")
    if info.plane != "process":
        out().print(f"Its data plane: {info.plane}. Your address there: {info.client_address}")


@command("sandbox status")
def sandbox_status(as_json: JsonOption = False) -> None:
    """Say whether the sandbox runs, and with how many instances; exit code 1 if it does not."""
    from prefect_coiled.sandbox import status

    info = status()
    if as_json:
        print_json(info and _known(info))
        raise typer.Exit(0 if info else 1)
    if info is None:
        out().print("The sandbox does not run.")
        raise typer.Exit(1)
    out().print(f"The sandbox runs at {info.endpoint} (process {info.pid}), instances: {info.instances}")


@command("sandbox stop")
def sandbox_stop(as_json: JsonOption = False) -> None:
    """End the sandbox with all its instances."""
    from prefect_coiled.sandbox import stop

    done = stop()
    text = "The sandbox was stopped." if done else "The sandbox did not run."
    sentence_or_json(text, {"stopped": done}, as_json)


def _known(info: SandboxInfo) -> dict[str, Any]:
    """What a program may know of it; its secret is not among that."""
    known = {**vars(info), "state_dir": str(info.state_dir)}
    return {name: value for name, value in known.items() if name != "secret_access_key"}
