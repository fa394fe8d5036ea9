"""The model registry: registered by attempts with whole lineage, promoted only through the gate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from factory.domain.ids import AttemptId, ModelName
from factory.domain.models import ModelVersion
from factory.domain.tenancy import Principal
from factory.domain.time import Instant
from factory.models.ports import GateStore
from factory.schemas.attempt import ModelFileReply, ModelReply, RegisteredModel, RegisterModelRequest
from factory.schemas.common import Page
from factory.schemas.models import ModelVersionView, ModelView, PromotionView

__all__ = ["ModelService"]


class ModelService:
    """Models of a tenant."""

    def __init__(self, store: GateStore, objects: Blobs) -> None: ...

    def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[ModelView]: ...

    def get(self, principal: Principal, name: ModelName) -> ModelView: ...

    def version(self, principal: Principal, name: ModelName, number: int) -> ModelVersionView: ...

    def resolve(self, principal: Principal, ref: str) -> ModelVersion:
        """Return the version that "name@3" or "name@champion" names now. Raises: NotFoundError."""
        ...

    def open_file(self, principal: Principal, name: ModelName, number: int) -> Iterator[bytes]:
        """Yield the model file's bytes."""
        ...

    def promote(self, principal: Principal, name: ModelName, number: int, *, now: Instant) -> PromotionView:
        """Move `champion` if the gate says yes; the old one becomes `previous`. Raises: PromotionRefusedError."""
        ...

    # --- what attempts do; each raises UnauthenticatedError when the attempt is over --------------------------------

    def put_file(self, attempt_id: AttemptId, chunks: Iterable[bytes], *, limit_bytes: int) -> ModelFileReply:
        """Store the model file of this attempt."""
        ...

    def register(self, attempt_id: AttemptId, request: RegisterModelRequest, *, now: Instant) -> RegisteredModel:
        """Register the trained model, once per job. Raises: ForbiddenError: the job read data for repair."""
        ...

    def model_of(self, attempt_id: AttemptId) -> ModelReply:
        """Return the model that a predict or service job uses. Raises: NotFoundError: the job names none."""
        ...

    def open_model(self, attempt_id: AttemptId) -> Iterator[bytes]:
        """Yield its file's bytes."""
        ...
