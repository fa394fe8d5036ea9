"""What jobs need from a database.

`Store.transact(fn)` runs `fn(tx)` in one short transaction and commits it when it returns (grouped with its neighbours
on SQLite); an exception rolls back. `fn` may run again after a serialisation failure: it must only touch `tx`.
Every read names its scope (rule 9); rows outside it do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from factory.domain.events import Recorded
from factory.domain.ids import AttemptId, JobId, QueueName, RunnerId, TenantId
from factory.domain.jobs import GroupKind, Job, JobState
from factory.domain.tenancy import Queue, Scope
from factory.domain.time import Instant

__all__ = ["AttemptProgress", "BundleStore", "IdempotencyRecord", "JobFilter", "JobReader", "JobStore", "JobTx"]

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

    def queues(self, scope: Scope) -> tuple[Queue, ...]: ...


class JobTx(JobReader, Protocol):
    """Reads and writes of one transaction."""

    def insert_job(self, job: Job, events: Sequence[Recorded]) -> None:
        """Store a new job with its first events. Raises: ConflictError: the id exists."""
        ...

    def update_job(self, job: Job, events: Sequence[Recorded], *, expected_seq: int) -> None:
        """Store what `events` made of the job. Raises: StaleWriteError: the row's seq is not `expected_seq`."""
        ...

    def put_progress(self, progress: AttemptProgress) -> None: ...

    def remember(self, record: IdempotencyRecord) -> None:
        """Store the record. Raises: ConflictError: its key exists."""
        ...


class JobStore(Protocol):
    """The transactional door."""

    def read(self, fn: Callable[[JobReader], T]) -> T: ...

    def transact(self, fn: Callable[[JobTx], T]) -> T: ...


class BundleStore(Protocol):
    """Is the code there?"""

    def has(self, tenant: TenantId, digests: Iterable[str]) -> frozenset[str]:
        """Return those of `digests` that this tenant has uploaded."""
        ...
