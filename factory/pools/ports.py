"""What pools, nodes and runners need from a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from factory.domain.ids import KeyId, NodeId, PoolName, RunnerId, TenantId
from factory.domain.jobs import Job
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Key, Scope, Tenant
from factory.domain.time import Instant

__all__ = ["FleetReader", "FleetStore", "FleetTx", "PoolReader", "PoolStore", "PoolTx"]

T = TypeVar("T")


class PoolReader(Protocol):
    """Reads of one consistent state. Pools and nodes of shared pools are visible to every tenant."""

    def pools(self, scope: Scope) -> tuple[Pool, ...]: ...

    def nodes(self, scope: Scope) -> tuple[Node, ...]: ...

    def runners(self, scope: Scope) -> tuple[Runner, ...]: ...


class PoolTx(PoolReader, Protocol):
    """`put_*` inserts when `value.version == 0`, else replaces the row of version `value.version`; the stored row's
    version is one more. Raises: StaleWriteError; ConflictError: insert of one that exists.
    """

    def put_pool(self, pool: Pool) -> Pool: ...

    def put_node(self, node: Node) -> Node: ...

    def put_runner(self, runner: Runner) -> Runner: ...

    def delete_pool(self, scope: Scope, name: PoolName) -> None: ...

    def delete_node(self, scope: Scope, node_id: NodeId) -> None: ...

    def delete_runner(self, scope: Scope, runner_id: RunnerId) -> None: ...


class PoolStore(Protocol):
    """The transactional door."""

    def read(self, fn: Callable[[PoolReader], T]) -> T: ...

    def transact(self, fn: Callable[[PoolTx], T]) -> T: ...


class FleetReader(PoolReader, Protocol):
    """Pools, the jobs that use them, the tenants that may own them, and the keys that runners join with."""

    def open_jobs(self, scope: Scope) -> tuple[Job, ...]: ...

    def key(self, scope: Scope, key_id: KeyId) -> Key | None: ...

    def tenants(self, scope: Scope) -> tuple[Tenant, ...]: ...


class FleetTx(PoolTx, Protocol):
    """The same with writes."""

    def open_jobs(self, scope: Scope) -> tuple[Job, ...]: ...

    def key(self, scope: Scope, key_id: KeyId) -> Key | None: ...

    def tenants(self, scope: Scope) -> tuple[Tenant, ...]: ...

    def put_audit(
        self, at: Instant, principal: str, tenant: TenantId | None, action: str, detail_json: str
    ) -> None: ...


class FleetStore(Protocol):
    """The transactional door of `PoolService`."""

    def read(self, fn: Callable[[FleetReader], T]) -> T: ...

    def transact(self, fn: Callable[[FleetTx], T]) -> T: ...
