"""`prefect-coiled sandbox`: the local stand-in for AWS."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from prefect_coiled.cli.common import out, print_json
from prefect_coiled.cli.declare import JsonOption, command


@command("sandbox start")
def sandbox_start(
    idle: Annotated[float, typer.Option(help="Seconds without use after which it ends by itself.")] = 1800.0,
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
) -> None:
    """Start the sandbox in the background, or find the one that runs."""
    from prefect_coiled.sandbox import start

    given = {"plane": plane, "profile": profile, "account": account}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value}
    info = start(port=port, idle=idle, settings=settings)
    out().print(f"The sandbox runs at {info.endpoint} (process {info.pid}). Its files: {info.state_dir}")
    if info.plane != "process":
        out().print(f"Its data plane: {info.plane}. Your address there: {info.client_address}")


@command("sandbox status")
def sandbox_status(as_json: JsonOption = False) -> None:
    """Say whether the sandbox runs, and with how many instances; exit code 1 if it does not."""
    from prefect_coiled.sandbox import status

    info = status()
    if as_json:
        known = None if info is None else {**vars(info), "state_dir": str(info.state_dir)}
        print_json(known and {name: value for name, value in known.items() if name != "secret_access_key"})
        raise typer.Exit(0 if info else 1)
    if info is None:
        out().print("The sandbox does not run.")
        raise typer.Exit(1)
    out().print(f"The sandbox runs at {info.endpoint} (process {info.pid}), instances: {info.instances}")


@command("sandbox stop")
def sandbox_stop() -> None:
    """End the sandbox with all its instances."""
    from prefect_coiled.sandbox import stop

    out().print("The sandbox was stopped." if stop() else "The sandbox did not run.")
