"""The worker protocol: what a running attempt may ask and say, with its own token (`/api/v1/attempt/…`).

The token is valid while the attempt is live; an ended attempt's calls answer 401 and change nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from factory.domain.datasets import Column, Contract, FileEntry, Manifest, Measurement, Verdict, VersionState
from factory.domain.jobs import JobSpec, Purpose
from factory.schemas.common import WireModel

__all__ = [
    "InputReply",
    "MeasuredRequest",
    "MetricPoint",
    "ModelFileReply",
    "ModelReply",
    "ProgressRequest",
    "PublishedRequest",
    "ReadyRequest",
    "RegisterModelRequest",
    "RegisteredModel",
    "StageReply",
    "StageRequest",
    "UploadReply",
    "VerdictReply",
    "WorkOrder",
]


class WorkOrder(WireModel):
    """All that one replica process needs to begin; written by the runner, also GET /attempt."""

    attempt: str
    job: str
    tenant: str
    ordinal: int
    rank: int = 0
    spec: JobSpec
    api_url: str  # base of the control plane as seen from the node
    mlflow_uri: str = ""  # tracking URI for MLflow clients; the attempt's token is the bearer
    mlflow_experiment: str = ""  # name of the tenant's experiment for this job


class InputReply(WireModel):
    """Where an input's files are. GET /attempt/inputs/{name}."""

    dataset: str
    number: int
    version_id: str
    purpose: Purpose
    contract: Contract
    manifest: Manifest
    location: (
        str | None
    )  # file:// URL of the table's folder if this node may read it; else fetch /attempt/inputs/{name}/files/{path}


class UploadReply(WireModel):
    """The staged upload of an ingest job. GET /attempt/upload; bytes: GET /attempt/upload/content."""

    filename: str
    format: str
    size_bytes: int
    sha256: str
    location: str | None  # file:// URL if readable from this node


class StageRequest(WireModel):
    """Begin, or find again, the version that this job writes. POST /attempt/versions."""

    output: str  # name in spec.outputs; "" for ingest


class StageReply(WireModel):
    """The version to write. If `state` is not staged the earlier attempt got that far: go on from there."""

    version_id: str
    dataset: str
    number: int
    state: VersionState
    contract: Contract
    parents: tuple[str, ...]  # manifest ids
    location: str  # file:// URL of the table's folder
    manifest: Manifest | None = None  # set from state validated on
    manifest_id: str | None = None


class MeasuredRequest(WireModel):
    """What was written and measured. POST /attempt/versions/{id}/measured."""

    source_digest: str
    columns: tuple[Column, ...]
    rows: int
    files: tuple[FileEntry, ...]
    measurements: tuple[Measurement, ...]


class VerdictReply(WireModel):
    """The control plane's verdict. `validated`: publish now. `quarantined`: done."""

    state: VersionState
    manifest_id: str
    verdict: Verdict


class PublishedRequest(WireModel):
    """The Delta commit is made. POST /attempt/versions/{id}/published."""

    delta_version: int


class MetricPoint(WireModel):
    """One value of one metric."""

    name: str
    step: int
    value: float


class ProgressRequest(WireModel):
    """Live figures. POST /attempt/progress."""

    fraction: float = Field(ge=0, le=1)
    message: str = ""
    metrics: tuple[MetricPoint, ...] = ()


class ModelFileReply(WireModel):
    """The stored model file. PUT /attempt/model-file (raw body)."""

    object_key: str
    size_bytes: int
    sha256: str


class RegisterModelRequest(WireModel):
    """Register the trained model; once per job (a repeat answers the same version). POST /attempt/models."""

    model: str
    format: str
    object_key: str
    sha256: str
    signature: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    evaluation: dict[str, Any] = {}
    code_digest: str = ""
    mlflow_run_id: str = ""


class RegisteredModel(WireModel):
    """The model version made."""

    model: str
    number: int


class ModelReply(WireModel):
    """The model that a predict or service job uses. GET /attempt/model; bytes: GET /attempt/model/content."""

    model: str
    number: int
    format: str
    sha256: str
    algorithm: str
    algorithm_version: str
    metadata: dict[str, Any]
    signature: dict[str, Any]
    location: str | None  # file:// URL if readable from this node


class ReadyRequest(WireModel):
    """A service replica listens. POST /attempt/ready."""

    host: str
    port: int
