"""What tenants, queues and keys need from a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from factory.domain.ids import KeyId, QueueName, TenantId
from factory.domain.jobs import Job
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Key, Queue, Scope, Tenant
from factory.domain.time import Instant
from factory.scheduling.snapshot import Snapshot

__all__ = [
    "GovernReader",
    "GovernStore",
    "GovernTx",
    "SchedulerViews",
    "SecretSource",
    "TenantReader",
    "TenantStore",
    "TenantTx",
]

T = TypeVar("T")


class TenantReader(Protocol):
    """Reads of one consistent state."""

    def tenants(self, scope: Scope) -> tuple[Tenant, ...]: ...

    def queues(self, scope: Scope) -> tuple[Queue, ...]: ...

    def keys(self, scope: Scope) -> tuple[Key, ...]: ...

    def key(self, scope: Scope, key_id: KeyId) -> Key | None: ...


class TenantTx(TenantReader, Protocol):
    """`put_*` as in pools: version 0 inserts, else guarded replace."""

    def put_tenant(self, tenant: Tenant) -> Tenant: ...

    def put_queue(self, queue: Queue) -> Queue: ...

    def put_key(self, key: Key) -> Key: ...

    def delete_queue(self, scope: Scope, name: QueueName) -> None: ...

    def put_audit(self, at: Instant, principal: str, tenant: TenantId | None, action: str, detail_json: str) -> None:
        """Append to the audit log; never changed, never deleted."""
        ...


class TenantStore(Protocol):
    """The transactional door."""

    def read(self, fn: Callable[[TenantReader], T]) -> T: ...

    def transact(self, fn: Callable[[TenantTx], T]) -> T: ...


class GovernReader(TenantReader, Protocol):
    """Tenants and queues, and what is in them."""

    def open_jobs(self, scope: Scope) -> tuple[Job, ...]: ...

    def pools(self, scope: Scope) -> tuple[Pool, ...]: ...

    def nodes(self, scope: Scope) -> tuple[Node, ...]: ...

    def runners(self, scope: Scope) -> tuple[Runner, ...]: ...


class GovernTx(GovernReader, TenantTx, Protocol):
    """The same with writes."""


class GovernStore(Protocol):
    """The transactional door of `TenantService`."""

    def read(self, fn: Callable[[GovernReader], T]) -> T: ...

    def transact(self, fn: Callable[[GovernTx], T]) -> T: ...


class SchedulerViews(Protocol):
    """Where the scheduler's view comes from (bootstrap: kept up from the change feed)."""

    def at(self, reader: object) -> Snapshot:
        """Return the snapshot of the state that `reader` sees."""
        ...


class SecretSource(Protocol):
    """Randomness for keys (rule 12): `secrets.token_bytes` in production."""

    def __call__(self, size: int) -> bytes: ...
