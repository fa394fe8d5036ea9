"""Tenants, queues, keys, and the scope of a call.

Rule 9: the tenant comes from the token and `Scope` is a required argument of every store call.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from factory.domain.ids import KeyId, PoolName, QueueName, TenantId
from factory.domain.time import Instant
from factory.errors import ForbiddenError, InvalidRequestError

__all__ = ["PLATFORM", "WRITERS", "Key", "Principal", "Queue", "Quota", "Role", "Scope", "Tenant"]


class Role(StrEnum):
    """What a key may do. Roles of a tenant see that tenant only."""

    VIEWER = "viewer"  # reads
    OPERATOR = "operator"  # submits jobs, registers data, deploys
    ADMIN = "admin"  # operator, and the tenant's keys
    PLATFORM = "platform"  # everything, every tenant: tenants, queues, pools, nodes
    RUNNER = "runner"  # the runner protocol only
    METRICS = "metrics"  # /metrics only


WRITERS = (Role.OPERATOR, Role.ADMIN, Role.PLATFORM)  # may change things of a tenant


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows a store call may see: one tenant's, or all (`PLATFORM`)."""

    tenant: TenantId | None

    def covers(self, tenant: TenantId) -> bool:
        """True if rows of `tenant` are visible."""
        return self.tenant is None or self.tenant == tenant


PLATFORM = Scope(None)  # only for the control loop, runners and platform keys


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call."""

    id: str  # key id, attempt id or "control"
    role: Role
    tenant: TenantId | None  # None for platform, runner and metrics keys

    @property
    def scope(self) -> Scope:
        """What its store calls may see."""
        return Scope(self.tenant)

    def require(self, *roles: Role) -> None:
        """Go on only with one of these roles. Raises: ForbiddenError."""
        if self.role not in roles:
            allowed = ", ".join(r.value for r in roles)
            raise ForbiddenError(
                f"a key of role {self.role.value} may not do this", hint=f"use a key of one of the roles: {allowed}"
            )

    def acting_tenant(self) -> TenantId:
        """Return the tenant it acts in. Raises: InvalidRequestError: a platform key that named none."""
        if self.tenant is None:
            raise InvalidRequestError(
                "this key belongs to no tenant, and the request names none",
                hint="set the tenant: FACTORY_TENANT, Client(tenant=…) or the header X-Factory-Tenant",
            )
        return self.tenant


@dataclass(frozen=True, slots=True)
class Tenant:
    """A department."""

    id: TenantId
    title: str = ""
    created_at: Instant = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of one pool a queue may hold at once."""

    pool: PoolName
    nominal_milli: int  # thousandths of a slot
    borrowing_milli: int | None = None  # above nominal; None = no limit: then the quota bounds nothing in this queue
    lending_milli: int | None = None  # of nominal, while the queue does not need it; None = all may be lent


@dataclass(frozen=True, slots=True)
class Queue:
    """Where a tenant's jobs wait. A pool that `quotas` does not name is not limited for this queue."""

    name: QueueName
    tenant: TenantId
    parent: QueueName | None = None
    weight: int = 1  # >= 0
    quotas: tuple[Quota, ...] = ()
    version: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as stored: never the secret, only its SHA-256."""

    id: KeyId  # public part, shown in lists
    digest: str  # sha256 hex of the whole secret
    role: Role
    tenant: TenantId | None
    title: str = ""
    created_at: Instant = 0
    expires_at: Instant | None = None
    revoked_at: Instant | None = None
    version: int = 0

    def is_valid(self, now: Instant) -> bool:
        """True if it is neither revoked nor over."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
