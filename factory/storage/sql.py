"""Statements, written once with SQLAlchemy Core and compiled to text for both databases when the module is imported.

Executing text on the driver's own cursor costs a few microseconds; Core's execution layer would cost tens per
statement, and every column here is a string or an integer, so it has nothing to convert. Bind parameters carry the
column's name, or the one given to `bindparam`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import Column, ColumnElement, Delete, Insert, Select, Table, Update, and_, bindparam, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg

from factory.domain.tenancy import Scope

__all__ = [
    "Many",
    "Params",
    "Query",
    "Row",
    "Scoped",
    "Sql",
    "chunks",
    "compiled",
    "insert_many",
    "insert_new",
    "replace_guarded",
    "replace_many",
    "scoped",
]

Params: TypeAlias = Mapping[str, object]
Query: TypeAlias = Select[*tuple[Any, ...]]
Statement: TypeAlias = Query | Insert | Update | Delete

Row: TypeAlias = tuple[object, ...]

_SQLITE = sqlite.dialect(paramstyle="named")
_POSTGRESQL = psycopg.dialect()
# Tables whose writes wait in the transaction until somebody looks (storage/jobs.py), and those that refer to them.
_DEFERRED = re.compile(r"\b(jobs|attempts|events|progress)\b")
_CHUNKS = (256, 32, 4, 1)  # rows of a statement: few texts to prepare, few statements to run


@dataclass(frozen=True, slots=True)
class Sql:
    """One statement in the words of each database."""

    sqlite: str
    postgresql: str
    needs_jobs: bool = field(init=False)  # it reads or refers to tables whose writes may still wait

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs_jobs", _DEFERRED.search(self.postgresql) is not None)


@dataclass(frozen=True, slots=True)
class Many:
    """One writing statement for many rows, each a tuple of `width` values.

    SQLite takes many rows in one statement: sqlite3 lets go of the interpreter's lock for each statement, and a busy
    neighbour thread then keeps it for milliseconds. PostgreSQL's driver pipelines one statement per row by itself.
    """

    width: int
    head: str  # SQLite: before the rows
    tail: str  # SQLite: after them
    postgresql: str


@lru_cache(maxsize=64)
def _text_of(statement: Many, rows: int) -> str:
    row = f"({', '.join('?' * statement.width)})"
    return f"{statement.head}{', '.join([row] * rows)}{statement.tail}"


def chunks(statement: Many, rows: Sequence[Row]) -> Iterator[tuple[str, list[object]]]:
    """Split rows into statements for SQLite: (text, all parameters in order)."""
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            yield _text_of(statement, size), [value for row in rows[start : start + size] for value in row]
            start += size


@dataclass(frozen=True, slots=True)
class Scoped:
    """One statement for the whole factory and one for a single tenant (parameter `tenant`), each with its own plan."""

    every: Sql
    own: Sql

    def of(self, scope: Scope) -> Sql:
        """Return the statement that sees what `scope` may see."""
        return self.every if scope.tenant is None else self.own


def compiled(statement: Statement, *, limited: bool = False) -> Sql:
    """Compile a statement; `limited` adds a LIMIT with the parameter `limit`."""
    texts: list[str] = []
    for dialect, limit in ((_SQLITE, ":limit"), (_POSTGRESQL, "%(limit)s")):
        result = statement.compile(dialect=dialect)
        fixed = sorted(name for name, value in result.params.items() if value is not None)
        if fixed:
            raise ValueError(f"write constants as literals, not as parameters: {fixed} in {result}")
        texts.append(f"{result} LIMIT {limit}" if limited else str(result))
    return Sql(*texts)


def scoped(statement: Query | Delete, own: Column[Any] | ColumnElement[bool], *, limited: bool = False) -> Scoped:
    """Compile a statement as it is, and narrowed to a tenant by its column or by a condition that binds `tenant`."""
    condition = own == bindparam("tenant") if isinstance(own, Column) else own
    return Scoped(compiled(statement, limited=limited), compiled(statement.where(condition), limited=limited))


def insert_new(table: Table) -> Sql:
    """INSERT that leaves the transaction usable when the row exists: it then inserts 0 rows.

    On PostgreSQL a row that a neighbour inserted since this transaction's snapshot is a serialisation failure instead,
    so that the transaction runs again and sees it.
    """
    return compiled(postgresql.insert(table).on_conflict_do_nothing())


def replace_guarded(table: Table, *columns: str, guard: str = "version") -> Sql:
    """UPDATE of `columns` and the guard, of the row with this primary key and guard value `expected`."""
    same_row = [column == bindparam(column.name) for column in table.primary_key.columns]
    guarded = and_(*same_row, table.c[guard] == bindparam("expected"))
    return compiled(update(table).where(guarded).values({name: bindparam(name) for name in (*columns, guard)}))


def insert_many(table: Table, *columns: str, overwrites: Sequence[str] = ()) -> Many:
    """INSERT of rows; of one that exists `overwrites` are replaced, or it is left alone and not counted."""
    then = "DO NOTHING"
    if overwrites:
        key = ", ".join(_quoted(column.name) for column in table.primary_key.columns)
        then = f"({key}) DO UPDATE SET " + ", ".join(
            f"{_quoted(name)} = excluded.{_quoted(name)}" for name in overwrites
        )
    head = f"INSERT INTO {_quoted(table.name)} ({', '.join(map(_quoted, columns))}) VALUES "  # noqa: S608
    tail = f" ON CONFLICT {then}"
    return Many(len(columns), head, tail, f"{head}({', '.join(['%s'] * len(columns))}){tail}")


def replace_many(table: Table, *columns: str, guard: str) -> Many:
    """UPDATE of `columns`, for rows (*columns, *primary key, the guard's value that the stored row must have)."""
    name = _quoted(table.name)
    found = [*(column.name for column in table.primary_key.columns), guard]
    taken = ", ".join(f"{_quoted(column)} = v.column{n}" for n, column in enumerate(columns, start=1))
    same = " AND ".join(f"{name}.{_quoted(column)} = v.column{n}" for n, column in enumerate(found, len(columns) + 1))
    taken_from_row = ", ".join(f"{_quoted(column)} = %s" for column in columns)
    same_row = " AND ".join(f"{_quoted(column)} = %s" for column in found)
    return Many(
        len(columns) + len(found),
        f"UPDATE {name} SET {taken} FROM (VALUES ",  # noqa: S608  # only names of tables.py
        f") AS v WHERE {same}",
        f"UPDATE {name} SET {taken_from_row} WHERE {same_row}",  # noqa: S608
    )


def _quoted(name: str) -> str:
    return f'"{name}"'
