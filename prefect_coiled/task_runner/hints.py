"""What to do about errors of a task that come from where it runs: its machine's role in AWS, its modules.

Runs on workers: nothing here imports what a bare worker lacks.
"""

from __future__ import annotations

from typing import Any

import httpx
from prefect.client.schemas.objects import State

from prefect_coiled.internals.api_errors import cause_and_step
from prefect_coiled.node.denied import causes, denied_hint
from prefect_coiled.node.modules import left_out


def hint_for(error: BaseException | None, account: str | None = None) -> str:
    """What to do if the error, or what caused it, is a denied access to S3 or a missing module; else empty.

    Args:
        account: The account's slug; that of this machine by default.
    """
    for one in causes(error):
        if known := denied_hint(one, account) or getattr(one, _HINT, "") or missing_module(one):
            return str(known)
    return ""


# By what name an error takes its hint along from a worker.
_HINT = "prefect_coiled_hint"


def add_hint(error: BaseException) -> None:
    """Let an error take along what to do about it, to the client."""
    if hint := hint_for(error):
        setattr(error, _HINT, hint)


def add_api_hint(error: BaseException) -> None:
    """The same for an error of Prefect's engine, and not of the task's own: its calls are to the API."""
    for one in causes(error):
        if isinstance(one, (httpx.TransportError, httpx.HTTPStatusError)):
            cause, step = cause_and_step(one)
            hint = f"The Prefect API did not do what the task needs of it: {cause}. {step}"
            return setattr(error, _HINT, f"{hint} {_TRIED}")
    return add_hint(error)


def of_module(error: SystemExit) -> ImportError:
    """The error of a module that ends its program where it is imported, with what to do about it."""
    told = ImportError(f"a module that the task needs ended its program by sys.exit({error.code!r})")
    setattr(
        told,
        _HINT,
        "It does so as a worker imports it: have it do that below `if __name__`, or in a function.",
    )
    return told


_TRIED = "PREFECT_CLIENT_MAX_RETRIES says how often it is asked again before a task is given up."


def missing_module(error: BaseException) -> str:
    """What to do about a module that is not there, or is another one; empty for other errors."""
    if isinstance(error, AttributeError) and "Can't get attribute" in str(error):
        return (
            "The workers have another version of that module. If it comes with a package, close the cluster "
            "and start it anew: its machines install what is installed here then."
        )
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if not name:
        return ""
    if why := next((w for part in reversed(name.split(".")) if (w := left_out(part))), ""):
        return f"The workers do not have it: {why}."
    return (
        f"The workers have no {name.partition('.')[0]!r}. A package has to be installed where the flow runs "
        "before the cluster starts, and not be named by package_sync_ignore: if it is one, see to that, "
        "close the cluster and start it anew (a cluster that this library did not make needs it installed "
        "there). A module of your own has to be imported in the flow's program, or to lie beside the flow."
    )


def advise(state: Any) -> str:
    """Add to a failed state what would help, where something would.

    Args:
        state: The task's final state; its message and its exception get the hint.
    """
    if not isinstance(state, State) or not (state.is_failed() or state.is_crashed()):
        return ""
    error = getattr(state.data, "result", state.data)
    hint = hint_for(error) if isinstance(error, BaseException) else ""
    if hint:
        state.message = f"{state.message or ''} {hint}".strip()
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(hint)
    return hint
