"""What endpoints need from a database, from jobs, and the ingress port that the runner implements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from factory.domain.endpoints import Endpoint
from factory.domain.ids import EndpointName, JobId, ModelName, TenantId
from factory.domain.jobs import Job
from factory.domain.models import Model, ModelVersion
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Queue, Scope
from factory.domain.time import Instant

__all__ = [
    "DeployReader",
    "DeployStore",
    "DeployTx",
    "EndpointReader",
    "EndpointStore",
    "EndpointTx",
    "FollowTx",
    "Ingress",
    "IngressState",
    "Route",
    "Server",
    "Surroundings",
]

T = TypeVar("T")


class EndpointReader(Protocol):
    """Reads of one consistent state."""

    def endpoints(self, scope: Scope) -> tuple[Endpoint, ...]: ...

    def endpoint(self, scope: Scope, tenant: TenantId, name: EndpointName) -> Endpoint | None: ...


class EndpointTx(EndpointReader, Protocol):
    """`put_endpoint`: version 0 inserts, else guarded replace. Raises: StaleWriteError, ConflictError."""

    def put_endpoint(self, endpoint: Endpoint) -> Endpoint: ...

    def delete_endpoint(self, scope: Scope, tenant: TenantId, name: EndpointName) -> None: ...


class EndpointStore(Protocol):
    """The transactional door."""

    def read(self, fn: Callable[[EndpointReader], T]) -> T: ...

    def transact(self, fn: Callable[[EndpointTx], T]) -> T: ...


class Surroundings(Protocol):
    """What endpoints ask of the other capabilities."""

    def job(self, scope: Scope, job_id: JobId) -> Job | None: ...

    def model(self, scope: Scope, tenant: TenantId, name: ModelName) -> Model | None: ...

    def models(self, scope: Scope) -> tuple[Model, ...]: ...

    def model_version(self, scope: Scope, tenant: TenantId, name: ModelName, number: int) -> ModelVersion | None: ...

    def queues(self, scope: Scope) -> tuple[Queue, ...]: ...

    def pools(self, scope: Scope) -> tuple[Pool, ...]: ...

    def runners(self, scope: Scope) -> tuple[Runner, ...]: ...


class DeployReader(EndpointReader, Surroundings, Protocol):
    """Endpoints and what they stand on."""


class FollowTx(EndpointTx, Protocol):
    """What `follow_aliases` needs; the control loop's transaction has it too."""

    def model(self, scope: Scope, tenant: TenantId, name: ModelName) -> Model | None: ...


class DeployTx(EndpointTx, Surroundings, Protocol):
    """The same with writes."""

    def nodes(self, scope: Scope) -> tuple[Node, ...]: ...

    def put_audit(
        self, at: Instant, principal: str, tenant: TenantId | None, action: str, detail_json: str
    ) -> None: ...


class DeployStore(Protocol):
    """The transactional door of `EndpointService`."""

    def read(self, fn: Callable[[DeployReader], T]) -> T: ...

    def transact(self, fn: Callable[[DeployTx], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Server:
    """One replica that answers."""

    name: str  # attempt id
    host: str
    port: int
    weight: int = 100  # 0..256
    draining: bool = False  # finish what it has, take nothing new


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint at the ingress: `/<tenant>/<endpoint>/…` goes to its servers as `/…`."""

    tenant: TenantId
    endpoint: EndpointName
    servers: tuple[Server, ...]  # sorted by name; may be empty (503 with a problem body)


@dataclass(frozen=True, slots=True)
class IngressState:
    """All that the ingress shall do. `keys` maps sha256 hex of a secret to the tenant it may call ("*" = all)."""

    routes: tuple[Route, ...]
    keys: tuple[tuple[str, str], ...]


class Ingress(Protocol):
    """Adapters: runner/ingress/haproxy.py, runner/ingress/proxy.py (asyncio, where HAProxy is missing)."""

    def start(self) -> str:
        """Start or adopt the process; return its base URL. Idempotent."""
        ...

    def apply(self, state: IngressState) -> None:
        """Make it so, without losing a request in flight. Idempotent; restarts what died."""
        ...

    def is_alive(self) -> bool: ...

    def in_flight(self, server: str) -> int:
        """Requests that a server is working on (0 = drained)."""
        ...

    def stop(self) -> None:
        """End the process. Idempotent."""
        ...
