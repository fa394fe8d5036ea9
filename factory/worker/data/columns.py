"""Which columns a version may have, and how other Arrow types become them.

Delta Lake stores fewer types than Arrow has. What can be kept without loss is converted, always in the same way, so
that equal data give equal files; what cannot is refused by name, with the way out.

NaN becomes null because Parquet's statistics leave it out: DuckDB 2.0 answers `isnan(x)` and `x > 7` from them, and a
NaN in the file is then found by some queries and not by others.

| Arrow                                  | stored as                                       |
|----------------------------------------|-------------------------------------------------|
| uint8, uint16, uint32, uint64          | int16, int32, int64, int64 (checked)            |
| large and view strings, binaries       | string, binary                                  |
| dictionary, run-end encoded, extension | their values                                    |
| timestamp of any unit                  | microseconds (checked); with a zone: UTC        |
| time of day                            | text "HH:MM:SS…"                                |
| float16, date64, null                  | float32, date32, string                         |
| NaN in a column of floats              | null                                            |
| decimal of <= 38 digits                | decimal128                                      |
| duration, interval, wider decimals     | refused                                         |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from factory.domain.datasets import Column
from factory.errors import InvalidRequestError

__all__ = ["RESERVED_PREFIX", "TableStream", "check_column_names", "columns_of", "conforming_stream", "storable_schema"]

RESERVED_PREFIX = "__factory"  # names of hidden columns while a version is measured
_DUCKDB_COLUMNS = ("file_index", "file_row_number")  # a column of that name would hide DuckDB's own


@dataclass(frozen=True, slots=True)
class TableStream:
    """A table on its way: rows in order, never all in memory. `batches` can be walked once."""

    schema: pa.Schema  # as `storable_schema` gives it
    batches: Iterator[pa.RecordBatch]  # of that schema


def conforming_stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> TableStream:
    """Return the table with storable columns.

    Raises:
        InvalidRequestError: a column's name or type cannot be stored; while walking: a value does not fit.
    """
    target = storable_schema(schema)
    return TableStream(target, (_conform(batch, target) for batch in batches))


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema that a version of this table has: storable types, all nullable, no metadata."""
    check_column_names(schema.names)
    return pa.schema([pa.field(field.name, _storable(field.name, field.type)) for field in schema])


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """Return the manifest's columns."""
    return tuple(Column(field.name, str(field.type)) for field in schema)


def check_column_names(names: Iterable[str]) -> None:
    """Refuse names that SQL or Delta could not tell apart.

    Raises:
        InvalidRequestError: no columns, an empty name, two names alike but for case, a control character or our prefix.
    """
    seen: dict[str, str] = {}
    for index, name in enumerate(names):
        if not name.strip():
            raise InvalidRequestError(
                f"column {index + 1} has no name",
                hint="name it; from pandas: to_csv(index=False)",
                facts={"column": index + 1},
            )
        if (
            name.startswith(RESERVED_PREFIX)
            or name.casefold() in _DUCKDB_COLUMNS
            or not name.isprintable()
            or len(name) > 255
        ):
            raise InvalidRequestError(
                f"'{name[:60]}' cannot name a column",
                hint=f"printable, <= 255 letters, not '{RESERVED_PREFIX}…', {' or '.join(_DUCKDB_COLUMNS)}",
            )
        folded = name.casefold()
        if folded in seen:
            raise InvalidRequestError(
                f"two columns are named '{seen[folded]}' and '{name}'", hint="names must differ in more than case"
            )
        seen[folded] = name
    if not seen:
        raise InvalidRequestError("the table has no columns")


def _conform(batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    for field, array in zip(target, batch.columns, strict=True):
        plain = array.storage if isinstance(array, pa.ExtensionArray) else array
        if plain.type.equals(field.type):
            arrays.append(_without_nan(plain))
            continue
        try:
            arrays.append(_without_nan(plain.cast(field.type, safe=True)))
        except pa.ArrowInvalid as exc:
            raise InvalidRequestError(
                f"column '{field.name}' of type {plain.type} holds a value that does not fit {field.type}",
                hint="round or convert it before you write it",
            ) from exc
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def _without_nan(array: pa.Array) -> pa.Array:
    if not pt.is_floating(array.type):
        return array
    nan = pc.call_function("is_nan", [array])
    if not pc.call_function("any", [nan]).as_py():
        return array
    return pc.call_function("if_else", [nan, pa.scalar(None, array.type), array])


def _storable(name: str, kind: pa.DataType) -> pa.DataType:
    """Return the stored type of a column of type `kind`."""
    match kind:
        case pa.BaseExtensionType():
            return _storable(name, kind.storage_type)
        case pa.DictionaryType() | pa.RunEndEncodedType():
            return _storable(name, kind.value_type)
        case pa.ListType() | pa.LargeListType() | pa.FixedSizeListType() | pa.ListViewType() | pa.LargeListViewType():
            return pa.list_(_storable(name, kind.value_type))
        case pa.StructType():
            return pa.struct([pa.field(part.name, _storable(f"{name}.{part.name}", part.type)) for part in kind.fields])
        case pa.MapType():
            return pa.map_(_storable(name, kind.key_type), _storable(name, kind.item_type))
        case pa.TimestampType():
            return pa.timestamp("us", "UTC" if kind.tz else None)
        case _:
            return _storable_scalar(name, kind)


def _storable_scalar(name: str, kind: pa.DataType) -> pa.DataType:
    widened = _WIDENED.get(kind)
    if widened is not None:
        return widened
    if pt.is_time(kind):
        return pa.string()
    if pt.is_fixed_size_binary(kind):
        return pa.binary()
    if pt.is_decimal(kind) and kind.precision <= 38:
        return pa.decimal128(kind.precision, kind.scale)
    if kind in _KEPT:
        return kind
    raise InvalidRequestError(
        f"column '{name}' has the type {kind}, which a dataset cannot hold",
        hint="write a duration as a number of seconds" if pt.is_duration(kind) else "convert it to a number or a text",
        facts={"column": name, "type": str(kind)},
    )


_WIDENED: dict[pa.DataType, pa.DataType] = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.null(): pa.string(),
}
_KEPT = frozenset(
    {
        pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(),
        pa.string(), pa.binary(), pa.date32(),
    }
)  # fmt: skip
