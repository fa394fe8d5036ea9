"""Models and their versions (models/ports.py). Feed key of a model: "<tenant>/<model>"."""

from __future__ import annotations

from sqlalchemy import bindparam, select, text

from factory.control.ports import FeedKind
from factory.domain.ids import JobId, ModelName, TenantId, VersionId
from factory.domain.models import Model, ModelVersion
from factory.domain.tenancy import Scope
from factory.storage import codec
from factory.storage.session import SqlSession
from factory.storage.sql import compiled, insert_new, replace_guarded, scoped
from factory.storage.tables import model_inputs, model_versions, models

__all__ = ["ModelSql"]

_v = model_versions.c
_BY_NAME = (_v.tenant, _v.model, _v.number)
_OF_MODEL = (_v.tenant == bindparam("owner"), _v.model == bindparam("model"))

_MODELS = scoped(select(models.c.body).order_by(models.c.tenant, models.c.name), models.c.tenant)
_MODEL = compiled(
    select(models.c.body, models.c.tenant).where(
        models.c.tenant == bindparam("tenant"), models.c.name == bindparam("name")
    )
)
_VERSION = compiled(select(_v.body, _v.tenant).where(*_OF_MODEL, _v.number == bindparam("number")))
_VERSIONS = scoped(select(_v.body).where(*_OF_MODEL).order_by(_v.number), _v.tenant)
_OF_JOB = scoped(select(_v.body).where(_v.job_id == bindparam("job_id")).order_by(*_BY_NAME), _v.tenant)
_FROM_DATASET = scoped(
    select(_v.body)
    .join_from(
        model_inputs,
        model_versions,
        (model_inputs.c.tenant == _v.tenant)
        & (model_inputs.c.model == _v.model)
        & (model_inputs.c.number == _v.number),
    )
    .where(model_inputs.c.dataset_version == bindparam("dataset_version"))
    .order_by(*_BY_NAME),
    _v.tenant,
)
_UNPROJECTED = scoped(select(_v.body).where(text("is_projected = 0")).order_by(*_BY_NAME), _v.tenant, limited=True)

_INSERT_MODEL = insert_new(models)
_UPDATE_MODEL = replace_guarded(models, "body")
_INSERT_VERSION = insert_new(model_versions)
_UPDATE_VERSION = replace_guarded(model_versions, "is_projected", "body")
_INSERT_INPUT = insert_new(model_inputs)


class ModelSql(SqlSession):
    """ModelReader and ModelTx."""

    def models(self, scope: Scope) -> tuple[Model, ...]:
        return self._list(codec.MODEL, _MODELS, scope)

    def model(self, scope: Scope, tenant: TenantId, name: ModelName) -> Model | None:
        return self._one(codec.MODEL, _MODEL, scope, tenant=tenant, name=name)

    def model_version(self, scope: Scope, tenant: TenantId, name: ModelName, number: int) -> ModelVersion | None:
        return self._one(codec.MODEL_VERSION, _VERSION, scope, owner=tenant, model=name, number=number)

    def model_versions(self, scope: Scope, tenant: TenantId, name: ModelName) -> tuple[ModelVersion, ...]:
        return self._list(codec.MODEL_VERSION, _VERSIONS, scope, owner=tenant, model=name)

    def models_of_job(self, scope: Scope, job_id: JobId) -> tuple[ModelVersion, ...]:
        return self._list(codec.MODEL_VERSION, _OF_JOB, scope, job_id=job_id)

    def models_from(self, scope: Scope, dataset_version: VersionId) -> tuple[ModelVersion, ...]:
        return self._list(codec.MODEL_VERSION, _FROM_DATASET, scope, dataset_version=dataset_version)

    def unprojected(self, scope: Scope, limit: int = 100) -> tuple[ModelVersion, ...]:
        return self._list(codec.MODEL_VERSION, _UNPROJECTED, scope, limit=limit)

    def put_model(self, model: Model) -> Model:
        columns = {"tenant": model.tenant, "name": model.name}
        stored = self._put(codec.MODEL, model, _INSERT_MODEL, _UPDATE_MODEL, f"model '{model.name}'", **columns)
        self._changed(FeedKind.MODEL, f"{model.tenant}/{model.name}")
        return stored

    def put_model_version(self, version: ModelVersion) -> ModelVersion:
        name = {"tenant": version.tenant, "model": version.model, "number": version.number}
        columns = {**name, "job_id": version.lineage.job, "is_projected": 1 if version.mlflow_version else 0}
        what = f"version {version.number} of model '{version.model}'"
        stored = self._put(codec.MODEL_VERSION, version, _INSERT_VERSION, _UPDATE_VERSION, what, **columns)
        if not version.version:  # the lineage never changes
            for source in version.lineage.dataset_versions:
                self._write(_INSERT_INPUT, {**name, "dataset_version": source})
        self._changed(FeedKind.MODEL, f"{version.tenant}/{version.model}")
        return stored
