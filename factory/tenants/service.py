"""Tenants, queues and keys, and who a secret belongs to. Every change is audited."""

from __future__ import annotations

from factory.domain.ids import KeyId, QueueName, TenantId
from factory.domain.tenancy import Principal
from factory.domain.time import Instant
from factory.schemas.platform import (
    KeyCreated,
    KeyRequest,
    KeyView,
    QueueRequest,
    QueueView,
    TenantRequest,
    TenantView,
)
from factory.tenants.ports import GovernStore, SecretSource

__all__ = ["KEY_CACHE_MS", "TenantService"]

KEY_CACHE_MS = 5_000  # how long a revoked key may still be accepted by another process


class TenantService:
    """Who there is, and what they may do."""

    def __init__(self, store: GovernStore, *, secrets: SecretSource) -> None: ...

    def authenticate(self, secret: str, *, now: Instant) -> Principal:
        """Return whose key this is. Raises: UnauthenticatedError: unknown, expired or revoked."""
        ...

    def put_tenant(self, principal: Principal, name: TenantId, request: TenantRequest, *, now: Instant) -> TenantView:
        """Create or rename a tenant; its own queue comes with it (platform role)."""
        ...

    def list_tenants(self, principal: Principal) -> tuple[TenantView, ...]: ...

    def put_queue(self, principal: Principal, name: QueueName, request: QueueRequest, *, now: Instant) -> QueueView:
        """Create or change a queue (platform role)."""
        ...

    def delete_queue(self, principal: Principal, name: QueueName, *, now: Instant) -> None:
        """Remove a queue without open jobs and children (platform role). Raises: NotFoundError, ConflictError."""
        ...

    def list_queues(self, principal: Principal) -> tuple[QueueView, ...]: ...

    def create_key(self, principal: Principal, request: KeyRequest, *, now: Instant) -> KeyCreated:
        """Make a key: platform any, a tenant's admin its own tenant's up to admin. The secret is in this answer only."""
        ...

    def list_keys(self, principal: Principal) -> tuple[KeyView, ...]: ...

    def revoke_key(self, principal: Principal, key_id: KeyId, *, now: Instant) -> KeyView:
        """End a key: here at once, everywhere within 5 s. Raises: NotFoundError."""
        ...

    def ingress_keys(self, *, now: Instant) -> dict[str, str]:
        """Return sha256 hex of each valid key that may call endpoints -> tenant, "*" = all."""
        ...
