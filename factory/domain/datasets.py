"""Datasets, their immutable versions, contracts, measurements and verdicts.

A contract says what must hold; a worker measures it with DuckDB; the control plane computes the verdict from the
measurements (it opens no tenant file). A version's identity is the sha256 of its manifest's canonical JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from factory.domain.ids import AttemptId, DatasetName, Digest, JobId, TenantId, UploadId, VersionId
from factory.domain.time import Instant

__all__ = [
    "Check",
    "CheckKind",
    "CheckResult",
    "Column",
    "Contract",
    "Dataset",
    "DatasetVersion",
    "FileEntry",
    "Manifest",
    "Measurement",
    "SeriesShape",
    "Severity",
    "Upload",
    "UploadState",
    "Verdict",
    "VersionState",
]


class VersionState(StrEnum):
    """Where a dataset version is."""

    STAGED = "staged"  # bytes are there or being written; not measured yet
    VALIDATED = "validated"  # the verdict is pass; its Delta commit is being made, and will be (ADR 7)
    PUBLISHED = "published"  # readable for every purpose
    QUARANTINED = "quarantined"  # the gate failed; readable only for `repair`
    FAILED = "failed"  # could not be ingested at all (not a table, job failed)
    DEPRECATED = "deprecated"  # a person withdrew it: no new jobs


class CheckKind(StrEnum):
    """The rules there are. Parameters of each are the named fields of `Check`."""

    TYPE = "type"  # the column's logical type is `dtype`
    REQUIRED = "required"  # the column exists
    NULL_SHARE = "null_share"  # share of nulls <= max_share
    RANGE = "range"  # minimum <= value <= maximum, nulls skipped
    UNIQUE = "unique"  # no two rows alike in `columns`
    ROW_COUNT = "row_count"  # minimum <= rows <= maximum
    ORDER = "order"  # series: time never steps backward in file order
    DUPLICATES = "duplicates"  # series: no (key, time) twice
    FREQUENCY = "frequency"  # series: share of missing steps <= max_share at step `step_s`
    STUCK = "stuck"  # series: no run of one value >= run_length, per value column (or key)


class Severity(StrEnum):
    """What a failed check does."""

    ERROR = "error"  # the gate fails
    WARN = "warn"  # shown, does not fail the gate


@dataclass(frozen=True, slots=True)
class Check:
    """One rule of a contract. Only the fields that `kind` names are used."""

    id: str  # unique in the contract: "order:time"
    kind: CheckKind
    columns: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR
    dtype: str = ""  # "string", "integer", "number", "boolean", "timestamp", "date"
    minimum: float | None = None
    maximum: float | None = None
    max_share: float | None = None
    step_s: int | None = None
    run_length: int | None = None
    stuck_value: float | None = None  # STUCK: only runs of this value; None = any value


@dataclass(frozen=True, slots=True)
class SeriesShape:
    """How the table is a set of time series.

    Wide: one row per time, one value column per series (`values`), `key` empty. Long: one row per (key, time).
    `time_expression` is a DuckDB expression over the columns, for files whose stamp is spread over columns.
    """

    time: str = ""  # name of the time column; with an expression: the name it gets
    time_expression: str = ""
    key: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # value columns; "*" = every numeric column that is neither key nor time nor excluded
    exclude: tuple[str, ...] = ()
    step_s: int = 3600


@dataclass(frozen=True, slots=True)
class Contract:
    """What a dataset promises. Owner, licence and class travel with every version."""

    checks: tuple[Check, ...] = ()
    series: SeriesShape | None = None
    description: str = ""
    licence: str = ""
    source: str = ""
    data_class: str = "internal"  # public < internal < restricted < personal


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a worker measured for one check (or one column or key of it)."""

    check_id: str
    subject: str  # column, key or "" for the table: "107 Quay Street"
    value: float  # the measured figure: a share, a count, a longest run
    failed: int  # how many rows, steps or runs break the rule
    total: int  # out of how many
    examples: tuple[str, ...] = ()  # <= 5 short texts; masked above class `internal`
    error: str = ""  # it could not be measured (column missing, not numeric)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check judged."""

    check_id: str
    kind: CheckKind
    severity: Severity
    passed: bool
    subject: str
    value: float
    threshold: str  # as text, with its operator: "<= 0"
    failed: int
    total: int
    examples: tuple[str, ...]
    message: str  # one sentence with the numbers


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer: `passed` iff no failed check of severity error."""

    passed: bool
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """Failed checks of severity error."""
        return tuple(r for r in self.results if not r.passed and r.severity is Severity.ERROR)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version, relative to the dataset's table folder."""

    path: str
    size_bytes: int
    sha256: str  # hex
    rows: int
    partition_json: str = "{}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the written table."""

    name: str
    dtype: str  # Arrow type as text


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version is. Its canonical JSON's sha256 is the version's manifest id.

    Two registrations of the same bytes, contract and parents give the same manifest id, hence the same version.
    """

    dataset: DatasetName
    source_digest: str  # sha256 of the upload, or the content digest of the rows written by a job
    columns: tuple[Column, ...]
    rows: int
    files: tuple[FileEntry, ...]
    contract_digest: str
    parents: tuple[str, ...]  # manifest ids of the job's inputs, sorted


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named series of versions of one tenant."""

    tenant: TenantId
    name: DatasetName
    created_at: Instant
    head: int = 0  # number of the published version that is last in Delta's order; 0 = none
    last: int = 0  # latest version number given out
    version: int = 0  # optimistic guard


class UploadState(StrEnum):
    """Where an upload's bytes are. `removing` is written before they are deleted: a crash leaves none behind."""

    ARRIVING = "arriving"  # the row stands before the first byte; size and digest are not known yet
    KEPT = "kept"  # may be registered
    REMOVING = "removing"  # nobody may register it any more; its bytes may be there still
    REMOVED = "removed"  # the bytes are gone; the row tells what the versions that name it came from


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes on their way in: staging in the object store until what is made of them is settled."""

    id: UploadId
    tenant: TenantId
    filename: str
    format: str  # "csv", "parquet", "arrow"
    object_key: str
    size_bytes: int
    sha256: str
    created_at: Instant
    created_by: str
    state: UploadState = UploadState.KEPT
    versions: tuple[VersionId, ...] = ()  # that were registered from it
    version: int = 0  # optimistic guard


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One immutable version."""

    id: VersionId
    tenant: TenantId
    dataset: DatasetName
    number: int  # 1, 2, …
    state: VersionState
    contract: Contract
    created_at: Instant
    created_by: str
    upload: UploadId | None = None  # how it came in …
    job: JobId | None = None  # … and which job ingests or produces it
    attempt: AttemptId | None = None  # the attempt that wrote it
    output: str = ""  # the producing job's name for it; "" = ingest
    request_digest: str = ""  # of upload + contract: the same request returns this version
    parents: tuple[VersionId, ...] = ()
    manifest: Manifest | None = None
    manifest_id: Digest | None = None
    verdict: Verdict | None = None
    delta_version: int | None = None  # the table's version that published it
    repaired: bool = False  # written by a job that read a quarantined version
    publisher: JobId | None = None  # the job that completes it, if `job` ended between its verdict and its publication
    message: str = ""  # FAILED: why; VALIDATED: why it is not published yet
    published_at: Instant | None = None
    labels: tuple[tuple[str, str], ...] = ()  # sorted by name
    version: int = 0  # optimistic guard
