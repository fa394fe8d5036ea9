"""Versions as user code likes them (pandas, Arrow), and what user code returns as a stream of rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import duckdb
import pyarrow as pa

from factory.domain.datasets import FileEntry
from factory.errors import InvalidRequestError
from factory.worker.data.columns import TableStream, conforming_stream
from factory.worker.data.tables import open_version

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_arrow", "read_pandas", "stream_of"]

_BATCH_ROWS = 65_536


def read_arrow(table_dir: Path, files: Sequence[FileEntry], *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the version's rows in file order. Raises: as `tables.file_paths`; InvalidRequestError: unknown column."""
    dataset = open_version(table_dir, files)
    unknown = [name for name in columns or () if name not in dataset.schema.names]
    if unknown:
        raise InvalidRequestError(
            f"the version has no column '{unknown[0]}'", hint=f"columns: {', '.join(dataset.schema.names[:20])}"
        )
    return dataset.to_table(columns=list(columns) if columns is not None else None)


def read_pandas(table_dir: Path, files: Sequence[FileEntry], *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the version as a DataFrame with a range index; nulls of numeric columns are NaN."""
    return read_arrow(table_dir, files, columns=columns).to_pandas()


def stream_of(value: object) -> TableStream:
    """Return a job's table as a stream of rows.

    Args:
        value: pandas DataFrame, Arrow table, record batch or reader, DuckDB relation, or a mapping of columns.
    Raises:
        InvalidRequestError: something else, or columns that a dataset cannot hold.
    """
    match value:
        case pa.RecordBatchReader():
            return conforming_stream(value.schema, value)
        case pa.RecordBatch():
            return conforming_stream(value.schema, iter((value,)))
        case pa.Table():
            return conforming_stream(value.schema, iter(value.to_batches(max_chunksize=_BATCH_ROWS)))
        case duckdb.DuckDBPyRelation():
            reader = value.to_arrow_reader(_BATCH_ROWS)
            return conforming_stream(reader.schema, reader)
        case Mapping():
            return stream_of(_table(value))
        case _:
            pandas = sys.modules.get("pandas")  # who returns a DataFrame has imported it; we need not
            if pandas is not None and isinstance(value, pandas.DataFrame):
                return stream_of(_from_pandas(cast("pd.DataFrame", value)))
            raise InvalidRequestError(
                f"a dataset cannot be written from a {type(value).__name__}",
                hint="return a pandas DataFrame, an Arrow table, a DuckDB relation or a dict of columns",
            )


def _table(columns: Mapping[object, object]) -> pa.Table:
    try:
        return pa.table({str(name): column for name, column in columns.items()})
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InvalidRequestError(f"the columns do not make a table: {exc}") from exc


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    """Named index levels become columns; an unnamed one of whole numbers (after a filter) is dropped."""
    names = [name for name in frame.index.names if name is not None]
    if names:
        frame = frame.reset_index()
    elif frame.index.dtype.kind not in "iu":
        raise InvalidRequestError(
            "the DataFrame has an index without a name that is no row number", hint="name it, or call reset_index()"
        )
    odd = [name for name in frame.columns if not isinstance(name, str)]
    if odd:
        raise InvalidRequestError(f"the column name {odd[0]!r} is no text", hint="rename the columns to texts")
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InvalidRequestError(f"the DataFrame cannot be stored: {exc}", hint="one type for each column") from exc
