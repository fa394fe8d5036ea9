"""Measure a contract: each check becomes DuckDB SQL over the version's Parquet files.

What is measured, so that two people get the same numbers:
- Missing is null: NaN was stored as null (columns.py).
- Order, runs and "first" follow the file's order (row numbers count from 1 over all files).
- order: a step backward is a row whose stamp is earlier than that of the row with a stamp before it (of its key). Rows
  without a stamp have no place in time: they fail the check too.
- duplicates: rows that repeat a stamp of an earlier row (of the same key).
- frequency: between neighbours in time, round(distance / step) - 1 steps are missing; neighbours closer than half a
  step are one step too short. The share is of all steps from the first to the last stamp of the key.
- stuck: the longest run of equal observed values. A missing value does not end a run: a sensor that drops out for an
  hour and comes back with the same figure is as stuck as before.
- Long form: order, duplicates, frequency and stuck are measured for each key; the worst 50 are reported one by one, the
  others as one line with their worst figure.
Above class `internal` examples name rows, never values, and keys are numbered.
"""

# ruff: noqa: S608 - SQL is built here; every name and text in it goes through sql.identifier and sql.literal

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

import duckdb

from factory.domain.datasets import Check, CheckKind, Contract, Measurement, SeriesShape
from factory.errors import InvalidRequestError, did_you_mean
from factory.quality.contracts import ALL_COLUMNS, VALUE_COLUMNS
from factory.worker.data.sql import POSITION, check_scalar_expression, identifier, open_files

__all__ = ["measure"]

_MAX_EXAMPLES = 5
_MAX_KEYS = 50  # reported one by one; the rest in one line
_OPEN_CLASSES = ("public", "internal")  # examples may show values
_INTEGERS = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT",
    "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
)  # fmt: skip
_FLOATS = ("FLOAT", "DOUBLE")


def measure(
    files: Sequence[Path], contract: Contract, *, data_class: str | None = None, threads: int = 1
) -> tuple[Measurement, ...]:
    """Measure every check of the contract on a version's files.

    Args:
        files: Parquet files of one schema, in the version's order.
        contract: one that `check_contract` accepts.
        data_class: decides what examples may show; None = the contract's.
        threads: DuckDB's threads.
    Returns: measurements in the contract's order; what could not be measured says so in `error`.
    """
    shown = (data_class or contract.data_class) in _OPEN_CLASSES
    with tempfile.TemporaryDirectory(prefix="factory-checks-") as spill:
        connection = open_files(files, threads=threads, spill_dir=Path(spill))
        try:
            return _Session.of(connection, contract, shown).measure_all()
        finally:
            connection.close()


class _Unmeasurable(Exception):
    """The check cannot be measured; the text says why."""


@dataclass(slots=True)
class _Session:
    """One connection, one contract."""

    connection: duckdb.DuckDBPyConnection
    contract: Contract
    shown: bool  # may examples show values?
    types: dict[str, str] = field(default_factory=dict)  # column -> DuckDB type, in table order
    time_error: str = ""  # why there is no time
    series_ready: bool = False

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, contract: Contract, shown: bool) -> _Session:
        """Make the view `version`: the files' columns, the row's position and the time that an expression gives."""
        session = cls(connection, contract, shown)
        derived = ""
        series = contract.series
        session.types = session._types_of("SELECT * FROM files")
        if series is not None and series.time_expression:
            if series.time in session.types:
                session.time_error = f"the table has a column '{series.time}' already; give the expression another name"
            else:
                try:
                    expression = check_scalar_expression(connection, series.time_expression)
                    derived = f", {expression} AS {identifier(series.time)}"
                    session.types = session._types_of(f"SELECT *{derived} FROM files")
                except (InvalidRequestError, duckdb.Error) as exc:
                    derived = ""
                    session.time_error = f"time_expression: {session._reason(exc)}"
        _ = connection.execute(f"CREATE TEMP VIEW version AS SELECT *{derived} FROM files")
        return session

    def _types_of(self, query: str) -> dict[str, str]:
        rows = self.connection.execute(f"DESCRIBE {query}").fetchall()
        return {str(name): str(kind) for name, kind, *_ in rows if name != POSITION}

    def measure_all(self) -> tuple[Measurement, ...]:
        return tuple(m for check in self.contract.checks for m in self._measure(check))

    def _measure(self, check: Check) -> Iterator[Measurement]:
        try:
            yield from self._measured(check)
        except (_Unmeasurable, duckdb.Error) as exc:
            yield _failure(check, "", self._reason(exc))

    def _measured(self, check: Check) -> Sequence[Measurement]:
        match check.kind:
            case CheckKind.ROW_COUNT:
                rows = self._count("SELECT count(*) FROM files")
                return [Measurement(check.id, "", float(rows), 0, rows)]
            case CheckKind.REQUIRED:
                return [self._required(check, name) for name in self._expand(check.columns)]
            case CheckKind.TYPE:
                return self._each_column(check, lambda names: [self._type(check, name) for name in names])
            case CheckKind.NULL_SHARE:
                return self._each_column(check, lambda names: self._null_shares(check, names))
            case CheckKind.RANGE:
                return self._each_column(check, lambda names: self._ranges(check, names))
            case CheckKind.UNIQUE:
                return [self._unique(check)]
            case CheckKind.ORDER:
                return self._series_check(check, *self._order())
            case CheckKind.DUPLICATES:
                return self._series_check(check, *self._duplicates())
            case CheckKind.FREQUENCY:
                return self._series_check(check, *self._frequency(check))
            case CheckKind.STUCK:
                return self._stuck(check)
            case _:
                assert_never(check.kind)

    # --- columns ---

    def _expand(self, names: Sequence[str]) -> tuple[str, ...]:
        """Replace "*" and "*values" by the columns that they mean; order kept, each once."""
        out: dict[str, None] = {}
        for name in names:
            if name == ALL_COLUMNS:
                out.update(dict.fromkeys(self.types))
            elif name == VALUE_COLUMNS:
                out.update(dict.fromkeys(self._value_columns()))
            else:
                out[name] = None
        if not out:
            raise _Unmeasurable(f"the table has no column that {', '.join(names)} means")
        return tuple(out)

    def _value_columns(self) -> tuple[str, ...]:
        series = self._series_shape()
        if series.values and ALL_COLUMNS not in series.values:
            return series.values
        out = {series.time, *series.key, *series.exclude}
        return tuple(name for name, kind in self.types.items() if name not in out and _is_numeric(kind))

    def _series_shape(self) -> SeriesShape:
        if self.contract.series is None:
            raise _Unmeasurable("the contract has no series")
        return self.contract.series

    def _each_column(
        self, check: Check, measured: Callable[[Sequence[str]], Sequence[Measurement]]
    ) -> Sequence[Measurement]:
        """Measure the columns that are there; those that are not get an error each."""
        names = self._expand(check.columns)
        there = [name for name in names if name in self.types]
        absent = [_failure(check, name, self._no_column(name)) for name in names if name not in self.types]
        return [*(measured(there) if there else ()), *absent]

    def _no_column(self, name: str) -> str:
        if self.time_error and self.contract.series is not None and name == self.contract.series.time:
            return self.time_error
        return f"there is no column '{name}'{did_you_mean(name, self.types)}"

    def _required(self, check: Check, name: str) -> Measurement:
        if name in self.types:
            return Measurement(check.id, name, 0.0, 0, 1)
        return Measurement(check.id, name, 1.0, 1, 1, (self._no_column(name),))

    def _type(self, check: Check, name: str) -> Measurement:
        kind = self.types[name]
        fits = _is_of(kind, check.dtype)
        return Measurement(check.id, name, float(not fits), int(not fits), 1, () if fits else (kind,))

    def _null_shares(self, check: Check, names: Sequence[str]) -> Sequence[Measurement]:
        counts = ", ".join(f"count({_column(name)})" for name in names)
        rows, *present = self._row(f"SELECT count(*), {counts} FROM version")
        out: list[Measurement] = []
        for name, there in zip(names, present, strict=True):
            nulls = rows - there
            out.append(Measurement(check.id, name, nulls / rows if rows else 0.0, nulls, rows))
        return out

    def _ranges(self, check: Check, names: Sequence[str]) -> Sequence[Measurement]:
        numeric = [name for name in names if _is_numeric(self.types[name])]
        others = [_failure(check, n, f"'{n}' is {self.types[n]}, not a number") for n in names if n not in numeric]
        if not numeric:
            return others
        faults = {name: _outside(_column(name), check) for name in numeric}
        counts = ", ".join(f"count({_column(n)}), count(*) FILTER (WHERE {faults[n]})" for n in numeric)
        figures = self._row(f"SELECT {counts} FROM version")
        out: list[Measurement] = []
        for index, name in enumerate(numeric):
            present, failed = figures[2 * index], figures[2 * index + 1]
            examples: tuple[str, ...] = ()
            if failed:
                examples = self._examples(
                    f"SELECT {POSITION}, CAST({_column(name)} AS VARCHAR) FROM version "
                    f"WHERE {faults[name]} ORDER BY 1 LIMIT {_MAX_EXAMPLES}"
                )
            out.append(Measurement(check.id, name, float(failed), failed, present, examples))
        return [*out, *others]

    def _unique(self, check: Check) -> Measurement:
        names = self._expand(check.columns)
        for name in names:
            if name not in self.types:
                raise _Unmeasurable(self._no_column(name))
        columns = ", ".join(_column(name) for name in names)
        rows, distinct = self._row(
            f"SELECT coalesce(sum(n), 0)::BIGINT, count(*) FROM (SELECT count(*) AS n FROM version GROUP BY {columns})"
        )
        examples: tuple[str, ...] = ()
        if rows > distinct:
            text = " || ', ' || ".join(f"coalesce(CAST({_column(name)} AS VARCHAR), 'null')" for name in names)
            examples = self._examples(
                f"SELECT min({POSITION}), any_value({text}) || ' (' || count(*) || ' times)' "
                f"FROM version GROUP BY {columns} HAVING count(*) > 1 ORDER BY 1 LIMIT {_MAX_EXAMPLES}"
            )
        return Measurement(check.id, "", float(rows - distinct), rows - distinct, rows, examples)

    # --- series ---

    def _prepare_series(self) -> None:
        """Make `keys` (key_id, subject) and `series` (position, key_id, t in microseconds), in file order."""
        if self.series_ready:
            return
        shape = self._series_shape()
        if self.time_error:
            raise _Unmeasurable(self.time_error)
        for name in (shape.time, *shape.key):
            if name not in self.types:
                raise _Unmeasurable(self._no_column(name))
        kind = self.types[shape.time]
        if not kind.startswith(("TIMESTAMP", "DATE")):
            raise _Unmeasurable(f"'{shape.time}' is {kind}, not a time; say in time_expression how to read it")
        stamp = f"epoch_us(CAST({_column(shape.time)} AS TIMESTAMP))"
        if shape.key:
            names = [_column(name) for name in shape.key]
            text = " || ' / ' || ".join(f"coalesce(CAST({name} AS VARCHAR), 'null')" for name in names)
            parts = ", ".join(f"{name} AS k{index}" for index, name in enumerate(names))
            subject = "label" if self.shown else "'series ' || key_id"
            same = " AND ".join(f"{name} IS NOT DISTINCT FROM keys.k{index}" for index, name in enumerate(names))
            self._run(
                f"CREATE OR REPLACE TEMP TABLE keys AS SELECT *, {subject} AS subject FROM ("
                "SELECT *, row_number() OVER (ORDER BY first_row) AS key_id FROM ("
                f"SELECT {parts}, any_value({text}) AS label, min({_column(POSITION)}) AS first_row "
                f"FROM version GROUP BY {', '.join(names)}))"
            )
            source = (
                f"SELECT {_column(POSITION)} AS position, keys.key_id, {stamp} AS t FROM version JOIN keys ON {same}"
            )
        else:
            self._run("CREATE OR REPLACE TEMP TABLE keys AS SELECT 0 AS key_id, '' AS subject")
            source = f"SELECT {_column(POSITION)} AS position, 0 AS key_id, {stamp} AS t FROM version"
        self._run(f"CREATE OR REPLACE TEMP TABLE series AS {source} ORDER BY 1")
        self.series_ready = True

    def _order(self) -> tuple[str, str]:
        self._prepare_series()
        self._run(
            "CREATE OR REPLACE TEMP TABLE steps AS SELECT key_id, position, t, "
            "lag(t IGNORE NULLS) OVER (PARTITION BY key_id ORDER BY position) AS before FROM series"
        )
        totals = (
            "SELECT key_id, count(*) FILTER (WHERE t < before) AS value, "
            "value + count(*) FILTER (WHERE t IS NULL) AS failed, "
            "count(*) FILTER (WHERE t IS NOT NULL AND before IS NOT NULL) AS total FROM steps GROUP BY key_id"
        )
        examples = (
            f"SELECT key_id, position, CASE WHEN t IS NULL THEN 'no stamp' "
            f"ELSE {_stamp('t')} || ' after ' || {_stamp('before')} END AS text, position AS rank "
            "FROM steps WHERE t < before OR t IS NULL"
        )
        return totals, examples

    def _duplicates(self) -> tuple[str, str]:
        self._prepare_series()
        totals = (
            "SELECT key_id, count(t) - count(DISTINCT t) AS value, value AS failed, count(t) AS total "
            "FROM series GROUP BY key_id"
        )
        examples = (
            f"SELECT key_id, min(position) AS position, {_stamp('t')} || ' (' || count(*) || ' times)' AS text, "
            "min(position) AS rank FROM series WHERE t IS NOT NULL GROUP BY key_id, t HAVING count(*) > 1"
        )
        return totals, examples

    def _frequency(self, check: Check) -> tuple[str, str]:
        self._prepare_series()
        step = (check.step_s or self._series_shape().step_s) * 1_000_000
        self._run(
            f"CREATE OR REPLACE TEMP TABLE gaps AS SELECT *, (t - before + {step // 2}) // {step} AS n FROM ("
            "SELECT key_id, position, t, lag(t) OVER (PARTITION BY key_id ORDER BY t) AS before FROM ("
            "SELECT key_id, t, min(position) AS position FROM series WHERE t IS NOT NULL GROUP BY key_id, t)) "
            "WHERE before IS NOT NULL"
        )
        # A key with one stamp has no steps; it is counted, with a share of 0.
        totals = (
            "SELECT key_id, coalesce(failed / nullif(total, 0), 0) AS value, failed, total FROM ("
            "SELECT k.key_id, coalesce(sum(CASE WHEN n = 0 THEN 1 ELSE n - 1 END), 0)::BIGINT AS failed, "
            "coalesce(sum(greatest(n, 1)), 0)::BIGINT AS total FROM keys k LEFT JOIN gaps g USING (key_id) GROUP BY 1)"
        )
        examples = (
            "SELECT key_id, position, CASE WHEN n = 0 THEN 'too short' ELSE (n - 1) || ' missing' END || ' from ' || "
            f"{_stamp('before')} || ' to ' || {_stamp('t')} AS text, -n AS rank FROM gaps WHERE n <> 1"
        )
        return totals, examples

    def _stuck(self, check: Check) -> Sequence[Measurement]:
        self._prepare_series()
        keyed = bool(self._series_shape().key)
        names = self._expand(check.columns or (VALUE_COLUMNS,))
        out: list[Measurement] = []
        for name in names:
            if name not in self.types:
                out.append(_failure(check, name, self._no_column(name)))
                continue
            if check.stuck_value is not None and not _is_numeric(self.types[name]):
                out.append(_failure(check, name, f"'{name}' is {self.types[name]}, not a number"))
                continue
            found = self._series_check(check, *self._runs(check, name))
            for m in found:
                parts = (name, m.subject) if keyed and len(names) > 1 else (m.subject if keyed else name,)
                out.append(Measurement(m.check_id, ": ".join(parts), m.value, m.failed, m.total, m.examples, m.error))
        return out

    def _runs(self, check: Check, name: str) -> tuple[str, str]:
        """Make `runs` (key_id, value v, length, first and last position) of one column."""
        observed = _column(name)
        self._run(
            "CREATE OR REPLACE TEMP TABLE runs AS WITH observed AS ("
            f"SELECT s.key_id, s.position, s.t, {observed} AS v "
            f"FROM version JOIN series s ON s.position = version.{POSITION}), "
            "numbered AS (SELECT *, row_number() OVER w AS i, lag(v) OVER w AS before, lag(t) OVER w AS t_before "
            "FROM observed WHERE v IS NOT NULL WINDOW w AS (PARTITION BY key_id ORDER BY position)), "
            "ends AS (SELECT key_id, max(i) AS last_i, max_by(t, i) AS last_t FROM numbered GROUP BY key_id), "
            "starts AS (SELECT key_id, position, t, v, i, lead(i) OVER x AS next_i, lead(t_before) OVER x AS t_end "
            "FROM numbered WHERE i = 1 OR v <> before WINDOW x AS (PARTITION BY key_id ORDER BY i)) "
            "SELECT key_id, position, t, v, coalesce(next_i, last_i + 1) - i AS length, "
            "CASE WHEN next_i IS NULL THEN last_t ELSE t_end END AS t_end FROM starts JOIN ends USING (key_id)"
        )
        asked = "true" if check.stuck_value is None else f"v = {float(check.stuck_value)!r}::DOUBLE"
        value = "CAST(v AS VARCHAR) || ' from ' || " if check.stuck_value is None else ""
        limit = int(check.run_length or 0)
        totals = (
            f"SELECT k.key_id, coalesce(max(length) FILTER (WHERE {asked}), 0) AS value, "
            f"count(*) FILTER (WHERE {asked} AND length >= {limit}) AS failed, "
            f"count(*) FILTER (WHERE {asked}) AS total FROM keys k LEFT JOIN runs USING (key_id) GROUP BY k.key_id"
        )
        examples = (
            f"SELECT key_id, position, {value}coalesce({_stamp('t')}, '?') || ' to ' || "
            f"coalesce({_stamp('t_end')}, '?') || ' (' || length || ')' AS text, -length AS rank "
            f"FROM runs WHERE {asked} AND length >= {limit}"
        )
        return totals, examples

    def _series_check(self, check: Check, totals: str, examples: str) -> list[Measurement]:
        """Report each key, the worst first; past `_MAX_KEYS` the others in one line.

        Args:
            totals: SELECT key_id, value, failed, total.
            examples: SELECT key_id, position, text, rank; the lowest ranks are shown.
        """
        self._run(f"CREATE OR REPLACE TEMP TABLE totals AS {totals}")
        worst = self.connection.execute(
            "SELECT key_id, subject, value, failed, total FROM totals JOIN keys USING (key_id) "
            f"ORDER BY failed DESC, value DESC, key_id LIMIT {_MAX_KEYS}"
        ).fetchall()
        if not worst:  # a table without rows
            return [Measurement(check.id, "", 0.0, 0, 0)]
        out: list[Measurement] = []
        for key_id, subject, value, failed, total in worst:
            shown = (
                self._examples(
                    f"SELECT position, text FROM ({examples}) WHERE key_id = {int(key_id)} ORDER BY rank, position "
                    f"LIMIT {_MAX_EXAMPLES}"
                )
                if failed
                else ()
            )
            out.append(Measurement(check.id, str(subject), float(value), int(failed), int(total), shown))
        listed = ", ".join(str(int(row[0])) for row in worst)
        count, value, failed, total = self._row(
            "SELECT count(*), coalesce(max(value), 0), coalesce(sum(failed), 0)::BIGINT, "
            f"coalesce(sum(total), 0)::BIGINT FROM totals WHERE key_id NOT IN ({listed})"
        )
        if count:
            out.append(Measurement(check.id, f"{count} other keys", float(value), int(failed), int(total)))
        return out

    # --- SQL ---

    def _run(self, query: str) -> None:
        _ = self.connection.execute(query)

    def _row(self, query: str) -> tuple[int, ...]:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return row

    def _count(self, query: str) -> int:
        return self._row(query)[0]

    def _examples(self, query: str) -> tuple[str, ...]:
        """Run SELECT position, text; values are shown only where the data's class allows it."""
        rows = self.connection.execute(query).fetchall()
        return tuple(f"row {p + 1}: {str(text)[:100]}" if self.shown else f"row {p + 1}" for p, text in rows)

    def _reason(self, exc: Exception) -> str:
        """Return why; DuckDB's own words may quote a value of the data."""
        if isinstance(exc, duckdb.Error):
            return str(exc).splitlines()[0][:200] if self.shown else f"{type(exc).__name__} (text withheld)"
        return str(exc)


def _failure(check: Check, subject: str, error: str) -> Measurement:
    return Measurement(check.id, subject, 0.0, 0, 0, error=error)


def _outside(expression: str, check: Check) -> str:
    """Return the condition for a value outside the check's bounds; null is not outside."""
    parts = [
        f"({expression}) {sign} {float(bound)!r}::DOUBLE"
        for sign, bound in (("<", check.minimum), (">", check.maximum))
        if bound is not None
    ]
    return "(" + " OR ".join(parts) + ")"


def _column(name: str) -> str:
    """Return a column of the view, qualified: a column of the data may be named like one of our own."""
    return f"version.{identifier(name)}"


def _stamp(column: str) -> str:
    return f"CAST(make_timestamp({column}) AS VARCHAR)"


def _is_numeric(kind: str) -> bool:
    return kind in _INTEGERS or kind in _FLOATS or kind.startswith("DECIMAL")


def _is_of(kind: str, dtype: str) -> bool:
    """True if a DuckDB type is of the contract's logical type."""
    match dtype:
        case "string":
            return kind == "VARCHAR"
        case "integer":
            return kind in _INTEGERS
        case "number":
            return _is_numeric(kind)
        case "boolean":
            return kind == "BOOLEAN"
        case "timestamp":
            return kind.startswith("TIMESTAMP")
        case "date":
            return kind == "DATE"
        case _:
            return False
