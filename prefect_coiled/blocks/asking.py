"""Asks Prefect's API for blocks: the server that is named, a temporary one, or the API within this process.

Knows nothing of accounts. Any failure ends here, as an error of one line.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx

from prefect_coiled.errors import AccountError, PrefectApiError, PrefectCoiledError
from prefect_coiled.events import Event, tell
from prefect_coiled.internals.api_errors import cause_and_step, without_user
from prefect_coiled.internals.python import side_by_side

if TYPE_CHECKING:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import PrefectClient, SyncPrefectClient
    from prefect.client.schemas.objects import BlockDocument

T = TypeVar("T")

EPHEMERAL_STARTUP_S = 300
# Whether a temporary server was told of, and whether blocks may be read without one.
_servers: list[bool] = []
_reads_here: list[bool] = []


def may_read_here() -> bool:
    """Whether blocks may be read by Prefect's API within this process, where no server is named.

    Only of a process that says so: it takes half of the processor's time that a temporary server takes, but
    such a server may be at work already in a program that runs flows.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    return bool(_reads_here) and not _servers and not settings.api.url and settings.server.ephemeral.enabled


@contextmanager
def reading_here() -> Iterator[None]:
    """Let blocks be read by Prefect's API within this process while the block lasts."""
    _reads_here.append(True)
    try:
        yield
    finally:
        _reads_here.pop()


def read_here(what: str, ask: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """Ask Prefect's API in this process, without its services.

    Raises:
        AccountError: It could not be asked.
        TimeoutError: It did not start within Prefect's bound.
    """
    from prefect.client.orchestration import PrefectClient
    from prefect.server.api.server import create_app

    async def read() -> T:
        app = create_app(ephemeral=True, webserver_only=True)
        async with PrefectClient(app) as client:
            return await ask(client)

    try:
        with told_in_a_line(what):
            # In a thread: there may be an event loop in this one.
            (answer,) = side_by_side(lambda _: asyncio.run(read()), [None])
            return answer
    except AccountError as error:
        if isinstance(error.__cause__, (TimeoutError, asyncio.TimeoutError)):
            raise TimeoutError(str(error)) from error
        raise


def nothing_was_saved() -> bool:
    """Whether there can be no block: no server is named, and a temporary one would begin an empty database.

    It need not be started then: all that it keeps is in a file, https://docs.prefect.io/v3/concepts/server.
    """
    file = _own_database()
    return file is not None and not file.exists()


def _own_database() -> Path | None:
    """The file of a temporary server's database; None where a server is named, or where it is no file."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    held = settings.server.database.connection_url
    if settings.api.url or not settings.server.ephemeral.enabled or held is None:
        return None
    kind, _, file = held.get_secret_value().partition("?")[0].partition(":///")
    # One in memory, or a URI of SQLite's own, is asked.
    return Path(file) if kind.startswith("sqlite") and file and ":" not in file else None


def refuse_newer_database(what: str) -> None:
    """Say so at once where a temporary server could not read its database: Prefect's waits for its bound.

    Raises:
        AccountError: A newer release of Prefect made it.
    """
    import prefect

    from prefect_coiled.internals.prefect import is_known_revision

    file = _own_database()
    if file is None or not file.exists():
        return
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:  # Prefect's own to say
        return
    if found and not is_known_revision(str(found[0])):
        raise AccountError(
            what,
            f"the database {file} was made by a newer Prefect than the {prefect.__version__} that is here.",
            "Install that release, or name another folder by PREFECT_HOME, or a server by PREFECT_API_URL.",
        )


@contextmanager
def asking(what: str) -> Iterator[SyncPrefectClient]:
    """A client of the Prefect API.

    Any failure of it, of its transport or of a temporary server ends here: to go on with the sandbox instead
    would run somewhere else than was asked for.

    Args:
        what: What is asked about, for the error.

    Raises:
        AccountError: The Prefect API could not be asked.
    """
    from prefect.client.orchestration import get_client

    with told_in_a_line(what):
        _tell_server()
        with get_client(sync_client=True) as client:
            yield client


def ask(what: str, question: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """Ask Prefect's API in this process where that may be; else, or where it starts too slowly, a server.

    Args:
        what: As for `asking`.
        question: Asks a client; it is called in a thread of its own, with a loop of its own.

    Raises:
        AccountError: The Prefect API could not be asked.
    """
    from prefect.client.orchestration import get_client

    if may_read_here():
        with suppress(TimeoutError):  # of a bound that Prefect sets: a server has longer
            return read_here(what, question)

    async def of_server() -> T:
        async with get_client() as client:
            return await question(client)

    with told_in_a_line(what):
        _tell_server()
        (answer,) = side_by_side(lambda _: asyncio.run(of_server()), [None])
        return answer


async def documents_of(client: PrefectClient, kind: type[Block]) -> list[BlockDocument]:
    """All blocks of a type, with their secrets."""
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_block_documents_by_type(kind.get_block_type_slug())
    except ObjectNotFound:  # the type is not registered: no block of it was ever saved
        return []


def ensure_api() -> None:
    """Have Prefect's temporary server there, where no server is named, before a flow asks for it.

    Raises:
        AccountError: It did not start.
    """
    with asking("Prefect"):
        pass


def _tell_server() -> None:
    """Tell once that a temporary server is started; it stays for this process."""
    from prefect.settings import PREFECT_API_URL, get_current_settings

    if PREFECT_API_URL.value() or _servers or not get_current_settings().server.ephemeral.enabled:
        return
    _servers.append(True)
    text = (
        "No Prefect server is named, so a temporary one is started, for this command alone. "
        "`prefect server start` runs one that stays; PREFECT_API_URL names it."
    )
    tell(Event("server", text))


@contextmanager
def api_failures(what: str) -> Iterator[None]:
    """Have a flow of ours that the Prefect API did not let begin, go on or end told in one line.

    Args:
        what: What the flow is for, such as "launching cluster 'nightly'".

    Raises:
        PrefectApiError: The API did not answer, or refused.
    """
    try:
        yield
    except httpx.HTTPError as error:
        cause, step = cause_and_step(error)
        raise PrefectApiError(what, f"the Prefect API did not do its part: {cause}", step) from error


@contextmanager
def told_in_a_line(what: str) -> Iterator[None]:
    """Have whatever goes wrong with Prefect's API told in one line, and give a temporary server time."""
    refuse_newer_database(what)
    try:
        with _patient():
            yield
    except PrefectCoiledError:
        raise
    except Exception as error:
        raise _unreachable(what, error) from error


def _patient() -> AbstractContextManager[object]:
    """Give Prefect's ephemeral server time to make its database.

    Prefect's own 20 s are short on a busy machine, and on running out it leaves the server behind.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        temporary_settings,
    )

    if PREFECT_API_URL.value():
        return nullcontext()
    seconds = max(EPHEMERAL_STARTUP_S, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
    return temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: seconds})


def _unreachable(what: str, error: Exception) -> AccountError:
    """The error that says that Prefect's API could not be asked."""
    from prefect.settings import PREFECT_API_URL, get_current_settings

    reason, step = cause_and_step(error)
    where = PREFECT_API_URL.value()
    if not where and not get_current_settings().server.ephemeral.enabled:
        return AccountError(
            what,
            "no Prefect server is named, and temporary ones are switched off "
            "(PREFECT_SERVER_EPHEMERAL_ENABLED).",
            "Name one: `prefect config set PREFECT_API_URL=http://HOST:4200/api`.",
        )
    if not where:
        return AccountError(
            what,
            f"Prefect's temporary server could not be asked: {reason}.",
            "Run it again, or start a server that stays: `prefect server start`, with its address in "
            "PREFECT_API_URL. PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS is how long a start may take.",
        )
    return AccountError(
        what,
        f"the Prefect API at {without_user(str(where))} could not be asked: {reason}.",
        step,
    )


def unheard() -> AbstractContextManager[object]:
    """Have Prefect tell nobody that a block was read here: it would start a temporary server to tell it.

    It tells no temporary server where there is a key of Prefect Cloud, and Cloud only where its API is named.
    """
    from prefect.settings import PREFECT_API_KEY, temporary_settings

    return temporary_settings({PREFECT_API_KEY: "nobody's"}) if may_read_here() else nullcontext()
