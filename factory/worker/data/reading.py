"""Open an upload (CSV, Parquet, Arrow IPC) as a stream of rows, in file order.

CSV: UTF-8, one header line, separator , ; tab or |, quote ". Types are sniffed over the whole file by DuckDB; nothing
is guessed in silence: the dialect is fixed from the header, comment signs, padding and skipping of bad rows are off,
and a broken file is refused with its line and column.
"""

# ruff: noqa: S608 - SQL is built here; every name and text in it goes through sql.identifier and sql.literal

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from factory.errors import InvalidRequestError, did_you_mean
from factory.worker.data.columns import TableStream, check_column_names, conforming_stream
from factory.worker.data.sql import literal

__all__ = ["FORMATS", "open_upload"]

FORMATS = ("csv", "parquet", "arrow")
_BATCH_ROWS = 65_536
_SEPARATORS = (",", ";", "\t", "|")
_MAX_FIELD = 16 * 1024 * 1024  # bytes of one CSV field, while we look for a broken line


@contextmanager
def open_upload(path: Path, format: str, *, threads: int = 1) -> Iterator[TableStream]:
    """Open a file; the stream is good until the context ends.

    Args:
        path: the file.
        format: "csv", "parquet" or "arrow" (IPC file or stream, Feather 2).
        threads: for DuckDB.
    Raises:
        InvalidRequestError: not such a file, or broken; `facts` has line and column where they are known.
    """
    match format:
        case "csv":
            with _open_csv(path, threads) as stream:
                yield stream
        case "parquet":
            with _refusing(path, "Parquet"), pq.ParquetFile(path) as file:
                yield conforming_stream(file.schema_arrow, _walk(file.iter_batches(_BATCH_ROWS), path, "Parquet"))
        case "arrow":
            with _refusing(path, "Arrow IPC"), pa.memory_map(str(path)) as source:
                schema, batches = _open_ipc(source)
                yield conforming_stream(schema, _walk(batches, path, "Arrow IPC"))
        case _:
            raise InvalidRequestError(
                f"there is no format '{format}'{did_you_mean(format, FORMATS)}", hint=f"allowed: {', '.join(FORMATS)}"
            )


# --- Parquet and Arrow --------------------------------------------------------------------------------------------


@contextmanager
def _refusing(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as exc:
        raise _broken(path, name, exc) from exc


def _walk(batches: Iterator[pa.RecordBatch], path: Path, name: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as exc:
        raise _broken(path, name, exc) from exc


def _broken(path: Path, name: str, exc: Exception) -> InvalidRequestError:
    text = str(exc).splitlines()
    return InvalidRequestError(f"'{path.name}' is not a readable {name} file: {text[0][:200] if text else exc!r}")


def _open_ipc(source: pa.MemoryMappedFile) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        file = pyarrow.ipc.open_file(source)
    except pa.ArrowInvalid:  # no footer: then it is a stream
        source.seek(0)
        stream = pyarrow.ipc.open_stream(source)
        return stream.schema, iter(stream)
    return file.schema, (file.get_batch(index) for index in range(file.num_record_batches))


# --- CSV ----------------------------------------------------------------------------------------------------------


@contextmanager
def _open_csv(path: Path, threads: int) -> Iterator[TableStream]:
    separator, names = _header(path)
    connection = duckdb.connect()
    try:
        _ = connection.execute("SET TimeZone = 'UTC'").execute(f"SET threads = {int(threads)}")
        # Nothing of the dialect is left to the sniffer: it would take '#' for a comment and drop rows in silence.
        query = (
            f"SELECT * FROM read_csv({literal(str(path))}, delim = {literal(separator)}, quote = '\"', escape = '\"', "
            f"comment = '', skip = 0, header = true, names = [{', '.join(literal(name) for name in names)}], "
            f"strict_mode = true, null_padding = false, ignore_errors = false, sample_size = -1)"
        )
        try:
            reader = connection.sql(query).to_arrow_reader(_BATCH_ROWS)
        except duckdb.Error as exc:
            raise _csv_error(path, separator, names, exc) from exc
        yield conforming_stream(reader.schema, _walk_csv(reader, path, separator, names))
    finally:
        connection.close()


def _walk_csv(
    reader: pa.RecordBatchReader, path: Path, separator: str, names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (duckdb.Error, pa.ArrowException, OSError) as exc:
        raise _csv_error(path, separator, names, exc) from exc


def _header(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the separator and the column names: the separator that splits the first line into most names."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except UnicodeDecodeError as exc:
        raise _not_utf8(path, exc.start) from exc
    if not line.strip():
        raise InvalidRequestError(
            f"'{path.name}' is empty", hint="the first line of a CSV names the columns", facts={"line": 1}
        )
    splits = {separator: next(csv.reader([line], delimiter=separator)) for separator in _SEPARATORS}
    separator = max(_SEPARATORS, key=lambda each: len(splits[each]))  # the first of equals
    names = tuple(name.strip() for name in splits[separator])
    if all(_is_number(name) for name in names):
        raise InvalidRequestError(
            f"line 1 of '{path.name}' holds numbers, not column names", hint="add a header line", facts={"line": 1}
        )
    check_column_names(names)
    return separator, names


def _is_number(text: str) -> bool:
    try:
        _ = float(text)
    except ValueError:
        return False
    return True


def _csv_error(path: Path, separator: str, names: Sequence[str], cause: Exception) -> InvalidRequestError:
    """Find the broken line ourselves: DuckDB's sniffer does not always name it."""
    limit = csv.field_size_limit(_MAX_FIELD)
    line, start = 1, 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=separator, strict=True)
            for row in rows:
                start, line = line, rows.line_num + 1
                if row and len(row) != len(names):
                    return _wrong_width(path, start, row, names)
    except csv.Error as exc:
        return InvalidRequestError(
            f"'{path.name}' is broken at line {line}: {exc}", hint="is a quote left open?", facts={"line": line}
        )
    except UnicodeDecodeError as exc:
        return _not_utf8(path, exc.start)
    finally:
        _ = csv.field_size_limit(limit)
    text = str(cause).splitlines()
    return InvalidRequestError(f"'{path.name}' is not a readable CSV file: {text[0][:200] if text else cause!r}")


def _wrong_width(path: Path, line: int, row: Sequence[str], names: Sequence[str]) -> InvalidRequestError:
    short = len(row) < len(names)
    column = names[len(row)] if short else f"column {len(names) + 1}"
    what = f"'{column}' is missing" if short else f"{column} has no name"
    return InvalidRequestError(
        f"line {line} of '{path.name}' has {len(row)} fields, the header has {len(names)}: {what}",
        hint="quote fields that hold the separator",
        facts={"line": line, "column": column},
    )


def _not_utf8(path: Path, _start: int) -> InvalidRequestError:
    line = 1
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                _ = raw.decode("utf-8")
            except UnicodeDecodeError as exc:
                return InvalidRequestError(
                    f"line {line} of '{path.name}' is not UTF-8 (byte {exc.start + 1} is 0x{raw[exc.start]:02x})",
                    hint="save it as UTF-8",
                    facts={"line": line, "byte": exc.start + 1},
                )
    return InvalidRequestError(f"'{path.name}' is not UTF-8", hint="save it as UTF-8", facts={"line": line})
