"""What endpoints need from a database, from jobs, and the ingress port that the runner implements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from factory.domain.endpoints import Endpoint
from factory.domain.ids import EndpointName, TenantId
from factory.domain.tenancy import Scope

__all__ = ["EndpointReader", "EndpointStore", "EndpointTx", "Ingress", "IngressState", "Route", "Server"]

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
