"""One open transaction on either database: what the resource mixins (jobs.py, pools.py, …) are written against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from factory.control.ports import FeedKind
from factory.domain.tenancy import Scope
from factory.errors import ConflictError, StaleWriteError
from factory.storage.codec import Codec
from factory.storage.sql import Many, Params, Row, Scoped, Sql, chunks

__all__ = ["Cursor", "SqlSession", "Versioned"]

T = TypeVar("T")


class Cursor(Protocol):
    """What sqlite3's and psycopg's cursors have in common, as far as it is used."""

    @property
    def rowcount(self) -> int: ...

    def execute(self, query: Any, params: Any = ..., /) -> object: ...

    def executemany(self, query: Any, params: Any, /) -> object: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Versioned(Protocol):
    """A value with the optimistic guard `version`; frozen."""

    @property
    def version(self) -> int: ...


V = TypeVar("V", bound=Versioned)


class SqlSession:
    """Runs statements; collects the feed entries of the transaction until it is about to commit."""

    def __init__(self, cursor: Cursor, *, is_postgresql: bool, writable: bool) -> None:
        self._cursor: Cursor | None = cursor
        self._is_postgresql = is_postgresql
        self._writable = writable
        self._changes: dict[tuple[FeedKind, str], None] = {}

    def end(self) -> None:
        """The transaction is over: a closure that kept this object cannot use it any more."""
        self._cursor = None

    def _open_cursor(self) -> Cursor:
        if self._cursor is None:
            raise RuntimeError("this transaction has ended; use the tx only inside the function that was given it")
        return self._cursor

    def _settle(self) -> None:
        """Carry out the writes that still wait in this object: a statement must see them, or the commit comes."""

    def _require_writable(self) -> None:
        self._open_cursor()
        if not self._writable:
            raise RuntimeError("this is a read; writes belong in transact")

    def _rows(self, statement: Sql, params: Params) -> list[tuple[Any, ...]]:
        cursor = self._open_cursor()
        if statement.needs_jobs:
            self._settle()
        cursor.execute(statement.postgresql if self._is_postgresql else statement.sqlite, params)
        return cursor.fetchall()

    def _row(self, statement: Sql, params: Params) -> tuple[Any, ...] | None:
        rows = self._rows(statement, params)
        return rows[0] if rows else None

    def _write(self, statement: Sql, params: Params) -> int:
        """Run a writing statement; return how many rows it touched."""
        self._require_writable()
        cursor = self._open_cursor()
        if statement.needs_jobs:
            self._settle()
        cursor.execute(statement.postgresql if self._is_postgresql else statement.sqlite, params)
        return cursor.rowcount

    def _write_all(self, statement: Many, rows: Sequence[Row]) -> int:
        """Run a writing statement for every row; return how many rows it touched."""
        self._require_writable()
        cursor = self._open_cursor()
        if not rows:
            return 0
        if self._is_postgresql:
            cursor.executemany(statement.postgresql, rows)
            return cursor.rowcount
        touched = 0
        for text, values in chunks(statement, rows):
            cursor.execute(text, values)
            touched += cursor.rowcount
        return touched

    def _list(self, codec: Codec[T], statement: Scoped, scope: Scope, **params: object) -> tuple[T, ...]:
        """Decode the first column of every row that `scope` may see."""
        rows = self._rows(statement.of(scope), {"tenant": scope.tenant, **params})
        return tuple([codec.load(row[0]) for row in rows])

    def _one(self, codec: Codec[T], statement: Sql, scope: Scope, **params: object) -> T | None:
        """Decode the row (body, tenant) that a unique key finds, if `scope` may see it."""
        row = self._row(statement, params)
        if row is None or (scope.tenant is not None and row[1] != scope.tenant):
            return None
        return codec.load(row[0])

    def _put(self, codec: Codec[V], value: V, insert: Sql, update: Sql, what: str, **columns: object) -> V:
        """Insert a value of version 0, replace any other under its guard; return it as stored, one version later."""
        stored = replace(value, version=value.version + 1)  # pyright: ignore[reportArgumentType]  # frozen dataclass
        params = {**columns, "version": stored.version, "expected": value.version, "body": codec.dump(stored)}
        if value.version == 0:
            if not self._write(insert, params):
                raise ConflictError(f"{what} exists already", facts={"what": what})
        elif not self._write(update, params):
            raise StaleWriteError(
                f"{what} changed since it was read", hint="load it again and retry", facts={"what": what}
            )
        return stored

    def _changed(self, kind: FeedKind, key: str) -> None:
        self._changes[kind, key] = None
