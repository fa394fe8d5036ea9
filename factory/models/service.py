"""The model registry: registered by attempts with whole lineage, promoted only through the gate.

Our rows are the truth. MLflow's registry is a projection of them (models/projection.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from factory.domain.ids import AttemptId, Digest, ModelName, VersionId
from factory.domain.jobs import AlgorithmEntry, Attempt, Job, ModelRef, Operation, Purpose, ServiceEntry
from factory.domain.models import Lineage, Model, ModelVersion, Promotion, split_reference
from factory.domain.tenancy import PLATFORM, WRITERS, Principal, Scope
from factory.domain.time import Instant
from factory.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    PromotionRefusedError,
)
from factory.lifecycle.liveness import job_of, require_live
from factory.models import views
from factory.models.ports import Blobs, GateReader, GateStore, GateTx
from factory.quality.evaluations import evaluation_from_mapping
from factory.quality.models import SAFE_FORMATS, PromotionPolicy, judge_promotion
from factory.schemas.attempt import ModelFileReply, ModelReply, RegisteredModel, RegisterModelRequest
from factory.schemas.common import Page
from factory.schemas.models import ModelVersionView, ModelView, PromotionView

__all__ = ["ModelService"]


class ModelService:
    """Models of a tenant."""

    def __init__(self, store: GateStore, objects: Blobs, *, policy: PromotionPolicy | None = None) -> None:
        """Join the service. `policy`: how strict the gate is; None = the default."""
        self._store = store
        self._objects = objects
        self._policy = policy or PromotionPolicy()

    # --- look -------------------------------------------------------------------------------------------------------

    def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[ModelView]:
        """Return models by tenant and name, with their versions; `cursor` is the last one seen."""
        size = max(1, min(limit, 1000))

        def look(reader: GateReader) -> Page[ModelView]:
            keyed = sorted(((f"{m.tenant}/{m.name}", m) for m in reader.models(principal.scope)), key=lambda p: p[0])
            rest = [(key, m) for key, m in keyed if cursor is None or key > cursor]
            items = tuple(_model_view(reader, model) for _, model in rest[:size])
            return Page[ModelView](items=items, next_cursor=rest[size - 1][0] if len(rest) > size else None)

        return self._store.read(look)

    def get(self, principal: Principal, name: ModelName) -> ModelView:
        """Return a model and its versions, newest first. Raises: NotFoundError."""
        return self._store.read(lambda r: _model_view(r, _model(r, principal, name)))

    def version(self, principal: Principal, name: ModelName, number: int) -> ModelVersionView:
        """Return a version with its metrics and lineage. Raises: NotFoundError."""

        def look(reader: GateReader) -> ModelVersionView:
            model, version = _version(reader, principal, name, number)
            return views.version_view(version, model, _names(reader, (version,)))

        return self._store.read(look)

    def resolve(self, principal: Principal, ref: str) -> ModelVersion:
        """Return the version that "name@3" or "name@champion" names now. Raises: NotFoundError, InvalidRequestError."""
        name, which = split_reference(ref)

        def look(reader: GateReader) -> ModelVersion:
            number = _model(reader, principal, name).number(which)
            if number is None:
                raise NotFoundError("model", ref, hint=f"promote a version first: factory models promote {name}@1")
            return _version(reader, principal, name, number)[1]

        return self._store.read(look)

    def open_file(self, principal: Principal, name: ModelName, number: int) -> Iterator[bytes]:
        """Yield the model file's bytes. Raises: NotFoundError."""
        _, version = self._store.read(lambda r: _version(r, principal, name, number))
        return self._objects.get(version.object_key)

    # --- the gate ---------------------------------------------------------------------------------------------------

    def promote(self, principal: Principal, name: ModelName, number: int, *, now: Instant) -> PromotionView:
        """Move `champion` if the gate says yes; the old one becomes `previous`. The present champion: nothing moves.

        Raises: NotFoundError; PromotionRefusedError: `facts["checks"]` names each rule with its numbers.
        """
        principal.require(*WRITERS)

        def work(tx: GateTx) -> PromotionView:
            model, candidate = _version(tx, principal, name, number)
            if model.champion == number:
                return views.promotion_view(candidate, Promotion(True, (), f"champion v{number}"), moved=False)
            champion = (
                None
                if model.champion is None
                else tx.model_version(Scope(model.tenant), model.tenant, name, model.champion)
            )
            answer = judge_promotion(candidate, champion, policy=self._policy)
            view = views.promotion_view(candidate, answer, moved=True)
            if not answer.passed:
                raise _refused(candidate, view)
            tx.put_model(replace(model, champion=number, previous=model.champion))
            detail = {"model": name, "champion": number, "previous": model.champion, "against": answer.against}
            tx.put_audit(now, principal.id, model.tenant, "model.promote", json.dumps(detail, sort_keys=True))
            return view

        return self._store.transact(work)

    # --- what attempts do; each raises UnauthenticatedError when the attempt is over --------------------------------

    def put_file(self, attempt_id: AttemptId, chunks: Iterable[bytes], *, limit_bytes: int) -> ModelFileReply:
        """Store the model file of this attempt; a repeat before it is registered replaces it.

        Raises: ForbiddenError: the job makes no model; ConflictError: it is registered already; PayloadTooLargeError.
        """

        def check(reader: GateReader) -> str:
            job, attempt = _live(reader, attempt_id)
            _require_training(job)
            if reader.models_of_job(Scope(job.tenant), job.id):
                raise ConflictError(f"job {job.id} has registered its model: the file does not change any more")
            return _file_key(job, attempt)

        key = self._store.read(check)
        stored = self._objects.put(key, chunks, limit_bytes=limit_bytes)
        return ModelFileReply(object_key=key, size_bytes=stored.size_bytes, sha256=stored.sha256)

    def register(self, attempt_id: AttemptId, request: RegisterModelRequest, *, now: Instant) -> RegisteredModel:
        """Register the trained model, once per job: a repeat, also by a later attempt, answers the same version.

        Raises: ForbiddenError: the job read data for repair, or trains no model; InvalidRequestError: unsafe format,
        another file than was stored, a figure that is no number; ConflictError: its lineage is not whole.
        """
        if request.format not in SAFE_FORMATS:
            raise InvalidRequestError(
                f"'{request.format}' is not a safe format: opening it could run code",
                hint=f"export the model as {' or '.join(SAFE_FORMATS)}",
            )
        evaluation = _json(request.evaluation, "evaluation")
        if request.evaluation:
            evaluation_from_mapping(request.evaluation)
        stored = self._objects.info(request.object_key)

        def work(tx: GateTx) -> RegisteredModel:
            job, attempt = _live(tx, attempt_id)
            entry = _require_training(job)
            scope = Scope(job.tenant)
            made = tx.models_of_job(scope, job.id)
            if made:
                return RegisteredModel(model=made[0].model, number=made[0].number)
            if request.model != entry.register_model:
                raise InvalidRequestError(
                    f"job {job.id} registers '{entry.register_model}', not '{request.model}'",
                    hint="name it in the job's algorithm.register_model",
                )
            if request.object_key != _file_key(job, attempt) or stored is None or stored.sha256 != request.sha256:
                raise InvalidRequestError(
                    "the model file is not the one that this attempt stored", hint="PUT /attempt/model-file first"
                )
            name = ModelName(request.model)
            model = tx.model(scope, job.tenant, name) or Model(job.tenant, name, now)
            model = tx.put_model(replace(model, last=model.last + 1))
            version = ModelVersion(
                tenant=job.tenant,
                model=name,
                number=model.last,
                format=request.format,
                object_key=request.object_key,
                size_bytes=stored.size_bytes,
                sha256=stored.sha256,
                signature_json=_json(request.signature, "signature"),
                metadata_json=_json(request.metadata, "metadata"),
                metrics=_metrics(request.metrics),
                evaluation_json=evaluation,
                lineage=_lineage(tx, job, attempt, entry, request.code_digest),
                created_at=now,
                mlflow_run_id=request.mlflow_run_id,
            )
            tx.put_model_version(version)
            return RegisteredModel(model=name, number=model.last)

        return self._store.transact(work)

    def model_of(self, attempt_id: AttemptId) -> ModelReply:
        """Return the model that a predict or service job uses. Raises: NotFoundError: the job names none."""
        version = self._store.read(lambda r: _used(r, attempt_id))
        path = self._objects.local_path(version.object_key)
        return ModelReply(
            model=version.model,
            number=version.number,
            format=version.format,
            sha256=version.sha256,
            algorithm=version.lineage.algorithm,
            algorithm_version=version.lineage.algorithm_version,
            metadata=json.loads(version.metadata_json),
            signature=json.loads(version.signature_json),
            location=None if path is None else path.as_uri(),
        )

    def open_model(self, attempt_id: AttemptId) -> Iterator[bytes]:
        """Yield its file's bytes."""
        return self._objects.get(self._store.read(lambda r: _used(r, attempt_id)).object_key)


def _model(reader: GateReader, principal: Principal, name: ModelName) -> Model:
    model = reader.model(principal.scope, principal.acting_tenant(), name)
    if model is None:
        known = [m.name for m in reader.models(principal.scope)]
        raise NotFoundError("model", name, known, hint="see: factory models list")
    return model


def _version(reader: GateReader, principal: Principal, name: ModelName, number: int) -> tuple[Model, ModelVersion]:
    model = _model(reader, principal, name)
    version = reader.model_version(principal.scope, model.tenant, name, number)
    if version is None:
        raise NotFoundError("model version", f"{name}@{number}", hint=f"the latest is {name}@{model.last}")
    return model, version


def _model_view(reader: GateReader, model: Model) -> ModelView:
    versions = reader.model_versions(Scope(model.tenant), model.tenant, model.name)
    return views.model_view(model, versions, _names(reader, versions))


def _names(reader: GateReader, versions: Iterable[ModelVersion]) -> dict[VersionId, str]:
    names: dict[VersionId, str] = {}
    for version in versions:
        for version_id in version.lineage.dataset_versions:
            if version_id not in names:
                found = reader.version(Scope(version.tenant), version_id)
                names[version_id] = version_id if found is None else f"{found.dataset}@{found.number}"
    return names


def _refused(candidate: ModelVersion, view: PromotionView) -> PromotionRefusedError:
    failed = [check for check in view.checks if not check.passed]
    return PromotionRefusedError(
        f"{candidate.model}@{candidate.number} is not promoted over {view.against}: "
        + "; ".join(f"{check.rule}: {check.message}" for check in failed),
        hint="train a better version, or evaluate both the same way",
        facts={
            "model": candidate.model,
            "version": candidate.number,
            "against": view.against,
            "checks": [check.model_dump() for check in view.checks],
        },
    )


def _live(reader: GateReader, attempt_id: AttemptId) -> tuple[Job, Attempt]:
    return require_live(reader.job(PLATFORM, job_of(attempt_id)), attempt_id)


def _require_training(job: Job) -> AlgorithmEntry:
    """A model comes from a catalogue algorithm's training on data that passed its gate, and from nothing else."""
    if any(read.purpose is Purpose.REPAIR for read in job.spec.inputs):
        raise ForbiddenError(
            f"job {job.id} reads data for repair: it writes datasets, never models",
            hint="train on the repaired version, in a job of its own",
        )
    entry = job.spec.entry
    if not isinstance(entry, AlgorithmEntry) or entry.operation is not Operation.TRAIN or entry.register_model is None:
        raise ForbiddenError(
            f"job {job.id} registers no model", hint="train a catalogue algorithm with `register_model` set"
        )
    return entry


def _file_key(job: Job, attempt: Attempt) -> str:
    return f"models/{job.tenant}/{attempt.id}/model"


def _lineage(tx: GateTx, job: Job, attempt: Attempt, entry: AlgorithmEntry, code_digest: str) -> Lineage:
    manifests: dict[VersionId, Digest] = {}
    for read in job.spec.inputs:
        version = tx.version(Scope(job.tenant), read.version_id)
        if version is None or version.manifest_id is None:
            raise ConflictError(
                f"the lineage is not whole: dataset {read.dataset}@{read.version} has no manifest",
                hint="train on a published version",
            )
        manifests[read.version_id] = version.manifest_id
    if not manifests:
        raise ConflictError(
            f"the lineage is not whole: job {job.id} reads no dataset", hint="give it its data as input"
        )
    return Lineage(
        dataset_versions=tuple(manifests),
        manifest_ids=tuple(manifests.values()),
        algorithm=entry.algorithm,
        algorithm_version=entry.version,
        params_json=entry.params_json,
        job=job.id,
        attempt=attempt.id,
        code_digest=code_digest or attempt.code_digest or entry.code_digest,
        seed=job.spec.seed,
    )


def _used(reader: GateReader, attempt_id: AttemptId) -> ModelVersion:
    job, _ = _live(reader, attempt_id)
    entry = job.spec.entry
    ref: ModelRef | None = entry.model if isinstance(entry, AlgorithmEntry | ServiceEntry) else None
    version = None if ref is None else reader.model_version(Scope(job.tenant), job.tenant, ref.model, ref.version)
    if version is None:
        raise NotFoundError("model of job", job.id, hint="only predict jobs and endpoints use a model")
    return version


def _metrics(metrics: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    _json(dict(metrics), "metrics")
    return tuple((name, float(metrics[name])) for name in sorted(metrics))


def _json(value: Mapping[str, object], what: str) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as exc:
        raise InvalidRequestError(f"{what}: a figure is not finite", hint="leave it out") from exc
