"""Uploads: what is read, in which types, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from factory.errors import InvalidRequestError
from factory.worker.data.reading import open_upload


def read(path: Path, format: str = "csv") -> pa.Table:
    with open_upload(path, format) as stream:
        return pa.Table.from_batches(list(stream.batches), stream.schema)


def csv_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "upload.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_types_are_found_in_the_whole_file(tmp_path: Path) -> None:
    rows = "".join(f"{index},2024-01-01 {index % 24:02}:00:00,1,007\n" for index in range(30_000))
    table = read(csv_file(tmp_path, "id,stamp,late,code\n" + rows + "30000,2024-01-02 00:00:00,1.5,010\n"))
    assert [str(kind) for kind in table.schema.types] == ["int64", "timestamp[us]", "double", "string"]
    assert table["id"].to_pylist() == list(range(30_001))  # the file's order


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_taken_from_the_header(tmp_path: Path, separator: str) -> None:
    text = separator.join(("\ufeffa", " b c ")) + "\r\n" + separator.join(("1", '"x, ""y""; z"')) + "\r\n"
    table = read(csv_file(tmp_path, text))
    assert table.to_pydict() == {"a": [1], "b c": ['x, "y"; z']}


def test_lines_that_look_like_comments_are_data(tmp_path: Path) -> None:
    assert read(csv_file(tmp_path, "a,b\n1,2\n#c,4\n"))["a"].to_pylist() == ["1", "#c"]


def test_empty_fields_are_null(tmp_path: Path) -> None:
    assert read(csv_file(tmp_path, "a,b\n1,\n,x\n")).to_pydict() == {"a": [1, None], "b": [None, "x"]}


@pytest.mark.parametrize(
    ("text", "told", "facts"),
    [
        ("a,b\n1,2\n3\n4,5\n", "has 1 fields, the header has 2: 'b' is missing", {"line": 3, "column": "b"}),
        ("a,b\n" + "1,2\n" * 5000 + "3,4,5\n6,7\n", "line 5002 of 'upload.csv' has 3 fields", {"line": 5002}),
        ('a,b\n1,"x\n2,y\n', "broken at line 2", {"line": 2}),
        (b"a,b\n1,2\n3,caf\xe9\n", "line 3 of 'upload.csv' is not UTF-8 (byte 6 is 0xe9)", {"line": 3}),
        (b"a,caf\xe9\n1,2\n", "line 1 of 'upload.csv' is not UTF-8", {"line": 1}),
        ("", "is empty", {"line": 1}),
        ("1,2\n3,4\n", "holds numbers, not column names", {"line": 1}),
        (",a\n0,1\n", "column 1 has no name", {"column": 1}),
        ("a,A\n0,1\n", "two columns are named 'a' and 'A'", {}),
        ("file_index,b\n0,1\n", "cannot name a column", {}),
    ],
)  # fmt: skip
def test_a_broken_csv_is_refused_with_its_place(
    tmp_path: Path, text: str | bytes, told: str, facts: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read(csv_file(tmp_path, text))
    assert told in str(refused.value)
    assert facts.items() <= refused.value.facts.items()


def test_parquet_and_arrow_files_keep_order_and_get_storable_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "n": pa.array([3, 1, 2], pa.uint16()),
            "c": pa.array(["x", "y", "x"]).dictionary_encode(),
            "t": pa.array([1, 2, 3], pa.timestamp("ms", "Europe/Paris")),
            "h": pa.array([1, 2, 3], pa.time32("s")),
            "l": pa.array([[1], None, [2]], pa.large_list(pa.uint8())),
        }
    )
    pq.write_table(table, tmp_path / "u.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "u.arrow")
    with pa.OSFile(str(tmp_path / "s.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name, format in (("u.parquet", "parquet"), ("u.arrow", "arrow"), ("s.arrow", "arrow")):
        found = read(tmp_path / name, format)
        assert found["n"].to_pylist() == [3, 1, 2], name
        assert [str(kind) for kind in found.schema.types] == [
            "int32", "string", "timestamp[us, tz=UTC]", "string", "list<item: int16>",
        ], name  # fmt: skip


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_bytes_that_are_no_table_are_refused(tmp_path: Path, format: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"these are no columns" * 10)
    with pytest.raises(InvalidRequestError, match="'upload' is not a readable"):
        read(path, format)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="did you mean 'parquet'"), open_upload(Path("x"), "parket"):
        pass


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (pa.array([1], pa.duration("s")), "number of seconds"),
        (pa.array([2**63], pa.uint64()), "does not fit int64"),
        (pa.array([1], pa.timestamp("ns")), "does not fit timestamp"),
    ],
)
def test_what_a_dataset_cannot_hold_is_refused_by_name(tmp_path: Path, array: pa.Array, told: str) -> None:
    pq.write_table(pa.table({"odd": array}), tmp_path / "u.parquet")
    with pytest.raises(InvalidRequestError, match="'odd'") as refused:
        read(tmp_path / "u.parquet", "parquet")
    assert told in str(refused.value)
