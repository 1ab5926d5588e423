"""A database that a newer Prefect made: said at once, where a temporary server would be waited for."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import prefect
import pytest
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL, temporary_settings

from prefect_coiled.blocks.asking import asking, read_here, refuse_newer_database
from prefect_coiled.errors import AccountError

MIGRATIONS = Path(prefect.__file__).parent / "server/database/_migrations/versions/sqlite"


def database(folder: Path, revision: str) -> Path:
    file = folder / "a folder" / "prefect.db"
    file.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(file)) as made, made:
        made.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        made.execute("INSERT INTO alembic_version VALUES (?)", [revision])
    return file


def test_a_database_of_a_newer_prefect_is_refused_at_once(tmp_path: Path) -> None:
    file = database(tmp_path, "fffffffffff1")
    url = f"sqlite+aiosqlite:///{file}"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}, restore_defaults={PREFECT_API_URL}):
        for ask in (
            asking("accounts").__enter__,
            lambda: read_here("accounts", lambda client: client.hello()),
        ):
            with pytest.raises(AccountError, match="was made by a newer Prefect than the") as caught:
                ask()
            assert str(file) in str(caught.value)
            assert "PREFECT_HOME" in str(caught.value)


def test_the_newest_that_is_installed_is_taken_and_so_is_what_is_no_database_yet(tmp_path: Path) -> None:
    newest = max(MIGRATIONS.glob("20*.py")).name.split("_")[4]
    file = database(tmp_path, newest)
    with temporary_settings(
        {PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{file}"},
        restore_defaults={PREFECT_API_URL},
    ):
        refuse_newer_database("accounts")
        file.write_bytes(b"")
        refuse_newer_database("accounts")
        file.unlink()
        refuse_newer_database("accounts")
