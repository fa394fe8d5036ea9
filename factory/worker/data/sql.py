"""SQL over a version's files: quoting, a closed connection, and the guard for expressions that people wrote.

A contract is a tenant's text. So its expression runs in a connection that can read the version's files and nothing else
(no other file, no network, no extension, configuration locked), and only if it is one scalar expression of columns,
constants and functions that give the same answer each time.
"""

# ruff: noqa: S608 - SQL is built here; every name and text in it goes through identifier and literal

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import duckdb
import pyarrow.parquet as pq

from factory.errors import InvalidRequestError

__all__ = ["POSITION", "check_scalar_expression", "identifier", "literal", "open_files"]

POSITION = "__factory_position"  # hidden column: number of the row over all files, from 0
_MAX_EXPRESSION = 2_000
_SCALAR_CLASSES = frozenset(
    {"COLUMN_REF", "CONSTANT", "FUNCTION", "CAST", "TYPE", "CASE", "COMPARISON", "CONJUNCTION", "OPERATOR", "BETWEEN"}
)


def identifier(name: str) -> str:
    """Return a quoted SQL identifier.

    >>> print(identifier('a "b"'))
    "a ""b"\""
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a quoted SQL text.

    >>> print(literal("it's"))
    'it''s'
    """
    return "'" + text.replace("'", "''") + "'"


def open_files(files: Sequence[Path], *, threads: int, spill_dir: Path) -> duckdb.DuckDBPyConnection:
    """Open a closed connection with the view `files`: all columns and `POSITION`, in file order.

    Args:
        files: Parquet files of one schema, in the version's order.
        threads: DuckDB's threads.
        spill_dir: where DuckDB may write what does not fit in memory.
    """
    paths = ", ".join(literal(str(path)) for path in files)
    connection = duckdb.connect()
    for statement in (
        "SET TimeZone = 'UTC'",  # stamps with a zone read the same on every machine
        f"SET threads = {int(threads)}",
        f"SET temp_directory = {literal(str(spill_dir))}",
        "SET autoinstall_known_extensions = false",
        "SET autoload_known_extensions = false",
        f"SET allowed_paths = [{paths}]",
        "SET enable_external_access = false",
        "SET lock_configuration = true",
    ):
        _ = connection.execute(statement)
    starts = [0]
    for path in files:
        starts.append(starts[-1] + pq.read_metadata(path).num_rows)
    before = ", ".join(str(rows) for rows in starts[:-1])
    _ = connection.execute(
        f"CREATE TEMP VIEW files AS SELECT *, ([{before}]::BIGINT[])[file_index::BIGINT + 1] + file_row_number "
        f"AS {POSITION} FROM read_parquet([{paths}])"
    )
    return connection


def check_scalar_expression(connection: duckdb.DuckDBPyConnection, expression: str) -> str:
    """Return the expression in brackets, safe to put into a SELECT.

    Raises:
        InvalidRequestError: it does not parse, is not one scalar expression, or calls a function that is not allowed.
    """
    bracketed = f"(\n{expression}\n)"
    if len(expression) > _MAX_EXPRESSION:
        raise InvalidRequestError(f"the expression is longer than {_MAX_EXPRESSION:,} letters")
    row = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {bracketed}"]).fetchone()
    assert row is not None
    tree = cast("dict[str, object]", json.loads(row[0]))
    if tree.get("error"):
        raise InvalidRequestError(f"the expression does not parse: {tree.get('error_message')}")
    nodes = tuple(_nodes(tree))
    selects = [node for node in nodes if "select_list" in node]
    statements = cast("list[object]", tree["statements"])
    if len(statements) != 1 or len(selects) != 1 or len(cast("list[object]", selects[0]["select_list"])) != 1:
        raise InvalidRequestError("the expression must be one scalar expression", hint="no subquery, no second value")
    if cast("dict[str, object]", selects[0]["from_table"])["type"] != "EMPTY" or any(
        selects[0].get(part)
        for part in ("where_clause", "group_expressions", "having", "qualify", "modifiers", "sample")
    ):
        raise InvalidRequestError("the expression must be one scalar expression", hint="no FROM, WHERE or GROUP BY")
    for node in nodes:
        kind = node.get("class")
        if kind is not None and kind not in _SCALAR_CLASSES:
            raise InvalidRequestError(
                f"the expression holds a {str(kind).lower()}, which is not allowed",
                hint="use columns, constants, CASE, CAST and scalar functions",
            )
    for name in sorted({str(node["function_name"]) for node in nodes if node.get("class") == "FUNCTION"}):
        if not _is_steady(connection, name):
            raise InvalidRequestError(
                f"the expression calls {name}(), which is not allowed",
                hint="use scalar functions that give the same answer each time",
            )
    return bracketed


def _is_steady(connection: duckdb.DuckDBPyConnection, function: str) -> bool:
    """True for scalar functions and macros whose answer depends on their arguments alone."""
    rows = connection.execute(
        "SELECT DISTINCT function_type, stability FROM duckdb_functions() WHERE function_name = ?", [function.lower()]
    ).fetchall()
    kinds = {kind for kind, _ in rows}
    answers = {stability for kind, stability in rows if kind == "scalar"}
    if "aggregate" in kinds or "VOLATILE" in answers:
        return False
    return "CONSISTENT" in answers or (not answers and "macro" in kinds)


def _nodes(value: object) -> Iterator[dict[str, object]]:
    """Walk all objects of a JSON tree."""
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        yield entries
        for entry in entries.values():
            yield from _nodes(entry)
    elif isinstance(value, list):
        for entry in cast("list[object]", value):
            yield from _nodes(entry)
