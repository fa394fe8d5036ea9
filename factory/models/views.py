"""Models as the API shows them: domain values to wire models, without IO."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from factory.domain.ids import VersionId
from factory.domain.models import AliasName, Model, ModelVersion, Promotion
from factory.schemas.models import LineageOfModel, ModelVersionView, ModelView, PromotionCheckView, PromotionView

__all__ = ["model_view", "promotion_view", "version_view"]


def model_view(model: Model, versions: Iterable[ModelVersion], names: Mapping[VersionId, str]) -> ModelView:
    """Return a model and its versions, newest first. `names`: dataset version id -> "footfall@1"."""
    newest_first = sorted(versions, key=lambda v: v.number, reverse=True)
    return ModelView(
        name=model.name,
        tenant=model.tenant,
        champion=model.champion,
        previous=model.previous,
        last=model.last,
        created_at=model.created_at,
        versions=tuple(version_view(v, model, names) for v in newest_first),
    )


def version_view(version: ModelVersion, model: Model, names: Mapping[VersionId, str]) -> ModelVersionView:
    """Return a version; a dataset version that `names` does not know is shown by its id."""
    lineage = version.lineage
    return ModelVersionView(
        model=version.model,
        number=version.number,
        format=version.format,
        size_bytes=version.size_bytes,
        sha256=version.sha256,
        metrics=dict(version.metrics),
        evaluation=json.loads(version.evaluation_json or "{}"),
        signature=json.loads(version.signature_json or "{}"),
        lineage=LineageOfModel(
            datasets=tuple(names.get(v, v) for v in lineage.dataset_versions),
            manifest_ids=lineage.manifest_ids,
            algorithm=f"{lineage.algorithm}@{lineage.algorithm_version}",
            params=json.loads(lineage.params_json or "{}"),
            job=lineage.job,
            attempt=lineage.attempt,
            code_digest=lineage.code_digest,
            seed=lineage.seed,
        ),
        aliases=tuple(alias.value for alias in AliasName if model.number(alias) == version.number),
        created_at=version.created_at,
        mlflow_run_id=version.mlflow_run_id,
        mlflow_version=version.mlflow_version,
    )


def promotion_view(version: ModelVersion, promotion: Promotion, *, moved: bool) -> PromotionView:
    """Return the gate's answer."""
    return PromotionView(
        model=version.model,
        number=version.number,
        moved=moved,
        against=promotion.against,
        checks=tuple(
            PromotionCheckView(rule=c.rule, passed=c.passed, message=c.message, value=c.value, threshold=c.threshold)
            for c in promotion.checks
        ),
    )
