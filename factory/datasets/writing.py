"""What running attempts do with dataset versions: read their inputs, stage, measure, publish.

Every call checks in its own transaction that the attempt is the job's live one, and that the version is its job's: of
the job that produces it, or of the one that publishes what that job left (ADR 7).
The order of a version's life is staged → (validated → published) | quarantined; a step repeated after a crash, by the
same attempt or the next, answers what the first one made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from factory.datasets import views
from factory.datasets.heads import move_head, next_number, read_file
from factory.datasets.manifests import manifest_id
from factory.datasets.ports import Blobs, JobSubmitter, RegistryReader, RegistryStore, RegistryTx, TableFiles
from factory.datasets.settling import take_up
from factory.datasets.tables import is_safe_path
from factory.datasets.views import version_name
from factory.domain.datasets import DatasetVersion, FileEntry, Manifest, Upload, VersionState
from factory.domain.ids import AttemptId, IdSource, VersionId
from factory.domain.jobs import Attempt, DatasetInput, IngestEntry, Job, Purpose
from factory.domain.tenancy import PLATFORM, Scope
from factory.domain.time import Instant
from factory.errors import ConflictError, InvalidRequestError, NotFoundError
from factory.lifecycle.liveness import job_of, require_live
from factory.quality.contracts import contract_digest, contract_from_mapping
from factory.quality.verdicts import judge
from factory.schemas.attempt import (
    InputReply,
    MeasuredRequest,
    PublishedRequest,
    StageReply,
    StageRequest,
    VerdictReply,
)
from factory.schemas.datasets import VersionView

__all__ = ["DatasetAttempts"]


class DatasetAttempts:
    """The data registry as a running attempt sees it.

    Every method raises UnauthenticatedError when the attempt is over, and NotFoundError for what is not its job's.
    """

    def __init__(
        self, store: RegistryStore, objects: Blobs, *, ids: IdSource, jobs: JobSubmitter, tables: TableFiles
    ) -> None:
        self._store = store
        self._objects = objects
        self._ids = ids
        self._jobs = jobs
        self._tables = tables

    # --- read -------------------------------------------------------------------------------------------------------

    def input(self, attempt_id: AttemptId, name: str) -> InputReply:
        """Return where an input's files are."""
        read, version = self._store.read(lambda r: _input(r, attempt_id, name))
        if version.manifest is None:
            raise ConflictError(f"dataset {version_name(version)} has no files yet")
        return InputReply(
            dataset=version.dataset,
            number=version.number,
            version_id=version.id,
            purpose=read.purpose,
            contract=version.contract,
            manifest=version.manifest,
            location=self._tables.location(version.tenant, version.dataset),
        )

    def open_input_file(self, attempt_id: AttemptId, name: str, path: str) -> Iterator[bytes]:
        """Yield one file of an input."""
        _, version = self._store.read(lambda r: _input(r, attempt_id, name))
        return read_file(self._tables, version, path)

    def upload_of(self, attempt_id: AttemptId) -> Upload:
        """Return the staged upload that an ingest job reads."""
        return self._store.read(lambda r: _upload(r, attempt_id))

    def open_upload(self, attempt_id: AttemptId) -> Iterator[bytes]:
        """Yield its bytes."""
        return self._objects.get(self.upload_of(attempt_id).object_key)

    # --- write ------------------------------------------------------------------------------------------------------

    def stage(self, attempt_id: AttemptId, request: StageRequest, *, now: Instant) -> StageReply:
        """Begin, or find again, the version that this job writes under an output's name ("" = what it ingests)."""

        def work(tx: RegistryTx) -> StageReply:
            job, attempt = _live(tx, attempt_id)
            # what `_live` saw must hold when this commits: the job's end settles only the versions that it sees
            tx.pin_job(job)
            version = self._staged(tx, job, attempt, request.output, now)
            if version.state is VersionState.STAGED and version.attempt != attempt.id:
                version = tx.put_version(replace(version, attempt=attempt.id))
            return StageReply(
                version_id=version.id,
                dataset=version.dataset,
                number=version.number,
                state=version.state,
                contract=version.contract,
                parents=_parents(tx, version),
                location=self._tables.location(version.tenant, version.dataset),
                manifest=version.manifest,
                manifest_id=version.manifest_id,
            )

        return self._store.transact(work)

    def measured(
        self, attempt_id: AttemptId, version_id: VersionId, request: MeasuredRequest, *, now: Instant
    ) -> VerdictReply:
        """Judge what was written: validated (publish now) or quarantined. A repeat answers the first verdict."""

        def work(tx: RegistryTx) -> VerdictReply:
            job, attempt = _live(tx, attempt_id)
            version = _own(tx, job, version_id)
            if version.state is VersionState.STAGED:
                version = tx.put_version(_judged(tx, version, attempt, request))
            if version.verdict is None or version.manifest_id is None:
                raise ConflictError(f"dataset {version_name(version)} is {version.state.value}: it cannot be measured")
            return VerdictReply(state=version.state, manifest_id=version.manifest_id, verdict=version.verdict)

        return self._store.transact(work)

    def published(
        self, attempt_id: AttemptId, version_id: VersionId, request: PublishedRequest, *, now: Instant
    ) -> VersionView:
        """The Delta commit is made: published, and the head moves. A repeat changes nothing.

        Raises: ConflictError: the verdict is not `pass`.
        """

        def work(tx: RegistryTx) -> VersionView:
            job, _ = _live(tx, attempt_id)
            version = _own(tx, job, version_id)
            if version.state is VersionState.VALIDATED:
                version = tx.put_version(
                    replace(
                        version,
                        state=VersionState.PUBLISHED,
                        delta_version=request.delta_version,
                        published_at=now,
                        message="",
                    )
                )
                move_head(tx, version.tenant, version.dataset)
            if version.state is not VersionState.PUBLISHED:
                raise ConflictError(
                    f"dataset {version_name(version)} is {version.state.value}: only a validated version is published",
                    hint="measure it first",
                )
            names = {str(v.id): version_name(v) for v in _parent_versions(tx, version)}
            return views.version_view(version, names)

        return self._store.transact(work)

    def _staged(self, tx: RegistryTx, job: Job, attempt: Attempt, output: str, now: Instant) -> DatasetVersion:
        scope = Scope(job.tenant)
        if isinstance(job.spec.entry, IngestEntry):
            version = tx.version(scope, job.spec.entry.version_id)
            if version is None or output:
                raise NotFoundError("output", output)
            return version
        for version in tx.versions_of_job(scope, job.id):
            if version.output == output and version.state is not VersionState.FAILED:
                return version
        wanted = next((o for o in job.spec.outputs if o.name == output), None)
        if wanted is None:
            raise NotFoundError(
                "output", output, [o.name for o in job.spec.outputs], hint="name it in the job's outputs"
            )
        take_up(tx, job.tenant, wanted.dataset, now, jobs=self._jobs)
        return tx.put_version(
            DatasetVersion(
                id=VersionId(self._ids.new("dsv")),
                tenant=job.tenant,
                dataset=wanted.dataset,
                number=next_number(tx, job.tenant, wanted.dataset, now),
                state=VersionState.STAGED,
                contract=contract_from_mapping(json.loads(wanted.contract_yaml or "{}")),
                created_at=now,
                created_by=job.submitted_by,
                job=job.id,
                attempt=attempt.id,
                output=output,
                parents=tuple(dict.fromkeys(i.version_id for i in job.spec.inputs)),
                repaired=any(i.purpose is Purpose.REPAIR for i in job.spec.inputs),
            )
        )


def _judged(tx: RegistryTx, version: DatasetVersion, attempt: Attempt, request: MeasuredRequest) -> DatasetVersion:
    """Return the version with its verdict and manifest."""
    for file in request.files:
        _check_file(version, file)
    if sum(file.rows for file in request.files) != request.rows:
        raise InvalidRequestError(f"the files hold {sum(f.rows for f in request.files)} rows, not {request.rows}")
    upload = tx.upload(PLATFORM, version.upload) if version.upload is not None else None
    manifest = Manifest(
        dataset=version.dataset,
        source_digest=f"sha256:{upload.sha256}" if upload is not None else request.source_digest,
        columns=request.columns,
        rows=request.rows,
        files=request.files,
        contract_digest=contract_digest(version.contract),
        parents=_parents(tx, version),
    )
    verdict = judge(version.contract, request.measurements)
    return replace(
        version,
        state=VersionState.VALIDATED if verdict.passed else VersionState.QUARANTINED,
        manifest=manifest,
        manifest_id=manifest_id(manifest),
        verdict=verdict,
        attempt=attempt.id,
    )


def _check_file(version: DatasetVersion, file: FileEntry) -> None:
    """A version owns the files that bear its id: no job can name those of another one, or a file elsewhere."""
    if not is_safe_path(file.path) or not file.path.rpartition("/")[2].startswith(f"{version.id}-"):
        raise InvalidRequestError(f"'{file.path}' is no file of dataset version {version.id}")


def _live(reader: RegistryReader, attempt_id: AttemptId) -> tuple[Job, Attempt]:
    return require_live(reader.job(PLATFORM, job_of(attempt_id)), attempt_id)


def _own(reader: RegistryReader, job: Job, version_id: VersionId) -> DatasetVersion:
    version = reader.version(Scope(job.tenant), version_id)
    if version is None or job.id not in (version.job, version.publisher):
        raise NotFoundError("dataset version", version_id, hint="an attempt writes the versions of its own job only")
    return version


def _input(reader: RegistryReader, attempt_id: AttemptId, name: str) -> tuple[DatasetInput, DatasetVersion]:
    job, _ = _live(reader, attempt_id)
    read = next((i for i in job.spec.inputs if i.name == name), None)
    if read is None:
        raise NotFoundError("input", name, [i.name for i in job.spec.inputs], hint="name it in the job's inputs")
    version = reader.version(Scope(job.tenant), read.version_id)
    if version is None:
        raise NotFoundError("dataset version", read.version_id)
    return read, version


def _upload(reader: RegistryReader, attempt_id: AttemptId) -> Upload:
    job, _ = _live(reader, attempt_id)
    entry = job.spec.entry
    version = reader.version(Scope(job.tenant), entry.version_id) if isinstance(entry, IngestEntry) else None
    upload = reader.upload(Scope(job.tenant), version.upload) if version is not None and version.upload else None
    if upload is None:
        raise NotFoundError("upload", job.id, hint="only ingest jobs read an upload")
    return upload


def _parent_versions(reader: RegistryReader, version: DatasetVersion) -> list[DatasetVersion]:
    found = (reader.version(Scope(version.tenant), parent) for parent in version.parents)
    return [parent for parent in found if parent is not None]


def _parents(reader: RegistryReader, version: DatasetVersion) -> tuple[str, ...]:
    return tuple(sorted(p.manifest_id for p in _parent_versions(reader, version) if p.manifest_id is not None))
