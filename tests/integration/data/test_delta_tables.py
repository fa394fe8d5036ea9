"""Staging, publishing and reading versions on Delta Lake."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from factory.domain.ids import Digest, VersionId
from factory.errors import ConflictError, InvalidRequestError
from factory.worker.data.columns import TableStream
from factory.worker.data.frames import read_arrow, read_pandas, stream_of
from factory.worker.data.tables import StagedTable, file_paths, publish, published_version, stage

ONE, TWO, THREE = VersionId("dsv-1"), VersionId("dsv-2"), VersionId("dsv-3")


def staged(folder: Path, version: VersionId, **columns: object) -> StagedTable:
    return stage(folder, stream_of(pa.table(columns)), version_id=version)


def published(folder: Path, version: VersionId, **columns: object) -> tuple[StagedTable, int]:
    table = staged(folder, version, **columns)
    return table, publish(folder, version_id=version, manifest_id=Digest(f"sha256:{version}"), files=table.files)


def head(folder: Path) -> list[str]:
    return [Path(uri).name for uri in DeltaTable(folder).file_uris()]


def test_a_staged_version_is_invisible_until_it_is_published(tmp_path: Path) -> None:
    table = staged(tmp_path, ONE, a=[1, 2])
    assert not DeltaTable.is_deltatable(str(tmp_path))
    assert published_version(tmp_path, ONE) is None
    publish(tmp_path, version_id=ONE, manifest_id=Digest("sha256:m"), files=table.files)
    assert head(tmp_path) == ["dsv-1-00000.parquet"]
    commit = DeltaTable(tmp_path).history()[0]
    assert (commit["factory.version_id"], commit["factory.manifest_id"]) == ("dsv-1", "sha256:m")


def test_the_head_holds_the_last_version_and_older_ones_stay_readable(tmp_path: Path) -> None:
    first, at_first = published(tmp_path, ONE, a=[1, 2])
    second, at_second = published(tmp_path, TWO, b=["x"], stamp=[dt.datetime(2024, 1, 1)])  # other columns

    assert head(tmp_path) == ["dsv-2-00000.parquet"]
    assert [Path(uri).name for uri in DeltaTable(tmp_path, version=at_first).file_uris()] == ["dsv-1-00000.parquet"]
    assert at_second > at_first
    assert read_arrow(tmp_path, first.files).to_pydict() == {"a": [1, 2]}
    assert read_arrow(tmp_path, second.files).schema.names == ["b", "stamp"]
    # Delta itself reads the head too: the table's protocol allows stamps without a zone that came later.
    assert DeltaTable(tmp_path).to_pyarrow_table()["b"].to_pylist() == ["x"]


def test_publishing_again_after_a_crash_finds_its_own_commit(tmp_path: Path) -> None:
    first, at_first = published(tmp_path, ONE, a=[1])
    published(tmp_path, TWO, a=[2])

    again = publish(tmp_path, version_id=ONE, manifest_id=Digest("sha256:dsv-1"), files=first.files)

    assert again == at_first
    assert head(tmp_path) == ["dsv-2-00000.parquet"]


def test_concurrent_publishers_all_get_a_commit_of_their_own(tmp_path: Path) -> None:
    versions = [VersionId(f"dsv-{index}") for index in range(6)]
    tables = {version: staged(tmp_path, version, a=[index]) for index, version in enumerate(versions)}
    got: dict[VersionId, list[int]] = {version: [] for version in versions}
    start = threading.Barrier(len(versions) * 2)

    def run(version: VersionId) -> None:
        start.wait()
        got[version].append(
            publish(tmp_path, version_id=version, manifest_id=Digest("sha256:m"), files=tables[version].files)
        )

    threads = [threading.Thread(target=run, args=(version,)) for version in versions for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(len(numbers) == 2 and numbers[0] == numbers[1] for numbers in got.values())  # twice the same commit
    assert len({numbers[0] for numbers in got.values()}) == len(versions)
    assert len(DeltaTable(tmp_path).history()) == 1 + len(versions)  # the empty table, then one commit for each
    for version, numbers in got.items():
        assert [Path(uri).name for uri in DeltaTable(tmp_path, version=numbers[0]).file_uris()] == [
            file.path for file in tables[version].files
        ]


def test_equal_rows_give_equal_bytes_however_they_were_batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.worker.data.tables.ROW_GROUP_ROWS", 100)
    table = pa.table({"a": range(1000), "b": [f"text {index % 17}" for index in range(1000)]})

    def cut(size: int) -> TableStream:
        return stream_of(pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=size)))

    one = stage(tmp_path / "one", cut(1000), version_id=ONE)
    two = stage(tmp_path / "two", cut(33), version_id=TWO)
    assert [file.sha256 for file in one.files] == [file.sha256 for file in two.files]
    assert one.content_digest == two.content_digest
    assert staged(tmp_path / "three", THREE, a=[1]).content_digest != one.content_digest


def test_large_tables_become_several_files_in_row_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.worker.data.tables.ROW_GROUP_ROWS", 10)
    monkeypatch.setattr("factory.worker.data.tables.MAX_FILE_BYTES", 1)
    table = staged(tmp_path, ONE, a=list(range(30)))
    assert [file.rows for file in table.files] == [10, 10, 10]
    assert read_arrow(tmp_path, table.files)["a"].to_pylist() == list(range(30))


def test_staging_again_leaves_nothing_of_the_attempt_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.worker.data.tables.ROW_GROUP_ROWS", 10)
    monkeypatch.setattr("factory.worker.data.tables.MAX_FILE_BYTES", 1)
    staged(tmp_path, ONE, a=list(range(30)))
    (tmp_path / "dsv-1-00007.partial").write_bytes(b"killed here")
    table = staged(tmp_path, ONE, a=[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.path for file in table.files]


def test_a_stream_that_breaks_leaves_no_half_file(tmp_path: Path) -> None:
    def broken() -> object:
        yield pa.record_batch({"a": [1]})
        raise InvalidRequestError("the source broke")

    with pytest.raises(InvalidRequestError, match="the source broke"):
        stage(tmp_path, TableStream(pa.schema([("a", pa.int64())]), broken()), version_id=ONE)  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_published_version_cannot_be_written_again(tmp_path: Path) -> None:
    published(tmp_path, ONE, a=[1])
    with pytest.raises(ConflictError, match="is published"):
        staged(tmp_path, ONE, a=[2])
    assert DeltaTable(tmp_path).to_pyarrow_table()["a"].to_pylist() == [1]


def test_a_table_without_rows_can_be_a_version(tmp_path: Path) -> None:
    table = stage(tmp_path, stream_of(pa.schema([("a", pa.int64())]).empty_table()), version_id=ONE)
    assert (table.rows, len(table.files)) == (0, 1)
    publish(tmp_path, version_id=ONE, manifest_id=Digest("sha256:m"), files=table.files)
    assert read_arrow(tmp_path, table.files).num_rows == 0


def test_reading_sees_missing_short_changed_and_foreign_files(tmp_path: Path) -> None:
    (entry,) = staged(tmp_path, ONE, a=[1]).files
    path = tmp_path / entry.path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"X")
    assert file_paths(tmp_path, [entry]) == (path,)
    with pytest.raises(ConflictError, match="sha256"):
        file_paths(tmp_path, [entry], verify=True)
    path.write_bytes(content[:-1])
    with pytest.raises(ConflictError, match="bytes"):
        publish(tmp_path, version_id=ONE, manifest_id=Digest("sha256:m"), files=[entry])
    path.unlink()
    with pytest.raises(ConflictError, match="is missing"):
        read_arrow(tmp_path, [entry])
    with pytest.raises(InvalidRequestError, match="no path in the table's folder"):
        file_paths(tmp_path / "sub", [type(entry)("../" + entry.path, 1, "", 1)])


def test_versions_read_as_pandas_and_arrow(tmp_path: Path) -> None:
    table = staged(tmp_path, ONE, a=[1, 2], b=[0.5, None])
    assert read_pandas(tmp_path, table.files)["b"].isna().tolist() == [False, True]
    assert read_arrow(tmp_path, table.files, columns=["b"]).schema.names == ["b"]
    with pytest.raises(InvalidRequestError, match="no column 'c'"):
        read_arrow(tmp_path, table.files, columns=["c"])


def test_what_jobs_return_becomes_rows(tmp_path: Path) -> None:
    import duckdb
    import pandas as pd

    frame = pd.DataFrame({"a": [1, 2, 3]})
    filtered = frame[frame.a > 1]  # an index with holes is no data
    indexed = frame.set_index(pd.Index(["x", "y", "z"], name="key"))
    for number, (value, want) in enumerate(
        [
            (filtered, {"a": [2, 3]}),
            (indexed, {"key": ["x", "y", "z"], "a": [1, 2, 3]}),
            ({"a": [1]}, {"a": [1]}),
            (pa.record_batch({"a": [1]}), {"a": [1]}),
            (duckdb.sql("SELECT 1::BIGINT AS a"), {"a": [1]}),
        ]
    ):
        table = stage(tmp_path, stream_of(value), version_id=VersionId(f"dsv-{number}"))
        assert read_arrow(tmp_path, table.files).to_pydict() == want
    for wrong, told in (
        ([1, 2], "a dataset cannot be written from a list"),
        (frame.set_index(pd.Index(["x", "y", "z"])), "index without a name"),
        (pd.DataFrame({0: [1]}), "is no text"),
        (pd.DataFrame({"a": [1, "x"]}), "cannot be stored"),
    ):
        with pytest.raises(InvalidRequestError, match=told):
            stream_of(wrong)
