"""Pools, nodes, queues, tenants, keys and the factory's own state on the wire."""

from __future__ import annotations

from pydantic import Field

from factory.domain.pools import NodeState
from factory.domain.tenancy import Role
from factory.schemas.common import Name, WireModel

__all__ = [
    "ComponentView",
    "KeyCreated",
    "KeyRequest",
    "KeyView",
    "NodeView",
    "PoolView",
    "QueueRequest",
    "QueueView",
    "QuotaModel",
    "StatusView",
    "TenantRequest",
    "TenantView",
]


class PoolView(WireModel):
    """A pool in slots."""

    name: str
    flavor: str
    slot: dict[str, float]  # {"cpu": 1, "memory": bytes, "gpu": 0}
    runner: str
    isolation: str
    tenant: str | None = None  # whose it is, if isolation is "tenant"
    self_fence_s: int | None = None  # attempts end when the control plane has not renewed them so long; None = off
    nodes: int
    slots: float  # all ready nodes
    used_slots: float


class NodeView(WireModel):
    """A node."""

    id: str
    pool: str
    state: NodeState
    cpu: float
    memory: int
    gpus: int
    used_cpu: float
    used_memory: int
    used_gpu: float
    gpu_model: str = ""
    host: str = ""
    memory_limits: str = "watchdog"  # "watchdog": the agent measures and kills; "cgroup": the kernel holds the limit
    seen_at: int
    attempts: tuple[str, ...] = ()  # of the caller's tenant only


class QuotaModel(WireModel):
    """How much of one pool a queue may hold, in slots: `nominal`, and `borrowing` more."""

    pool: str
    nominal: float = Field(ge=0, le=1e9)
    borrowing: float | None = Field(0.0, ge=0, le=1e9)  # None = without limit: the quota then bounds nothing here
    lending: float | None = Field(None, ge=0, le=1e9)  # None = all; this release takes nothing else


class QueueRequest(WireModel):
    """Create or change a queue (platform role)."""

    tenant: Name
    parent: Name | None = None
    weight: int = Field(1, ge=0)
    quotas: tuple[QuotaModel, ...] = ()


class QueueView(WireModel):
    """A queue and what it holds now."""

    name: str
    tenant: str
    parent: str | None
    weight: int
    quotas: tuple[QuotaModel, ...]
    used: dict[str, float]  # pool -> slots
    queued: int
    running: int


class TenantRequest(WireModel):
    """Create or rename a tenant; its own queue is made with it."""

    title: str = ""


class TenantView(WireModel):
    """A tenant."""

    id: str
    title: str
    created_at: int


class KeyRequest(WireModel):
    """Make a key."""

    role: Role
    tenant: Name | None = None  # None only for platform, runner and metrics keys
    title: str = ""
    expires_at: int | None = None


class KeyView(WireModel):
    """A key without its secret."""

    id: str
    role: Role
    tenant: str | None
    title: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None


class KeyCreated(KeyView):
    """The only answer that ever holds the secret."""

    secret: str


class ComponentView(WireModel):
    """One part of the factory."""

    name: str  # "database", "leader", "runner/local", "mlflow", "ingress"
    state: str  # "ok", "starting", "down"
    detail: str = ""


class StatusView(WireModel):
    """`factory status`."""

    release: str
    url: str
    mlflow_uri: str
    components: tuple[ComponentView, ...]
    jobs: dict[str, int]  # state -> count, of the caller's scope
    slots: float
    used_slots: float
