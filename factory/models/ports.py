"""What the model registry needs from a database and from MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from factory.domain.datasets import DatasetVersion
from factory.domain.ids import JobId, ModelName, TenantId, VersionId
from factory.domain.jobs import Job
from factory.domain.models import Model, ModelVersion
from factory.domain.tenancy import Scope
from factory.domain.time import Instant

__all__ = [
    "Blobs",
    "GateReader",
    "GateStore",
    "GateTx",
    "ModelReader",
    "ModelStore",
    "ModelTx",
    "RegistryProjection",
    "RegistryVersion",
    "Source",
    "StoredBlob",
]

T = TypeVar("T")


class ModelReader(Protocol):
    """Reads of one consistent state."""

    def models(self, scope: Scope) -> tuple[Model, ...]: ...

    def model(self, scope: Scope, tenant: TenantId, name: ModelName) -> Model | None: ...

    def model_version(self, scope: Scope, tenant: TenantId, name: ModelName, number: int) -> ModelVersion | None: ...

    def model_versions(self, scope: Scope, tenant: TenantId, name: ModelName) -> tuple[ModelVersion, ...]: ...

    def models_of_job(self, scope: Scope, job_id: JobId) -> tuple[ModelVersion, ...]: ...

    def models_from(self, scope: Scope, dataset_version: VersionId) -> tuple[ModelVersion, ...]:
        """Model versions whose lineage names the dataset version."""
        ...

    def unprojected(self, scope: Scope, limit: int = 100) -> tuple[ModelVersion, ...]:
        """Versions that the projection has not written to MLflow yet (`mlflow_version` empty)."""
        ...


class ModelTx(ModelReader, Protocol):
    """`put_*`: version 0 inserts, else guarded replace. Raises: StaleWriteError, ConflictError."""

    def put_model(self, model: Model) -> Model: ...

    def put_model_version(self, version: ModelVersion) -> ModelVersion: ...


class ModelStore(Protocol):
    """The transactional door."""

    def read(self, fn: Callable[[ModelReader], T]) -> T: ...

    def transact(self, fn: Callable[[ModelTx], T]) -> T: ...


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


class Source(Protocol):
    """What the registry asks of jobs and data: which attempt calls, from which dataset versions?"""

    def job(self, scope: Scope, job_id: JobId) -> Job | None: ...

    def version(self, scope: Scope, version_id: VersionId) -> DatasetVersion | None: ...


class GateReader(ModelReader, Source, Protocol):
    """Models, and what they came from."""


class GateTx(ModelTx, Source, Protocol):
    """The same with writes."""

    def put_audit(
        self, at: Instant, principal: str, tenant: TenantId | None, action: str, detail_json: str
    ) -> None: ...


class GateStore(Protocol):
    """The transactional door of `ModelService`."""

    def read(self, fn: Callable[[GateReader], T]) -> T: ...

    def transact(self, fn: Callable[[GateTx], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class RegistryVersion:
    """A model version as the outside registry shows it."""

    name: str  # "<tenant>.<model>"
    version: str
    source: str
    tags: tuple[tuple[str, str], ...]
    aliases: tuple[str, ...]


class RegistryProjection(Protocol):
    """MLflow's model registry as we write it (adapter: models/mlflow.py). Names are prefixed by tenant.

    Every call is idempotent. Raises: UnavailableError: MLflow does not answer; try again later.
    """

    def ensure_model(self, name: str) -> None: ...

    def ensure_version(self, name: str, *, key: str, source: str, run_id: str, tags: Mapping[str, str]) -> str:
        """Create the version marked with tag `factory.key` = key unless it is there; return MLflow's version."""
        ...

    def set_alias(self, name: str, alias: str, version: str) -> None: ...

    def delete_alias(self, name: str, alias: str) -> None: ...

    def versions(self, name: str) -> tuple[RegistryVersion, ...]: ...
