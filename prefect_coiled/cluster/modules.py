"""The modules of the running program: told what stays here, and sent to a cluster, also to one that runs.

A machine that installed its own environment has had them as a wheel from its boot; what is sent is checked
against that. `prefect_coiled.node.modules` is the other side.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from distributed.protocol.pickle import dumps, loads

from prefect_coiled.environment.capture import check_ignored
from prefect_coiled.environment.ignored import IGNORE_FILE
from prefect_coiled.environment.modules import Modules, gather
from prefect_coiled.environment.modules_wheel import NAME
from prefect_coiled.errors import OptionsError, ProvisionError
from prefect_coiled.node.module_files import digest, top_of
from prefect_coiled.node.modules import Answer, Claim, offer, process_id

logger = logging.getLogger(__name__)
_told: set[Path] = set()


def modules_beside(ignore: Sequence[str] = ()) -> dict[str, bytes]:
    """The files of the program's own modules, by path; see `gather_modules`."""
    return gather_modules(ignore).files


def gather_modules(ignore: Sequence[str] = ()) -> Modules:
    """The modules of the running program and flow that no package installed. Secrets that stay are told once.

    Args:
        ignore: Names of packages that the machines shall not get; the modules have one too.

    Raises:
        OptionsError: They are too large, or one has the name of a module of Python's own.
    """
    if any(fnmatchcase(NAME, pattern) for pattern in check_ignored(ignore)):
        return Modules()
    found = gather(*_flow())
    _tell({p: why for p, why in found.left_out.items() if p in found.secrets or p in found.large})
    return found


def _tell(stays: dict[Path, str]) -> None:
    """Say of files that stay here why they do, once in the life of a program."""
    new = {path: why for path, why in stays.items() if path not in _told}
    _told.update(new)
    if new:
        listed = ", ".join(f"{path.name!r} in {path.parent} ({why})" for path, why in sorted(new.items()))
        logger.warning(
            "Not sent to the workers: %s. What they need of it goes into a Prefect block, into `environ` or "
            "into a bucket; a line in %s says that it is meant to stay.",
            listed,
            IGNORE_FILE,
        )


async def send_modules(scheduler: Any, modules: Modules, client: str | None = None, title: str = "") -> None:
    """Give the modules to the scheduler and to every worker, also to those that come later.

    Args:
        client: The id of the Dask client whose tasks need them.
        title: What a person calls that program, for others who come to the cluster.

    Raises:
        OptionsError: Another program is at work on the cluster, with other modules of the same name.
        ProvisionError: The scheduler goes on lacking some of them.
    """
    files = {**modules.files, **modules.editable}
    contents = {digest(content): content for content in files.values()}
    digests = {path: digest(content) for path, content in files.items()}
    stays = {top_of(path.name): f"{path} stays here, {why}" for path, why in modules.left_out.items()}
    claim = Claim(process_id(), digests, client, title, stays)
    if not digests and client is None:
        return
    try:
        answer = await _offered(scheduler, claim, {})
    except ValueError as error:
        # Dask tells it by these words alone, of a handler among `blocked_handlers`.
        if "explicitly disallowed" not in str(error):
            raise
        if files:
            names = ", ".join(sorted(set(map(top_of, files))))
            logger.warning("The scheduler takes no functions (blocked_handlers), so machines lack: %s", names)
        return
    if answer.missing:
        answer = await _offered(scheduler, claim, {h: contents[h] for h in answer.missing})
    if answer.missing:  # meanwhile it forgot others, which a claim that was replaced had brought
        answer = await _offered(scheduler, claim, contents)
    if answer.missing:
        lacking = sorted({top_of(path) for path, hash_ in digests.items() if hash_ in answer.missing})
        raise ProvisionError(
            f"sending modules {', '.join(map(repr, lacking))}",
            "the scheduler says that it lacks them, though they were sent.",
            "Run again; if it stays so, take a new cluster.",
        )
    if answer.taken:
        names = ", ".join(map(repr, answer.taken))
        raise OptionsError(
            f"module {names}",
            f"{answer.holder or 'another program'} is at work on the cluster, with another one of that name",
            "Wait until that is over, take a cluster of its own, or rename the module.",
        )
    for address, why in answer.failed.items():
        logger.warning("The worker at %s could not take the modules: %s", address, why)


async def _offered(scheduler: Any, claim: Claim, contents: dict[str, bytes]) -> Answer:
    arguments = {"claim": claim, "contents": contents}
    reply = await scheduler.run_function(
        function=dumps(offer), args=dumps(()), kwargs=dumps(arguments), wait=True
    )
    if reply["status"] == "error":
        error = reply["exception"]
        raise loads(error) if isinstance(error, bytes) else error
    result = reply["result"]
    assert isinstance(result, Answer)
    return result


def _flow() -> tuple[str | None, str | None]:
    """The module and the file of the running flow."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    flow = context.flow if context else None
    if flow is None:
        return None, None
    function = inspect.unwrap(flow.fn)
    try:
        return getattr(function, "__module__", None), inspect.getsourcefile(function)
    except TypeError:
        return None, None
