"""The data registry: uploads in, versions staged, judged, published or quarantined.

The control plane opens no tenant file: a platform job ingests and measures, here is the verdict (DESIGN §1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from factory.datasets.ports import JobSubmitter, RegistryStore, TableFiles
from factory.domain.datasets import DatasetVersion, Upload
from factory.domain.ids import AttemptId, DatasetName, IdSource, VersionId
from factory.domain.jobs import Purpose
from factory.domain.tenancy import Principal
from factory.domain.time import Instant
from factory.schemas.attempt import (
    InputReply,
    MeasuredRequest,
    PublishedRequest,
    StageReply,
    StageRequest,
    VerdictReply,
)
from factory.schemas.common import Page
from factory.schemas.datasets import DatasetView, RegisterRequest, UploadView, VersionView

__all__ = ["Blobs", "DatasetService", "Registration"]


@dataclass(frozen=True, slots=True)
class Registration:
    """The version, and whether an equal request had made it before."""

    version: DatasetVersion
    replayed: bool


class DatasetService:
    """Datasets of a tenant."""

    def __init__(
        self,
        store: RegistryStore,
        objects: Blobs,
        *,
        ids: IdSource,
        jobs: JobSubmitter,
        tables: TableFiles,
    ) -> None: ...

    def upload(
        self,
        principal: Principal,
        filename: str,
        format: str,
        chunks: Iterable[bytes],
        *,
        limit_bytes: int,
        now: Instant,
    ) -> UploadView:
        """Stream bytes to staging. Raises: PayloadTooLargeError, InvalidRequestError: nothing was stored."""
        ...

    def register(
        self, principal: Principal, name: DatasetName, request: RegisterRequest, *, now: Instant
    ) -> Registration:
        """Make a version (staged) and its ingest job in one transaction; an equal request answers the same version."""
        ...

    def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[DatasetView]: ...

    def get(self, principal: Principal, name: DatasetName) -> DatasetView: ...

    def version(self, principal: Principal, name: DatasetName, number: int) -> VersionView: ...

    def view(self, version: DatasetVersion) -> VersionView:
        """Return a version (of `register`) with its parents' names."""
        ...

    def open_file(
        self, principal: Principal, name: DatasetName, number: int, path: str, *, purpose: Purpose = Purpose.ANALYSE
    ) -> Iterator[bytes]:
        """Yield one file. Raises: NotFoundError, DatasetGateError: quarantined and the purpose is not `repair`."""
        ...

    def deprecate(self, principal: Principal, name: DatasetName, number: int, *, now: Instant) -> VersionView:
        """Withdraw a version: no new jobs read it. Raises: NotFoundError, ConflictError: it is not published."""
        ...

    # --- what attempts do; each raises UnauthenticatedError when the attempt is over --------------------------------

    def input(self, attempt_id: AttemptId, name: str) -> InputReply:
        """Return where an input's files are. Raises: NotFoundError: the job has no such input."""
        ...

    def open_input_file(self, attempt_id: AttemptId, name: str, path: str) -> Iterator[bytes]:
        """Yield one file of an input."""
        ...

    def upload_of(self, attempt_id: AttemptId) -> Upload:
        """Return the upload that an ingest job reads."""
        ...

    def open_upload(self, attempt_id: AttemptId) -> Iterator[bytes]:
        """Yield its bytes."""
        ...

    def stage(self, attempt_id: AttemptId, request: StageRequest, *, now: Instant) -> StageReply:
        """Begin, or find again, the version that this job writes under an output's name."""
        ...

    def measured(
        self, attempt_id: AttemptId, version_id: VersionId, request: MeasuredRequest, *, now: Instant
    ) -> VerdictReply:
        """Judge what was written: validated (publish now) or quarantined. A repeat answers the first verdict."""
        ...

    def published(
        self, attempt_id: AttemptId, version_id: VersionId, request: PublishedRequest, *, now: Instant
    ) -> VersionView:
        """The Delta commit is made: published, and the head moves. A repeat changes nothing."""
        ...
