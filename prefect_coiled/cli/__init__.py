"""`prefect-coiled`: what runs in an account, who pays, and how to stop it; and the sandbox on this machine.

Each command is a few calls into the library; nothing is decided here. Heavy modules are imported inside the
commands, so that help comes at once. Errors of this library are printed as one line, with exit code 1.
"""

from __future__ import annotations

from typing import Annotated

import typer

from prefect_coiled.cli.accounts import account_app, set_up
from prefect_coiled.cli.blocks import blocks_app
from prefect_coiled.cli.clusters import (
    change_firewall,
    list_clusters,
    show_dashboard,
    show_logs,
    show_notifications,
    stop_cluster,
    sweep_account,
)
from prefect_coiled.cli.costs import show_cost
from prefect_coiled.cli.demo import demo
from prefect_coiled.cli.doctor import run_doctor
from prefect_coiled.cli.environment import environment_app
from prefect_coiled.cli.examples import add_examples
from prefect_coiled.cli.images import list_images
from prefect_coiled.cli.policies import check, show_policy
from prefect_coiled.cli.quotas import show_quotas
from prefect_coiled.cli.resources import account_destroy, list_resources, role_app
from prefect_coiled.cli.sandbox import sandbox_app
from prefect_coiled.cli.setup import account_edit, setup_app

__all__ = ["app"]

# Local variables, which may be secrets, must not be in a traceback.
app = typer.Typer(
    name="prefect-coiled",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(sandbox_app, name="sandbox", help="The local stand-in for AWS.")
app.add_typer(account_app, name="account", help="The accounts that Prefect knows.")
app.add_typer(blocks_app, name="blocks", help="Blocks as code.")
app.add_typer(setup_app, name="setup", help="Name an AWS account and set it up, step by step.")
app.add_typer(environment_app, name="environment", help="What machines install, and images that hold it.")
app.add_typer(role_app, name="role", help="What the account's machines may do in AWS.")
account_app.command("edit")(account_edit)
account_app.command("destroy")(account_destroy)
app.command("policies")(show_policy)
app.command("check")(check)
app.command("quotas")(show_quotas)
app.command("doctor")(run_doctor)
app.command("set-up")(set_up)
app.command("ls")(list_clusters)
app.command("cost")(show_cost)
app.command("resources")(list_resources)
app.command("images")(list_images)
app.command("stop")(stop_cluster)
app.command("firewall")(change_firewall)
app.command("logs")(show_logs)
app.command("notifications")(show_notifications)
app.command("dashboard")(show_dashboard)
app.command("sweep")(sweep_account)
app.command("demo")(demo)
add_examples(app)


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
