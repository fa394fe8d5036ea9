"""Pools, nodes, queues, tenants and keys from Python: what the platform team uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from factory.domain.pools import Isolation
from factory.domain.tenancy import Role
from factory.schemas.platform import (
    KeyCreated,
    KeyRequest,
    KeyView,
    NodeView,
    PoolView,
    QueueDetail,
    QueueRequest,
    QueueView,
    QuotaModel,
    TenantRequest,
    TenantView,
)
from factory.schemas.pools import FenceReply, PoolSettings
from factory.sdk.transport import Transport, validated

__all__ = ["Keys", "Nodes", "Pools", "Queues", "Tenants"]


class Pools:
    """`client.pools`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[PoolView]:
        """Every pool the tenant may use, in slots."""
        return list(self._transport.pages(PoolView, "/pools"))

    def set(
        self,
        name: str,
        *,
        isolation: str | None = None,
        tenant: str | None = None,
        self_fence_s: int | None = None,
        policy: str | None = None,
    ) -> PoolView:
        """Set what a pool is for (platform role); what is left out stays.

        Args:
            isolation: "shared", or "tenant": one tenant's alone, also for data above class `internal`. It is the Ray
                cluster's: every pool of the same runner gets it.
            tenant: whose it is, with isolation "tenant".
            self_fence_s: its nodes end attempts that the control plane has not renewed for so long, and twice that is
                proof of their death; 0 = off.
            policy: in which order jobs get its slots: "fair", "fifo", "shortest" or "least-attained-service".
        Raises: ConflictError: live attempts are in the way.
        """
        body = PoolSettings(
            isolation=None if isolation is None else Isolation(isolation),
            tenant=tenant,
            self_fence_s=self_fence_s,
            policy=policy,
        )
        return self._transport.send(PoolView, "PATCH", f"/pools/{name}", body, idempotent=True)


class Nodes:
    """`client.nodes`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[NodeView]:
        """Every node."""
        return list(self._transport.pages(NodeView, "/nodes"))

    def drain(self, node: str, *, reason: str = "") -> NodeView:
        """Let it finish what it has and take nothing new, also when it comes back from being lost (platform role)."""
        return self._transport.send(
            NodeView, "POST", f"/nodes/{node}:drain", params={"reason": reason or None}, idempotent=True
        )

    def undrain(self, node: str) -> NodeView:
        """Let it take work again (platform role)."""
        return self._transport.send(NodeView, "POST", f"/nodes/{node}:undrain", idempotent=True)

    def fence(self, node: str, reason: str) -> FenceReply:
        """Declare that nothing runs on the node any more (platform role, audited); return the jobs that this moved on.

        This is proof of death: if it is wrong, one job may run twice.
        """
        return self._transport.send(
            FenceReply, "POST", f"/nodes/{node}:fence", params={"reason": reason}, idempotent=True
        )

    def remove(self, node: str) -> None:
        """Forget a lost node (platform role). Raises: ConflictError: it reports, or attempts there may still live."""
        self._transport.request("DELETE", f"/nodes/{node}")


class Queues:
    """`client.queues`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[QueueView]:
        """Every queue the caller may see, with what it holds."""
        return list(self._transport.pages(QueueView, "/queues"))

    def show(self, name: str) -> QueueDetail:
        """One queue: how it stands in each pool, who waits first and why. Raises: NotFoundError."""
        return self._transport.get(QueueDetail, f"/queues/{name}")

    def set(
        self,
        name: str,
        *,
        tenant: str,
        parent: str | None = None,
        weight: int = 1,
        quotas: Iterable[QuotaModel | dict[str, Any]] = (),
    ) -> QueueView:
        """Create or change a queue (platform role); what is left out is as if it were new.

        Args:
            parent: queue above it: what it does not need it lends there, and borrows from there.
            weight: its part of what no quota names, against its siblings.
            quotas: per pool {"pool", "nominal", "borrowing", "lending"} in slots; `borrowing` None = without limit,
                left out: 0, `lending` None = all of nominal. What no quota names is not limited by this queue.
        """
        fields = {"tenant": tenant, "parent": parent, "weight": weight, "quotas": tuple(quotas)}
        body = validated(QueueRequest, fields, hint="see: factory queues set --help")
        return self._transport.send(QueueView, "PUT", f"/queues/{name}", body)

    def delete(self, name: str) -> None:
        """Remove an empty queue (platform role)."""
        self._transport.request("DELETE", f"/queues/{name}")


class Tenants:
    """`client.tenants`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[TenantView]:
        """Every tenant the caller may see."""
        return list(self._transport.pages(TenantView, "/tenants"))

    def create(self, name: str, *, title: str = "") -> TenantView:
        """Create (or rename) a tenant; a queue of its name comes with it (platform role)."""
        return self._transport.send(TenantView, "PUT", f"/tenants/{name}", TenantRequest(title=title))


class Keys:
    """`client.keys`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, role: str, *, tenant: str | None = None, title: str = "") -> KeyCreated:
        """Make a key. Its secret is in this answer only."""
        body = KeyRequest(role=Role(role), tenant=tenant, title=title)
        return self._transport.send(KeyCreated, "POST", "/keys", body)

    def list(self) -> list[KeyView]:
        """Keys without their secrets."""
        return list(self._transport.pages(KeyView, "/keys"))

    def revoke(self, key_id: str) -> None:
        """End a key, effective everywhere within 5 s."""
        self._transport.request("DELETE", f"/keys/{key_id}")
