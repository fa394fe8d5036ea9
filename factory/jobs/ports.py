"""What jobs need from a database.

`Store.transact(fn)` runs `fn(tx)` in one short transaction and commits it when it returns (grouped with its neighbours
on SQLite); an exception rolls back. `fn` may run again after a serialisation failure: it must only touch `tx`.
Every read names its scope (rule 9); rows outside it do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from factory.domain.datasets import Dataset, DatasetVersion
from factory.domain.events import Recorded
from factory.domain.ids import AttemptId, DatasetName, JobId, ModelName, QueueName, RunnerId, TenantId, VersionId
from factory.domain.jobs import GroupKind, Job, JobState
from factory.domain.models import Model, ModelVersion
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Queue, Scope
from factory.domain.time import Instant
from factory.scheduling.snapshot import Snapshot

__all__ = [
    "AttemptProgress",
    "BundleStore",
    "CodeObjects",
    "DatasetLookup",
    "EndedHook",
    "IdempotencyRecord",
    "JobFilter",
    "JobReader",
    "JobStore",
    "JobTx",
    "ModelLookup",
    "PoolLookup",
    "Snapshots",
    "StoredCode",
    "SubmissionReader",
    "SubmissionStore",
    "SubmissionTx",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """One key, one answer. Kept as long as what it made."""

    tenant: TenantId
    principal: str
    route: str  # "POST /jobs"
    key: str
    fingerprint: str  # sha256 of the canonical body
    result: str  # id of what it made
    created_at: Instant


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; all given conditions hold. Newest first; `before` = id of the last one seen (keyset page)."""

    states: frozenset[JobState] = frozenset()  # empty = all
    queue: QueueName | None = None
    group: tuple[GroupKind, str] | None = None
    name: str | None = None
    before: JobId | None = None
    limit: int = 50  # <= 1000


@dataclass(frozen=True, slots=True)
class AttemptProgress:
    """The live figures of an attempt: overwritten, not events."""

    attempt_id: AttemptId
    job_id: JobId
    fraction: float  # 0..1
    message: str
    metrics_json: str  # last value of each metric, {"name": {"step": int, "value": float}}
    at: Instant


class JobReader(Protocol):
    """Reads of one consistent state."""

    def job(self, scope: Scope, job_id: JobId) -> Job | None: ...

    def jobs_of(self, scope: Scope, ids: Collection[JobId]) -> dict[JobId, Job]:
        """Return those of `ids` that there are, in one look: cheaper than one by one, also for what asks again."""
        ...

    def job_of_attempt(self, scope: Scope, attempt_id: AttemptId) -> Job | None: ...

    def jobs(self, scope: Scope, where: JobFilter) -> tuple[Job, ...]: ...

    def open_jobs(self, scope: Scope) -> tuple[Job, ...]:
        """Every job that has not ended, by id."""
        ...

    def live_jobs(self, scope: Scope, runner: RunnerId) -> tuple[Job, ...]:
        """Every job whose last attempt is live on `runner`, by id."""
        ...

    def count_jobs(self, scope: Scope) -> dict[JobState, int]: ...

    def events(self, scope: Scope, job_id: JobId, *, after: int = 0, limit: int = 1000) -> tuple[Recorded, ...]: ...

    def progress(self, scope: Scope, job_id: JobId) -> AttemptProgress | None:
        """Of the job's last attempt that reported any."""
        ...

    def idempotency(self, tenant: TenantId, principal: str, route: str, key: str) -> IdempotencyRecord | None: ...

    def idempotency_of(
        self, tenant: TenantId, principal: str, route: str, keys: Collection[str]
    ) -> dict[str, IdempotencyRecord]:
        """Return the records of those of `keys` that were used, by key."""
        ...

    def queues(self, scope: Scope) -> tuple[Queue, ...]: ...


class JobTx(JobReader, Protocol):
    """Reads and writes of one transaction."""

    def insert_job(self, job: Job, events: Sequence[Recorded]) -> None:
        """Store a new job with its first events. Raises: ConflictError: the id exists."""
        ...

    def insert_jobs(self, new: Sequence[tuple[Job, Sequence[Recorded]]]) -> None:
        """Store new jobs, all or none. Raises: ConflictError: an id exists."""
        ...

    def update_job(self, job: Job, events: Sequence[Recorded], *, expected_seq: int) -> None:
        """Store what `events` made of the job. Raises: StaleWriteError: the row's seq is not `expected_seq`."""
        ...

    def pin_job(self, job: Job) -> None:
        """Let this transaction hold only if the job is as it was read, and nobody changes it at the same time.

        For what is written because of a job's state, on other rows: a transaction that ends the job either comes first
        (then this one is refused, or runs again and sees it) or sees what this one wrote. Raises: StaleWriteError.
        """
        ...

    def put_progress(self, progress: AttemptProgress) -> None: ...

    def remember(self, record: IdempotencyRecord) -> None:
        """Store the record. Raises: ConflictError: its key exists."""
        ...

    def remember_all(self, records: Sequence[IdempotencyRecord]) -> None:
        """Store records of one tenant, principal and route, all or none. Raises: ConflictError: a key exists."""
        ...


class JobStore(Protocol):
    """The transactional door."""

    def read(self, fn: Callable[[JobReader], T]) -> T: ...

    def transact(self, fn: Callable[[JobTx], T]) -> T: ...


class DatasetLookup(Protocol):
    """What jobs ask of the data registry."""

    def version(self, scope: Scope, version_id: VersionId) -> DatasetVersion | None: ...

    def versions(self, scope: Scope, tenant: TenantId, name: DatasetName) -> tuple[DatasetVersion, ...]: ...

    def version_by_number(
        self, scope: Scope, tenant: TenantId, name: DatasetName, number: int
    ) -> DatasetVersion | None: ...

    def versions_of_job(self, scope: Scope, job_id: JobId) -> tuple[DatasetVersion, ...]: ...

    def datasets(self, scope: Scope) -> tuple[Dataset, ...]: ...


class ModelLookup(Protocol):
    """What jobs ask of the model registry."""

    def model(self, scope: Scope, tenant: TenantId, name: ModelName) -> Model | None: ...

    def model_version(self, scope: Scope, tenant: TenantId, name: ModelName, number: int) -> ModelVersion | None: ...

    def models(self, scope: Scope) -> tuple[Model, ...]: ...

    def models_of_job(self, scope: Scope, job_id: JobId) -> tuple[ModelVersion, ...]: ...


class PoolLookup(Protocol):
    """What jobs ask of pools."""

    def pools(self, scope: Scope) -> tuple[Pool, ...]: ...

    def nodes(self, scope: Scope) -> tuple[Node, ...]: ...

    def runners(self, scope: Scope) -> tuple[Runner, ...]: ...


class SubmissionReader(JobReader, DatasetLookup, ModelLookup, PoolLookup, Protocol):
    """All that a submission is judged on, in one consistent state."""


class SubmissionTx(SubmissionReader, JobTx, Protocol):
    """The same with the writes of jobs, and the audit log."""

    def put_audit(
        self, at: Instant, principal: str, tenant: TenantId | None, action: str, detail_json: str
    ) -> None: ...


class SubmissionStore(Protocol):
    """The transactional door of `JobService`."""

    def read(self, fn: Callable[[SubmissionReader], T]) -> T: ...

    def transact(self, fn: Callable[[SubmissionTx], T]) -> T: ...


class Snapshots(Protocol):
    """Where `explain` and the feasibility check get the scheduler's view (jobs/snapshots.py, or the loop's feed)."""

    def at(self, reader: SubmissionReader) -> Snapshot:
        """Return the snapshot of the state that `reader` sees."""
        ...


class EndedHook(Protocol):
    """Called in the transaction that ends a job, so that what hangs on it ends too (bootstrap: datasets.settling)."""

    def __call__(self, tx: object, job: Job, now: Instant) -> None: ...


class StoredCode(Protocol):
    """What is stored under a key."""

    @property
    def size_bytes(self) -> int: ...


class CodeObjects(Protocol):
    """What `Bundles` needs of the object store."""

    def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> StoredCode: ...

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]: ...

    def info(self, key: str) -> StoredCode | None: ...


class BundleStore(Protocol):
    """Is the code there?"""

    def has(self, tenant: TenantId, digests: Iterable[str]) -> frozenset[str]:
        """Return those of `digests` that this tenant has uploaded."""
        ...
