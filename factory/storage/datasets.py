"""Datasets, their versions, parents and uploads (datasets/ports.py)."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select, text

from factory.control.ports import FeedKind
from factory.domain.datasets import Dataset, DatasetVersion, Upload, UploadState
from factory.domain.ids import DatasetName, JobId, TenantId, UploadId, VersionId
from factory.domain.tenancy import Scope
from factory.errors import StaleWriteError
from factory.storage import codec
from factory.storage.session import SqlSession
from factory.storage.sql import compiled, insert_new, replace_guarded, scoped
from factory.storage.tables import dataset_versions, datasets, uploads, version_parents

__all__ = ["DatasetSql"]

_v = dataset_versions.c
_OF_DATASET = (_v.tenant == bindparam("owner"), _v.dataset == bindparam("dataset"))

_DATASETS = scoped(select(datasets.c.body).order_by(datasets.c.tenant, datasets.c.name), datasets.c.tenant)
_DATASET = compiled(
    select(datasets.c.body, datasets.c.tenant).where(
        datasets.c.tenant == bindparam("tenant"), datasets.c.name == bindparam("name")
    )
)
_VERSION = compiled(select(_v.body, _v.tenant).where(_v.id == bindparam("id")))
_VERSION_BY_NUMBER = compiled(select(_v.body, _v.tenant).where(*_OF_DATASET, _v.number == bindparam("number")))
_VERSIONS = scoped(select(_v.body).where(*_OF_DATASET).order_by(_v.number), _v.tenant)
_VERSION_BY_REQUEST = compiled(
    select(_v.body, _v.tenant)
    .where(*_OF_DATASET, _v.request_digest == bindparam("request_digest"), text("state <> 'failed'"))
    .order_by(_v.number.desc()),
    limited=True,
)
_VERSIONS_OF_JOB = scoped(select(_v.body).where(_v.job_id == bindparam("job_id")).order_by(_v.id), _v.tenant)
_VERSIONS_FROM = scoped(
    select(_v.body)
    .join_from(version_parents, dataset_versions, version_parents.c.version_id == _v.id)
    .where(version_parents.c.parent_id == bindparam("parent"))
    .order_by(_v.id),
    _v.tenant,
)
_UPLOAD = compiled(select(uploads.c.body, uploads.c.tenant).where(uploads.c.id == bindparam("id")))
_UPLOAD_BY_DIGEST = compiled(
    select(uploads.c.body, uploads.c.tenant)
    .where(
        uploads.c.tenant == bindparam("owner"),
        uploads.c.sha256 == bindparam("sha256"),
        uploads.c.format == bindparam("format"),
    )
    .order_by(uploads.c.has_bytes.desc(), uploads.c.id.desc()),
    limited=True,
)
_UPLOADS_WITH_BYTES = scoped(
    select(uploads.c.body).where(text("has_bytes = 1"), uploads.c.id > bindparam("after")).order_by(uploads.c.id),
    uploads.c.tenant,
    limited=True,
)

_INSERT_DATASET = insert_new(datasets)
_UPDATE_DATASET = replace_guarded(datasets, "body")
_INSERT_VERSION = insert_new(dataset_versions)
_UPDATE_VERSION = replace_guarded(dataset_versions, "state", "job_id", "request_digest", "body")
_INSERT_PARENT = insert_new(version_parents)
_FORGET_PARENTS = compiled(delete(version_parents).where(version_parents.c.version_id == bindparam("version_id")))
_INSERT_UPLOAD = insert_new(uploads)
_UPDATE_UPLOAD = replace_guarded(uploads, "sha256", "has_bytes", "body")
_DELETE_UPLOAD = compiled(
    delete(uploads).where(uploads.c.id == bindparam("id"), uploads.c.version == bindparam("expected"))
)


class DatasetSql(SqlSession):
    """DatasetReader and DatasetTx."""

    def datasets(self, scope: Scope) -> tuple[Dataset, ...]:
        return self._list(codec.DATASET, _DATASETS, scope)

    def dataset(self, scope: Scope, tenant: TenantId, name: DatasetName) -> Dataset | None:
        return self._one(codec.DATASET, _DATASET, scope, tenant=tenant, name=name)

    def version(self, scope: Scope, version_id: VersionId) -> DatasetVersion | None:
        return self._one(codec.DATASET_VERSION, _VERSION, scope, id=version_id)

    def version_by_number(
        self, scope: Scope, tenant: TenantId, name: DatasetName, number: int
    ) -> DatasetVersion | None:
        return self._one(codec.DATASET_VERSION, _VERSION_BY_NUMBER, scope, owner=tenant, dataset=name, number=number)

    def versions(self, scope: Scope, tenant: TenantId, name: DatasetName) -> tuple[DatasetVersion, ...]:
        return self._list(codec.DATASET_VERSION, _VERSIONS, scope, owner=tenant, dataset=name)

    def version_by_request(
        self, scope: Scope, tenant: TenantId, name: DatasetName, request_digest: str
    ) -> DatasetVersion | None:
        if not request_digest:  # versions that no request made carry the empty digest
            return None
        return self._one(
            codec.DATASET_VERSION,
            _VERSION_BY_REQUEST,
            scope,
            owner=tenant,
            dataset=name,
            request_digest=request_digest,
            limit=1,
        )

    def versions_of_job(self, scope: Scope, job_id: JobId) -> tuple[DatasetVersion, ...]:
        return self._list(codec.DATASET_VERSION, _VERSIONS_OF_JOB, scope, job_id=job_id)

    def versions_from(self, scope: Scope, parent: VersionId) -> tuple[DatasetVersion, ...]:
        return self._list(codec.DATASET_VERSION, _VERSIONS_FROM, scope, parent=parent)

    def upload(self, scope: Scope, upload_id: UploadId) -> Upload | None:
        return self._one(codec.UPLOAD, _UPLOAD, scope, id=upload_id)

    def upload_by_digest(self, scope: Scope, tenant: TenantId, sha256: str, format: str) -> Upload | None:
        return self._one(codec.UPLOAD, _UPLOAD_BY_DIGEST, scope, owner=tenant, sha256=sha256, format=format, limit=1)

    def uploads_with_bytes(
        self, scope: Scope, *, after: UploadId | None = None, limit: int = 100
    ) -> tuple[Upload, ...]:
        return self._list(codec.UPLOAD, _UPLOADS_WITH_BYTES, scope, after=after or "", limit=limit)

    def put_dataset(self, dataset: Dataset) -> Dataset:
        columns = {"tenant": dataset.tenant, "name": dataset.name}
        what = f"dataset '{dataset.name}'"
        return self._put(codec.DATASET, dataset, _INSERT_DATASET, _UPDATE_DATASET, what, **columns)

    def put_version(self, version: DatasetVersion) -> DatasetVersion:
        columns = {
            "id": version.id,
            "tenant": version.tenant,
            "dataset": version.dataset,
            "number": version.number,
            "state": version.state.value,
            "job_id": version.job,
            "request_digest": version.request_digest,
        }
        what = f"version {version.number} of dataset '{version.dataset}'"
        stored = self._put(codec.DATASET_VERSION, version, _INSERT_VERSION, _UPDATE_VERSION, what, **columns)
        if version.version:
            self._write(_FORGET_PARENTS, {"version_id": version.id})
        for parent in version.parents:
            self._write(_INSERT_PARENT, {"version_id": version.id, "parent_id": parent})
        self._changed(FeedKind.VERSION, version.id)
        return stored

    def put_upload(self, upload: Upload) -> Upload:
        columns = {
            "id": upload.id,
            "tenant": upload.tenant,
            "sha256": upload.sha256,
            "format": upload.format,
            "has_bytes": 0 if upload.state is UploadState.REMOVED else 1,
        }
        return self._put(codec.UPLOAD, upload, _INSERT_UPLOAD, _UPDATE_UPLOAD, f"upload {upload.id}", **columns)

    def delete_upload(self, upload: Upload) -> None:
        if not self._write(_DELETE_UPLOAD, {"id": upload.id, "expected": upload.version}):
            raise StaleWriteError(
                f"upload {upload.id} changed since it was read", hint="load it again", facts={"upload": upload.id}
            )
