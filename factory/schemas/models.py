"""Algorithms, models and endpoints on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from factory.domain.endpoints import EndpointState
from factory.schemas.common import Memory, Name, WireModel

__all__ = [
    "AlgorithmView",
    "BackendView",
    "DeployRequest",
    "EndpointView",
    "LineageOfModel",
    "ModelVersionView",
    "ModelView",
    "PromotionCheckView",
    "PromotionView",
    "RevisionView",
]


class AlgorithmView(WireModel):
    """An algorithm of the catalogue."""

    name: str
    version: str
    title: str
    description: str
    task: str
    owner: str
    licence: str
    params_schema: dict[str, Any]
    defaults: dict[str, Any]
    inputs: tuple[dict[str, Any], ...]
    metrics: tuple[dict[str, Any], ...]
    model_format: str
    code_digest: str
    request: tuple[dict[str, Any], ...] = ()
    response: tuple[dict[str, Any], ...] = ()


class LineageOfModel(WireModel):
    """What a model version came from."""

    datasets: tuple[str, ...]  # "footfall@1"
    manifest_ids: tuple[str, ...]
    algorithm: str  # "series-forecast@1.0.0"
    params: dict[str, Any]
    job: str
    attempt: str
    code_digest: str
    seed: int


class ModelVersionView(WireModel):
    """A model version."""

    model: str
    number: int
    format: str
    size_bytes: int
    sha256: str
    metrics: dict[str, float]
    evaluation: dict[str, Any]
    signature: dict[str, Any]
    lineage: LineageOfModel
    aliases: tuple[str, ...] = ()
    created_at: int
    mlflow_run_id: str = ""
    mlflow_version: str = ""


class ModelView(WireModel):
    """A model and its versions, newest first."""

    name: str
    tenant: str
    champion: int | None
    previous: int | None
    last: int
    created_at: int
    versions: tuple[ModelVersionView, ...] = ()


class PromotionCheckView(WireModel):
    """One rule of the model gate."""

    rule: str
    passed: bool
    message: str
    value: float | None = None
    threshold: float | None = None


class PromotionView(WireModel):
    """The gate said yes and `champion` moved, or it was champion already (`moved` false)."""

    model: str
    number: int
    moved: bool
    against: str
    checks: tuple[PromotionCheckView, ...]


class DeployRequest(WireModel):
    """Let an endpoint serve a model. The same request again changes nothing."""

    model: str  # "footfall-24h@champion" follows the alias, "footfall-24h@3" is pinned
    replicas: int = Field(1, ge=0, le=1000)
    cpu: float = Field(0.25, ge=0, le=100_000)
    memory: Memory = 512 << 20
    gpu: float = Field(0.0, ge=0, le=10_000)
    queue: Name | None = None
    pool: str | None = None


class RevisionView(WireModel):
    """One configuration of an endpoint."""

    number: int
    model: str  # "footfall-24h@1"
    replicas: int
    created_at: int


class BackendView(WireModel):
    """A replica that answers."""

    job: str
    attempt: str
    revision: int
    ready_at: int


class EndpointView(WireModel):
    """An endpoint."""

    name: str
    tenant: str
    state: EndpointState
    model: str  # as deployed: "footfall-24h@champion"
    url: str  # base of its Open Inference Protocol routes: <url>/v2/models/<model>/infer; "" before the ingress is up
    revisions: tuple[RevisionView, ...]
    backends: tuple[BackendView, ...]
    created_at: int
