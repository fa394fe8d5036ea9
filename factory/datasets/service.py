"""The data registry: uploads in, versions staged, judged, published or quarantined.

The control plane opens no tenant file: a platform job ingests and measures, here is the verdict (DESIGN §1). What a
worker does with a version is `datasets/writing.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from factory.datasets import views
from factory.datasets.heads import move_head, next_number, read_file
from factory.datasets.ports import RegistryReader, RegistryTx
from factory.datasets.settling import take_up
from factory.datasets.views import version_name
from factory.datasets.writing import DatasetAttempts
from factory.domain.datasets import Contract, Dataset, DatasetVersion, Upload, UploadState, VersionState
from factory.domain.ids import DatasetName, UploadId, VersionId, is_name
from factory.domain.jobs import Purpose
from factory.domain.tenancy import WRITERS, Principal, Scope
from factory.domain.time import Instant
from factory.errors import (
    ConflictError,
    DatasetGateError,
    FactoryError,
    InvalidRequestError,
    NotFoundError,
    UploadGoneError,
    did_you_mean,
)
from factory.quality.contracts import contract_digest, contract_from_mapping
from factory.schemas.common import Page
from factory.schemas.datasets import DatasetView, FindUploadRequest, RegisterRequest, UploadView, VersionView

__all__ = ["FORMATS", "DatasetService", "Registration"]

FORMATS = ("csv", "parquet", "arrow")
_DOWNLOADABLE = (VersionState.PUBLISHED, VersionState.DEPRECATED)  # withdrawn is for new jobs; people may look


@dataclass(frozen=True, slots=True)
class Registration:
    """The version, and whether an equal request had made it before."""

    version: DatasetVersion
    replayed: bool


class DatasetService(DatasetAttempts):
    """Datasets of a tenant; what its running attempts do with them is in `DatasetAttempts`."""

    # --- in ---------------------------------------------------------------------------------------------------------

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
        principal.require(*WRITERS)
        tenant = principal.acting_tenant()
        if format not in FORMATS:
            raise InvalidRequestError(
                f"'{format}' is no format of a table{did_you_mean(format, FORMATS)}",
                hint=f"allowed: {', '.join(FORMATS)}",
            )
        upload_id = UploadId(self._ids.new("upl"))
        arriving = Upload(
            id=upload_id,
            tenant=tenant,
            filename=_plain_name(filename),
            format=format,
            object_key=f"uploads/{tenant}/{upload_id}",
            size_bytes=0,
            sha256="",
            created_at=now,
            created_by=principal.id,
            state=UploadState.ARRIVING,
        )
        # the row first: bytes that a crash cuts off are known, and removed by housekeeping
        begun = self._store.transact(lambda tx: tx.put_upload(arriving))
        try:
            stored = self._objects.put(begun.object_key, chunks, limit_bytes=limit_bytes)
            if stored.size_bytes == 0:
                raise InvalidRequestError("the upload is empty", hint="send the file as the body of the request")
            kept = replace(begun, state=UploadState.KEPT, size_bytes=stored.size_bytes, sha256=stored.sha256)
            return views.upload_view(self._store.transact(lambda tx: tx.put_upload(kept)))
        except BaseException:
            with contextlib.suppress(FactoryError):  # else housekeeping does it
                self._objects.delete(begun.object_key)
                self._store.transact(lambda tx: tx.delete_upload(begun))
            raise

    def find_upload(self, principal: Principal, request: FindUploadRequest) -> UploadView:
        """Return the tenant's own upload of these bytes, so that they need not be sent again (never another's: rule 9).

        Raises: NotFoundError: this tenant did not upload them, or they were forgotten.
        """
        principal.require(*WRITERS)
        tenant = principal.acting_tenant()
        found = self._store.read(lambda r: r.upload_by_digest(Scope(tenant), tenant, request.sha256, request.format))
        if found is None or found.size_bytes != request.size_bytes:
            raise NotFoundError("upload", request.sha256, hint="upload the file: POST /api/v1/uploads")
        return views.upload_view(found)

    def register(
        self, principal: Principal, name: DatasetName, request: RegisterRequest, *, now: Instant
    ) -> Registration:
        """Make a version (staged) and its ingest job in one transaction; an equal request answers the same version.

        Raises: NotFoundError: no such upload; UploadGoneError: its bytes were removed, and the request is a new one;
        InvalidRequestError: the contract is wrong; UnknownQueueError.
        """
        principal.require(*WRITERS)
        tenant = principal.acting_tenant()
        if not is_name(name):
            raise InvalidRequestError(
                f"'{name}' is no name for a dataset",
                hint="use small letters, digits and '-', at most 63, e.g. footfall-raw",
            )
        contract = contract_from_mapping(request.contract)

        def work(tx: RegistryTx) -> Registration:
            upload = tx.upload(Scope(tenant), UploadId(request.upload))
            if upload is None or upload.state is UploadState.ARRIVING:
                raise NotFoundError("upload", request.upload, hint="upload the file first: POST /api/v1/uploads")
            take_up(tx, tenant, name, now, jobs=self._jobs)
            digest = _request_digest(upload, contract)
            known = tx.version_by_request(Scope(tenant), tenant, name, digest)
            if known is not None:
                _made_from(tx, upload, known.id)
                return Registration(known, replayed=True)
            if upload.state is not UploadState.KEPT:
                raise UploadGoneError(
                    f"the bytes of upload {upload.id} were removed: what was made of them is settled",
                    hint="upload the file again: POST /api/v1/uploads",
                    facts={"upload": upload.id},
                )
            staged = tx.put_version(
                DatasetVersion(
                    id=VersionId(self._ids.new("dsv")),
                    tenant=tenant,
                    dataset=name,
                    number=next_number(tx, tenant, name, now),
                    state=VersionState.STAGED,
                    contract=contract,
                    created_at=now,
                    created_by=principal.id,
                    upload=upload.id,
                    request_digest=digest,
                    labels=tuple(sorted(request.labels.items())),
                )
            )
            _made_from(tx, upload, staged.id)
            # the version first: the job is judged by it, and a refusal rolls both back
            job = self._jobs.submit_ingest(tx, principal, tenant, staged.id, request.queue, now)
            return Registration(tx.put_version(replace(staged, job=job.id)), replayed=False)

        return self._store.transact(work)

    # --- look -------------------------------------------------------------------------------------------------------

    def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[DatasetView]:
        """Return datasets by tenant and name, with their versions; `cursor` is the last one seen."""
        size = max(1, min(limit, 1000))

        def look(reader: RegistryReader) -> Page[DatasetView]:
            keyed = sorted((f"{d.tenant}/{d.name}", d) for d in reader.datasets(principal.scope))
            rest = [(key, d) for key, d in keyed if cursor is None or key > cursor]
            items = tuple(_dataset_view(reader, principal.scope, d) for _, d in rest[:size])
            return Page[DatasetView](items=items, next_cursor=rest[size - 1][0] if len(rest) > size else None)

        return self._store.read(look)

    def get(self, principal: Principal, name: DatasetName) -> DatasetView:
        """Return a dataset and its versions, newest first. Raises: NotFoundError."""
        tenant = principal.acting_tenant()

        def look(reader: RegistryReader) -> DatasetView:
            dataset = reader.dataset(principal.scope, tenant, name)
            if dataset is None:
                raise _no_dataset(reader, principal.scope, name)
            return _dataset_view(reader, principal.scope, dataset)

        return self._store.read(look)

    def version(self, principal: Principal, name: DatasetName, number: int) -> VersionView:
        """Return a version with its checks. Raises: NotFoundError."""

        def look(reader: RegistryReader) -> VersionView:
            version = _version(reader, principal, name, number)
            return views.version_view(version, _names(reader, principal.scope, version.parents))

        return self._store.read(look)

    def view(self, version: DatasetVersion) -> VersionView:
        """Return a version (of `register`) with its parents' names."""
        scope = Scope(version.tenant)
        return self._store.read(lambda r: views.version_view(version, _names(r, scope, version.parents)))

    def open_file(
        self, principal: Principal, name: DatasetName, number: int, path: str, *, purpose: Purpose = Purpose.ANALYSE
    ) -> Iterator[bytes]:
        """Yield one file. Raises: NotFoundError, DatasetGateError: quarantined and the purpose is not `repair`."""
        version = self._store.read(lambda r: _version(r, principal, name, number))
        is_repair = version.state is VersionState.QUARANTINED and purpose is Purpose.REPAIR
        if version.state not in _DOWNLOADABLE and not is_repair:
            raise DatasetGateError(
                f"dataset {version_name(version)} is {version.state.value}: its files are not given out",
                hint="add ?purpose=repair to read it for a repair"
                if version.state is VersionState.QUARANTINED
                else f"see: factory datasets show {name}",
                facts={"dataset": name, "version": number, "state": version.state.value},
            )
        return read_file(self._tables, version, path)

    def deprecate(self, principal: Principal, name: DatasetName, number: int, *, now: Instant) -> VersionView:
        """Withdraw a version: no new jobs read it. A repeat changes nothing.

        Raises: NotFoundError; ConflictError: it was never published or quarantined.
        """
        principal.require(*WRITERS)

        def work(tx: RegistryTx) -> VersionView:
            version = _version(tx, principal, name, number)
            if version.state not in (*_DOWNLOADABLE, VersionState.QUARANTINED):
                raise ConflictError(
                    f"dataset {version_name(version)} is {version.state.value}: there is nothing to withdraw",
                    hint="only published or quarantined versions are withdrawn",
                )
            if version.state is not VersionState.DEPRECATED:
                version = tx.put_version(replace(version, state=VersionState.DEPRECATED))
                move_head(tx, version.tenant, name)
                tx.put_audit(now, principal.id, version.tenant, "dataset.deprecate", f'{{"version":"{version.id}"}}')
            return views.version_view(version, _names(tx, principal.scope, version.parents))

        return self._store.transact(work)


def _made_from(tx: RegistryTx, upload: Upload, version_id: VersionId) -> None:
    """Note that a version needs the upload's bytes. The write meets housekeeping's: one of the two must try again."""
    if upload.state is UploadState.KEPT and version_id not in upload.versions:
        tx.put_upload(replace(upload, versions=(*upload.versions, version_id)))


def _version(reader: RegistryReader, principal: Principal, name: DatasetName, number: int) -> DatasetVersion:
    tenant = principal.acting_tenant()
    version = reader.version_by_number(principal.scope, tenant, name, number)
    if version is not None:
        return version
    dataset = reader.dataset(principal.scope, tenant, name)
    if dataset is None:
        raise _no_dataset(reader, principal.scope, name)
    raise NotFoundError("dataset version", f"{name}@{number}", hint=f"the latest is {name}@{dataset.last}")


def _no_dataset(reader: RegistryReader, scope: Scope, name: DatasetName) -> NotFoundError:
    return NotFoundError("dataset", name, [d.name for d in reader.datasets(scope)], hint="see: factory datasets list")


def _dataset_view(reader: RegistryReader, scope: Scope, dataset: Dataset) -> DatasetView:
    versions = reader.versions(scope, dataset.tenant, dataset.name)
    parents = [parent for version in versions for parent in version.parents]
    return views.dataset_view(dataset, versions, _names(reader, scope, parents))


def _names(reader: RegistryReader, scope: Scope, ids: Iterable[VersionId]) -> dict[str, str]:
    found = (reader.version(scope, version_id) for version_id in dict.fromkeys(ids))
    return {version.id: version_name(version) for version in found if version is not None}


def _request_digest(upload: Upload, contract: Contract) -> str:
    return hashlib.sha256(f"{upload.sha256}\n{upload.format}\n{contract_digest(contract)}".encode()).hexdigest()


def _plain_name(filename: str) -> str:
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in name if c.isprintable())[:255] or "upload"
