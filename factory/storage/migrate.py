"""Bring a database to the schema of this release, or back. Whole or not at all: a crash leaves the schema before.

Several control planes may start at once: on PostgreSQL an advisory lock lets one migrate and the others wait; on SQLite
the data folder has one owner (folder.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from factory.errors import ConfigurationError, UnavailableError
from factory.storage.folder import private_file

__all__ = ["connected", "database_url", "downgrade", "head", "revision", "upgrade"]

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 0x0FAC_0001


def database_url(url: str) -> URL:
    """Return the parsed URL with our driver in it. Raises: ConfigurationError: not a database we speak to."""
    try:
        parsed = make_url(url)
    except (
        Exception
    ) as exc:  # SQLAlchemy raises its own and ValueError; the URL may hold a password, so it is not shown
        raise ConfigurationError(
            "the database URL cannot be read", hint="sqlite:///factory.db, postgresql://…"
        ) from exc
    match parsed.get_backend_name():
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return parsed.set(drivername="sqlite")
        case "postgresql":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise ConfigurationError(
                f"'{other}' is no database that the factory can keep its truth in",
                hint="sqlite:///<path of a file>, or postgresql://user@host/database",
            )


def head() -> str:
    """The revision that this release needs."""
    newest = _scripts().get_current_head()
    if newest is None:
        raise RuntimeError("this release has no migrations; its installation is broken")
    return newest


def revision(url: str) -> str | None:
    """The revision that the database has; None = it is empty."""
    with connected(url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(url: str, to: str = "head") -> None:
    """Migrate forward; nothing to do is no error.

    Raises: ConfigurationError: the schema is of a newer release. UnavailableError: the database does not answer.
    """
    with connected(url) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in _scripts().walk_revisions()}
        if current is not None and current not in known:
            raise ConfigurationError(
                f"the database has schema {current}, this release knows up to {head()}",
                hint="run the newer release that wrote it, or restore a backup made by this one",
                facts={"schema": current, "known": head()},
            )
        if current is None or current != (head() if to == "head" else to):
            command.upgrade(_config(connection), to)


def downgrade(url: str, to: str = "base") -> None:
    """Migrate back to a revision; "base" leaves an empty database."""
    with connected(url) as connection:
        command.downgrade(_config(connection), to)


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """One connection in one transaction, committed at the end of the block, for migrations and their tests."""
    parsed = database_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    engine = create_engine(parsed, poolclass=NullPool)
    if is_sqlite:
        private_file(Path(parsed.database or ""))
        event.listen(engine, "connect", _own_transactions)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            if not is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection
    except OperationalError as exc:
        raise UnavailableError("the database does not open", hint="does the folder exist; is the server up?") from exc
    except DBAPIError as exc:
        raise ConfigurationError(f"the database refused the migration: {exc.orig}") from exc
    finally:
        engine.dispose()


def _own_transactions(connection: object, _record: object) -> None:
    # pysqlite would commit before DDL; with this, BEGIN and COMMIT are what they say.
    connection.isolation_level = None  # pyright: ignore[reportAttributeAccessIssue]  # sqlite3.Connection
    cursor = connection.cursor()  # pyright: ignore[reportAttributeAccessIssue]
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(None))


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
