"""How a command is declared: its place, what it shares with others, whose account it is about, and where."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from prefect_coiled.cli import interrupted, names, silence
from prefect_coiled.cli.common import tell_error, where
from prefect_coiled.cli.examples import EXAMPLES
from prefect_coiled.cli.unknown import Group
from prefect_coiled.errors import PrefectCoiledError

if TYPE_CHECKING:
    from prefect_coiled.aws.door import Aws
    from prefect_coiled.aws.loaded_account import Account
    from prefect_coiled.tasks.steps import Session

# Local variables, which may be secrets, must not be in a traceback.
app = typer.Typer(
    name="prefect-coiled",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)
_GROUPS = {
    name: (typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None), about)
    for name, about in {
        "sandbox": "The local stand-in for AWS.",
        "account": "The accounts that Prefect knows.",
        "blocks": "Blocks as code.",
        "setup": "Name an AWS account and set it up, step by step.",
        "environment": "What machines install, and images that hold it.",
        "role": "What the account's machines may do in AWS.",
    }.items()
}
for _name, (_group, _about) in _GROUPS.items():
    app.add_typer(_group, name=_name, help=_about)

AccountOption = Annotated[
    str | None,
    typer.Option(help="Slug of the account; the default one if not given.", autocompletion=names.accounts),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Print what would be changed, and change nothing; also with --json.")
]
RegionOption = Annotated[
    str | None, typer.Option(help="AWS region; the account's if not given.", autocompletion=names.regions)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SlugOption = Annotated[str, typer.Option(help="Slug of the account.", autocompletion=names.accounts)]
SlugArgument = Annotated[
    str | None, typer.Argument(help="Slug of the account.", autocompletion=names.accounts)
]
NameArgument = Annotated[str, typer.Argument(help="Name of the cluster.", autocompletion=names.clusters)]


@dataclass
class At:
    """The account that a command is about, in the region that holds; looked up when it is asked for."""

    account: AccountOption = None
    region: RegionOption = None

    @functools.cached_property
    def loaded(self) -> Account:
        """The account."""
        from prefect_coiled.blocks.asking import reading_here
        from prefect_coiled.blocks.loading import load_account

        with reading_here():
            loaded = load_account(self.account)
        names.saw_accounts(loaded.slug)
        return loaded

    @functools.cached_property
    def aws(self) -> Aws:
        """Its door."""
        return self.loaded.door(self.region)

    def __str__(self) -> str:
        """Where that is: the end of a sentence."""
        return f"{self.aws.region}{where(self.loaded)}"

    def session(self, cluster: str = "") -> AbstractContextManager[Session]:
        """A session in which the provisioning flows work."""
        from prefect_coiled.blocks.asking import ensure_api
        from prefect_coiled.tasks.steps import Session, use_session

        ensure_api()
        interrupted.changing(self.aws, cluster, sandbox=self.loaded.is_sandbox)
        return use_session(Session(self.aws, cluster=cluster))


def command(path: str, *older: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the command of that path, such as "account list", with its examples in its help.

    An error of this library is printed as one line, and the exit code is 1. A parameter that is a dataclass,
    such as `At`, stands for its fields, each an option or argument.

    Args:
        older: Paths that it had before. They work, say the one that it has, and are in no help.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        made = _told(path, function)
        hinted = _told(path, function, f"This command is called `prefect-coiled {path}`.")
        lines = "\n".join(f"  prefect-coiled {line}" for line in EXAMPLES[tuple(path.split())])
        for one in (path, *older):
            *groups, name = one.split()
            within = _GROUPS[groups[0]][0] if groups else app
            # "\b" keeps the lines as they are.
            within.command(name, hidden=one != path, epilog=f"\b\nExamples:\n{lines}")(
                made if one == path else hinted
            )
        return made

    return declare


@contextmanager
def _server_told() -> Iterator[None]:
    """Say when Prefect's temporary server is started for the command, which takes a while."""
    from prefect_coiled.events import Event, hearing

    def say(event: Event) -> None:
        if event.kind == "server":
            silence.broken()
            typer.echo(event.text, err=True)

    with hearing(say):
        yield


@contextmanager
def _api_told(path: str) -> Iterator[None]:
    """Tell in a line what the Prefect API did not do; loads nothing for a command that does not ask it."""
    try:
        yield
    except Exception as error:
        httpx = sys.modules.get("httpx")
        if httpx is None or not isinstance(error, httpx.HTTPError):
            raise
        from prefect_coiled.blocks.asking import api_failures

        with api_failures(f"prefect-coiled {path}"):
            raise


@contextmanager
def _home_told(path: str) -> Iterator[None]:
    """Tell in a line where there is no home folder, for which Prefect looks as it is loaded."""
    try:
        yield
    except RuntimeError as error:
        if os.path.expanduser("~") != "~":
            raise
        why = "Prefect needs a home folder, and this user has none."
        what = f"prefect-coiled {path}"
        raise PrefectCoiledError(what, why, "Set HOME to a folder of your own.") from error


def _told(path: str, command: Callable[..., Any], hint: str = "") -> Callable[..., Any]:
    groups: dict[str, Any] = {}
    shown: list[inspect.Parameter] = []
    for one in inspect.signature(command, eval_str=True).parameters.values():
        if not is_dataclass(one.annotation):
            shown.append(one.replace(kind=one.KEYWORD_ONLY))
            continue
        groups[one.name], hints = one.annotation, get_type_hints(one.annotation, include_extras=True)
        shown += [
            inspect.Parameter(f.name, one.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
            for f in fields(one.annotation)
        ]

    @functools.wraps(command)
    def wrapped(*args: Any, **given: Any) -> Any:
        interrupted.begin()
        silence.begin()
        if hint:
            typer.echo(hint, err=True)
        try:
            for name, kind in groups.items():
                own = {f.name: given.pop(f.name) for f in fields(kind) if f.name in given}
                given[name] = kind(**own)
            from prefect_coiled.dask_files import dask_files_told

            with _server_told(), dask_files_told(), _api_told(path), _home_told(path):
                return command(*args, **given)
        except PrefectCoiledError as error:
            tell_error(error)
            raise typer.Exit(1) from None
        except typer.Abort:
            # Whoever is asked has been shown what would be done, and nothing is done before.
            typer.echo("Aborted. Nothing was changed.", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            interrupted.tell_interrupted(path)
        finally:
            silence.broken()

    wrapped.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in shown}
    return wrapped
