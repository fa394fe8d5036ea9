"""Models, versions, lineage, aliases. Our database is the truth; MLflow is a projection that reconcile repairs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from factory.domain.ids import AttemptId, Digest, JobId, ModelName, TenantId, VersionId
from factory.domain.time import Instant
from factory.errors import InvalidRequestError

__all__ = ["AliasName", "Lineage", "Model", "ModelVersion", "Promotion", "PromotionCheck", "split_reference"]


class AliasName(StrEnum):
    """Aliases that move only through the gate."""

    CHAMPION = "champion"
    PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a model version came from; complete before it may be promoted."""

    dataset_versions: tuple[VersionId, ...]
    manifest_ids: tuple[Digest, ...]
    algorithm: str
    algorithm_version: str
    params_json: str
    job: JobId
    attempt: AttemptId
    code_digest: str
    seed: int


@dataclass(frozen=True, slots=True)
class Model:
    """A named series of versions of one tenant; aliases included so that they move by one guarded write."""

    tenant: TenantId
    name: ModelName
    created_at: Instant
    last: int = 0
    champion: int | None = None
    previous: int | None = None
    version: int = 0  # optimistic guard

    def number(self, which: int | AliasName) -> int | None:
        """Return the version number that a reference names now; None if the alias points nowhere."""
        match which:
            case AliasName.CHAMPION:
                return self.champion
            case AliasName.PREVIOUS:
                return self.previous
            case int():
                return which


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable model."""

    tenant: TenantId
    model: ModelName
    number: int
    format: str  # "pt2" or "safetensors"
    object_key: str  # where the file is in the object store
    size_bytes: int
    sha256: str
    signature_json: str  # request and response tensors
    metadata_json: str  # what the serving side needs: sensors, scaling, history length, …
    metrics: tuple[tuple[str, float], ...]  # final metrics, sorted by name
    evaluation_json: str  # protocol, baselines, per-slice errors
    lineage: Lineage
    created_at: Instant
    mlflow_run_id: str = ""
    mlflow_version: str = ""  # set by the projection
    version: int = 0


@dataclass(frozen=True, slots=True)
class PromotionCheck:
    """One rule of the model gate, judged."""

    rule: str
    passed: bool
    message: str
    value: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Promotion:
    """The model gate's answer."""

    passed: bool
    checks: tuple[PromotionCheck, ...]
    against: str  # "champion v3" or "baseline week"


def split_reference(text: str) -> tuple[ModelName, int | AliasName]:
    """Return the parts of "footfall-24h@3" or "footfall-24h@champion". Raises: InvalidRequestError.

    >>> split_reference("footfall-24h@3")
    ('footfall-24h', 3)
    """
    name, _, which = text.partition("@")
    if which in tuple(AliasName):
        return ModelName(name), AliasName(which)
    if not which.isdecimal() or not which.isascii() or len(which) > 9:
        raise InvalidRequestError(
            f"'{text[:100]}' names no model version", hint=f"write {name or 'name'}@3 or {name or 'name'}@champion"
        )
    return ModelName(name), int(which)
