"""`prefect-coiled`: what runs in an account, who pays, and how to stop it; and the sandbox on this machine.

Each command is a few calls into the library; nothing is decided here. Heavy modules are imported inside the
commands, so that help comes at once. Errors of this library are printed as one line, with exit code 1.
"""

from __future__ import annotations

from typing import Annotated

import typer

# Each declares its commands, in the order of the help.
# isort: off
from prefect_coiled.cli import policies, check, listings, costs, clusters, doctor, demo  # noqa: F401
from prefect_coiled.cli import accounts, blocks, environment, iam, sandbox, setup  # noqa: F401

# isort: on
from prefect_coiled.cli.declare import app

__all__ = ["app"]


def _show_version(wanted: bool) -> None:
    if wanted:
        from prefect_coiled import __version__

        print(f"prefect-coiled {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Dask clusters of EC2 machines in your own AWS account, or in a sandbox on this machine."""
