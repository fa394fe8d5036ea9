"""Dataset tables on Delta Lake: stage a version's files, publish them in one transaction, open exactly a version.

- `stage` writes Parquet into the table's folder without a Delta commit: until the verdict is there, no reader of the
  table sees anything. Names carry the version's id; a repeat after a crash writes the same names again.
- `publish` replaces the table's files by the version's in ONE Delta transaction that names the version. A repeat finds
  its own commit and changes nothing, so the head of the table is always the version that was published last.
- `open_version` reads the manifest's files and no others: "latest" in Delta's sense is nobody's version.
- Nothing here ever vacuums: older versions live in files that newer Delta versions no longer name.

Equal rows give equal bytes: fixed row groups, codec and writer settings, no metadata of the source.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from factory.domain.datasets import Column, FileEntry
from factory.domain.ids import Digest, VersionId, is_name
from factory.errors import ConflictError, InvalidRequestError, UnavailableError
from factory.worker.data.columns import TableStream, columns_of

__all__ = ["StagedTable", "file_paths", "open_version", "publish", "published_version", "stage"]

ROW_GROUP_ROWS = 131_072  # a change changes the bytes, hence the manifest ids, of every later version
MAX_FILE_BYTES = 256 * 1024 * 1024
_VERSION_KEY = "factory.version_id"  # commit metadata
_MANIFEST_KEY = "factory.manifest_id"
_MAX_TRIES = 10  # of one publisher against writers that do not take our lock

# Set when the table is made: history is kept for ever, since old versions are opened by number.
_TABLE_CONFIGURATION = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}
# The schema of Delta version 0, which has no files. A stamp without a zone gives the table the protocol feature for it,
# which could not come later: delta-rs 1.6 commits such a column to a table without the feature, and then nobody can
# open the table any more.
_EMPTY_SCHEMA = pa.schema([pa.field("stamp", pa.timestamp("us"))])


@dataclass(frozen=True, slots=True)
class StagedTable:
    """What `stage` wrote."""

    files: tuple[FileEntry, ...]  # in row order; at least one
    columns: tuple[Column, ...]
    rows: int
    content_digest: Digest  # of columns and rows in order: the source digest of what a job writes


# --- staging ------------------------------------------------------------------------------------------------------


def stage(table_dir: Path, stream: TableStream, *, version_id: VersionId) -> StagedTable:
    """Write the rows as Parquet files of the version, synced, without a Delta commit.

    Args:
        table_dir: the dataset's table folder; made if missing.
        stream: the rows.
        version_id: names the files.
    Raises:
        InvalidRequestError: a value cannot be stored, or the stream's source is broken (see reading).
        ConflictError: the version is published already; its files are not touched.
    """
    if not is_name(version_id):
        raise InvalidRequestError(f"'{version_id}' is no version id")
    table_dir.mkdir(parents=True, exist_ok=True)
    if published_version(table_dir, version_id) is not None:
        raise ConflictError(f"version {version_id} is published; its files do not change")
    files: list[FileEntry] = []
    groups = _row_groups(stream)
    group = next(groups)
    while group is not None:
        path = table_dir / f"{version_id}-{len(files):05d}.parquet"
        partial = path.with_suffix(".partial")
        try:
            rows, group = _write_file(partial, stream.schema, group, groups)
        except BaseException:
            with suppress(FileNotFoundError):
                partial.unlink()
            raise
        files.append(FileEntry(path.name, partial.stat().st_size, _sha256(partial), rows))
        partial.replace(path)
    kept = {file.path for file in files}
    for path in sorted(table_dir.glob(f"{version_id}-*")):
        if path.name not in kept:  # an earlier attempt wrote more files than this one
            path.unlink()
    _sync_dir(table_dir)
    columns = columns_of(stream.schema)
    return StagedTable(tuple(files), columns, sum(file.rows for file in files), _content_digest(columns, files))


def _row_groups(stream: TableStream) -> Iterator[pa.Table | None]:
    """Cut the rows into groups of `ROW_GROUP_ROWS`, whatever the batches were; at least one; None ends them."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in stream.batches:
        rest = batch
        while rows + rest.num_rows >= ROW_GROUP_ROWS:
            cut = ROW_GROUP_ROWS - rows
            yield pa.Table.from_batches([*held, rest.slice(0, cut)], stream.schema)
            rest, held, rows = rest.slice(cut), [], 0
        if rest.num_rows:
            held.append(rest)
            rows += rest.num_rows
    # An exact multiple ends with an empty group, which `_write_file` leaves out unless it is the only one.
    yield pa.Table.from_batches(held, stream.schema)
    yield None


def _write_file(
    path: Path, schema: pa.Schema, first: pa.Table, groups: Iterator[pa.Table | None]
) -> tuple[int, pa.Table | None]:
    """Write one file from `first` on; return its rows and the group that begins the next file, if any."""
    group: pa.Table | None = first
    rows = 0
    with path.open("wb") as file:
        with pq.ParquetWriter(
            file,
            schema,
            version="2.6",
            compression="zstd",
            compression_level=3,
            data_page_version="1.0",
            store_schema=False,
        ) as writer:
            while group is not None and (not rows or file.tell() < MAX_FILE_BYTES):
                if group.num_rows:
                    # One contiguous chunk: page boundaries must not depend on the batches that came.
                    writer.write_table(group.combine_chunks(), row_group_size=ROW_GROUP_ROWS)
                    rows += group.num_rows
                group = next(groups)
                if group is not None and not group.num_rows:
                    group = next(groups)
        file.flush()
        os.fsync(file.fileno())
    return rows, group


def _content_digest(columns: Sequence[Column], files: Sequence[FileEntry]) -> Digest:
    document = [[[c.name, c.dtype] for c in columns], [[f.sha256, f.rows] for f in files]]
    return Digest("sha256:" + hashlib.sha256(json.dumps(document, ensure_ascii=False).encode()).hexdigest())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_dir(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- publishing ---------------------------------------------------------------------------------------------------


def publish(table_dir: Path, *, version_id: VersionId, manifest_id: Digest, files: Sequence[FileEntry]) -> int:
    """Make the version the table's head in one Delta transaction; return the Delta version that did.

    Idempotent: a repeat, also after other versions were published, returns the first commit's number.

    Raises:
        ConflictError: a file is missing or not as long as the manifest says.
        UnavailableError: other publishers won every race; try again.
    """
    paths = file_paths(table_dir, files)
    schema = Schema.from_arrow(pq.read_schema(paths[0]))
    adds = [
        AddAction(
            path=file.path,
            size=file.size_bytes,
            partition_values={},
            modification_time=path.stat().st_mtime_ns // 1_000_000,
            data_change=True,
            stats=json.dumps({"numRecords": file.rows}),
        )
        for file, path in zip(files, paths, strict=True)
    ]
    properties = CommitProperties(
        custom_metadata={_VERSION_KEY: version_id, _MANIFEST_KEY: manifest_id},
        max_commit_retries=0,  # delta-rs does not compare transaction ids when it rebases: we look again ourselves
        app_transactions=[Transaction(_app_id(version_id), 1)],
    )
    lost: CommitFailedError | None = None
    with _publishing(table_dir):
        _ensure_table(table_dir)
        for _ in range(_MAX_TRIES):
            # One snapshot for the look and the commit: the commit gets the number after the snapshot's, or fails.
            table = DeltaTable(table_dir)
            done = _own_commit(table, version_id)
            if done is not None:
                return done
            try:
                # "overwrite" removes the files that the table has now: a Delta version holds one dataset version.
                table.create_write_transaction(list(adds), "overwrite", schema, commit_properties=properties)
            except CommitFailedError as exc:
                lost = exc
    raise UnavailableError(f"version {version_id} could not be published: other writers won every race") from lost


def published_version(table_dir: Path, version_id: VersionId) -> int | None:
    """Return the Delta version whose commit published the version; None if there is none."""
    if not DeltaTable.is_deltatable(str(table_dir)):
        return None
    with _publishing(table_dir):
        return _own_commit(DeltaTable(table_dir), version_id)


@contextmanager
def _publishing(table_dir: Path) -> Iterator[None]:
    """Hold the table's lock; the system frees it when its holder dies, however it dies.

    Delta's own conflict check is not enough for us. Two tries of one version may both commit (measured: delta-rs 1.6
    compares neither their transaction ids nor their paths), and `history()` numbers commits from a head that may move
    while it reads.
    """
    with (table_dir / ".publish.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _own_commit(table: DeltaTable, version_id: VersionId) -> int | None:
    if table.transaction_version(_app_id(version_id)) is None:
        return None
    return next(int(commit["version"]) for commit in table.history() if commit.get(_VERSION_KEY) == version_id)


def _ensure_table(table_dir: Path) -> None:
    """Make the empty table (Delta version 0) unless it is there."""
    if not DeltaTable.is_deltatable(str(table_dir)):
        schema = Schema.from_arrow(_EMPTY_SCHEMA)
        _ = DeltaTable.create(table_dir, schema, mode="error", configuration=dict(_TABLE_CONFIGURATION))


def _app_id(version_id: VersionId) -> str:
    return f"factory/{version_id}"


# --- reading ------------------------------------------------------------------------------------------------------


def file_paths(table_dir: Path, files: Sequence[FileEntry], *, verify: bool = False) -> tuple[Path, ...]:
    """Return the paths of a manifest's files, in order.

    Args:
        verify: also compare the sha256 of each (reads all bytes).
    Raises:
        InvalidRequestError: a path leaves the folder.
        ConflictError: a file is missing or not what the manifest says.
    """
    if not files:
        raise InvalidRequestError("a version has at least one file")
    paths: list[Path] = []
    for file in files:
        relative = PurePosixPath(file.path)
        if relative.is_absolute() or ".." in relative.parts:
            raise InvalidRequestError(f"'{file.path}' is no path in the table's folder")
        path = table_dir / relative
        found = path.stat().st_size if path.is_file() else None
        if found != file.size_bytes:
            state = "is missing" if found is None else f"has {found:,} bytes, not {file.size_bytes:,}"
            raise ConflictError(f"file '{file.path}' of the version {state}", facts={"file": file.path})
        if verify and _sha256(path) != file.sha256:
            raise ConflictError(
                f"file '{file.path}' of the version was changed: its sha256 differs", facts={"file": file.path}
            )
        paths.append(path)
    return tuple(paths)


def open_version(table_dir: Path, files: Sequence[FileEntry], *, verify: bool = False) -> pads.Dataset:
    """Open exactly the manifest's files, lazily, in order. Raises: as `file_paths`."""
    paths = file_paths(table_dir, files, verify=verify)
    return pads.dataset([str(path) for path in paths], schema=pq.read_schema(paths[0]), format="parquet")
