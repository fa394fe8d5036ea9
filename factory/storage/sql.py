"""Statements, written once with SQLAlchemy Core and compiled to text for both databases when the module is imported.

Executing text on the driver's own cursor costs a few microseconds; Core's execution layer would cost tens per
statement, and every column here is a string or an integer, so it has nothing to convert. Bind parameters carry the
column's name, or the one given to `bindparam`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Column, ColumnElement, Delete, Insert, Select, Table, Update, and_, bindparam, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg

from factory.domain.tenancy import Scope

__all__ = ["Params", "Query", "Scoped", "Sql", "compiled", "insert_new", "replace_guarded", "scoped", "upsert_new"]

Params: TypeAlias = Mapping[str, object]
Query: TypeAlias = Select[*tuple[Any, ...]]
Statement: TypeAlias = Query | Insert | Update | Delete

_SQLITE = sqlite.dialect(paramstyle="named")
_POSTGRESQL = psycopg.dialect()


@dataclass(frozen=True, slots=True)
class Sql:
    """One statement in the words of each database."""

    sqlite: str
    postgresql: str


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


def upsert_new(table: Table, *columns: str) -> Sql:
    """INSERT, or overwrite `columns` of the row with the same primary key."""
    insert = postgresql.insert(table)
    return compiled(
        insert.on_conflict_do_update(
            index_elements=list(table.primary_key.columns), set_={name: insert.excluded[name] for name in columns}
        )
    )


def replace_guarded(table: Table, *columns: str, guard: str = "version") -> Sql:
    """UPDATE of `columns` and the guard, of the row with this primary key and guard value `expected`."""
    same_row = [column == bindparam(column.name) for column in table.primary_key.columns]
    guarded = and_(*same_row, table.c[guard] == bindparam("expected"))
    return compiled(update(table).where(guarded).values({name: bindparam(name) for name in (*columns, guard)}))
