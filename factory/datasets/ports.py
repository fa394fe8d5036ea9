"""What the data registry needs from a database and from jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from factory.domain.datasets import Dataset, DatasetVersion, Upload
from factory.domain.ids import DatasetName, JobId, TenantId, UploadId, VersionId
from factory.domain.jobs import Job
from factory.domain.tenancy import Principal, Scope
from factory.domain.time import Instant

__all__ = [
    "Blobs",
    "DatasetReader",
    "DatasetStore",
    "DatasetTx",
    "JobLookup",
    "JobSubmitter",
    "RegistryReader",
    "RegistryStore",
    "RegistryTx",
    "StoredBlob",
    "TableFiles",
]

T = TypeVar("T")


class DatasetReader(Protocol):
    """Reads of one consistent state."""

    def datasets(self, scope: Scope) -> tuple[Dataset, ...]: ...

    def dataset(self, scope: Scope, tenant: TenantId, name: DatasetName) -> Dataset | None: ...

    def version(self, scope: Scope, version_id: VersionId) -> DatasetVersion | None: ...

    def version_by_number(
        self, scope: Scope, tenant: TenantId, name: DatasetName, number: int
    ) -> DatasetVersion | None: ...

    def versions(self, scope: Scope, tenant: TenantId, name: DatasetName) -> tuple[DatasetVersion, ...]: ...

    def version_by_request(
        self, scope: Scope, tenant: TenantId, name: DatasetName, request_digest: str
    ) -> DatasetVersion | None:
        """The version that an equal request made (not FAILED)."""
        ...

    def versions_of_job(self, scope: Scope, job_id: JobId) -> tuple[DatasetVersion, ...]: ...

    def versions_from(self, scope: Scope, parent: VersionId) -> tuple[DatasetVersion, ...]:
        """Versions that name `parent` among their parents."""
        ...

    def upload(self, scope: Scope, upload_id: UploadId) -> Upload | None: ...

    def upload_by_digest(self, scope: Scope, tenant: TenantId, sha256: str, format: str) -> Upload | None:
        """The tenant's upload of these bytes: one that is kept if there is one, else the newest."""
        ...

    def uploads_with_bytes(
        self, scope: Scope, *, after: UploadId | None = None, limit: int = 100
    ) -> tuple[Upload, ...]:
        """Uploads that are not REMOVED, by id, those above `after`."""
        ...


class DatasetTx(DatasetReader, Protocol):
    """`put_*`: version 0 inserts, else guarded replace. Raises: StaleWriteError, ConflictError."""

    def put_dataset(self, dataset: Dataset) -> Dataset: ...

    def put_version(self, version: DatasetVersion) -> DatasetVersion: ...

    def put_upload(self, upload: Upload) -> Upload: ...

    def delete_upload(self, upload: Upload) -> None:
        """Forget it. Raises: StaleWriteError: it changed since it was read, or is gone."""
        ...


class DatasetStore(Protocol):
    """The transactional door."""

    def read(self, fn: Callable[[DatasetReader], T]) -> T: ...

    def transact(self, fn: Callable[[DatasetTx], T]) -> T: ...


class JobLookup(Protocol):
    """What the registry asks of jobs: which attempt makes this call, what did it read?"""

    def job(self, scope: Scope, job_id: JobId) -> Job | None: ...


class RegistryReader(DatasetReader, JobLookup, Protocol):
    """Datasets, and the jobs that read and write them."""


class RegistryTx(DatasetTx, JobLookup, Protocol):
    """The same with writes."""

    def pin_job(self, job: Job) -> None:
        """As `jobs.ports.JobTx.pin_job`."""
        ...

    def put_audit(
        self, at: Instant, principal: str, tenant: TenantId | None, action: str, detail_json: str
    ) -> None: ...


class RegistryStore(Protocol):
    """The transactional door of `DatasetService`."""

    def read(self, fn: Callable[[RegistryReader], T]) -> T: ...

    def transact(self, fn: Callable[[RegistryTx], T]) -> T: ...


class StoredBlob(Protocol):
    """What is stored under a key."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


class Blobs(Protocol):
    """What is needed of the object store (objects/ports.py)."""

    def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> StoredBlob: ...

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]: ...

    def info(self, key: str) -> StoredBlob | None: ...

    def delete(self, key: str) -> None: ...

    def local_path(self, key: str) -> Path | None: ...


class TableFiles(Protocol):
    """The folders of published files (adapter: datasets/tables.py). The control plane only passes bytes on."""

    def location(self, tenant: TenantId, dataset: DatasetName) -> str:
        """Return the URL of the dataset's table folder, e.g. file:///…/tables/mobility/footfall."""
        ...

    def read(self, tenant: TenantId, dataset: DatasetName, path: str) -> Iterator[bytes]:
        """Yield the bytes of one file of the table. Raises: NotFoundError."""
        ...


class JobSubmitter(Protocol):
    """Submits platform jobs inside the caller's transaction (bootstrap joins it to jobs.service)."""

    def submit_ingest(
        self, tx: object, principal: Principal, tenant: TenantId, version_id: VersionId, queue: str | None, now: Instant
    ) -> Job: ...

    def submit_publish(self, tx: object, ended: Job, version: DatasetVersion, now: Instant) -> Job:
        """Insert the job that publishes a validated version which `ended` left; never refused: `ended` must end."""
        ...
