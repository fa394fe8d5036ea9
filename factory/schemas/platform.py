"""Pools, nodes, queues, tenants, keys and the factory's own state on the wire."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from factory.domain.jobs import PriorityClass, WaitReason
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
    "QueueDetail",
    "QueuePoolView",
    "QueueRequest",
    "QueueView",
    "QueuedJobView",
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
    policy: str = "fair"  # in which order jobs get its slots
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
    drain: str | None = None  # why an admin drains it, also while it is lost; None = not
    seen_at: int
    attempts: tuple[str, ...] = ()  # of the caller's tenant only


class QuotaModel(WireModel):
    """How much of one pool a queue may hold, in slots: `nominal`, and `borrowing` more."""

    pool: str
    nominal: float = Field(ge=0, le=1e9)
    borrowing: float | None = Field(0.0, ge=0, le=1e9)  # None = without limit: the quota then bounds nothing here
    lending: float | None = Field(
        default=None,
        ge=0,
        le=1e9,
        description="How much of nominal others may have while it is idle here; null = all of it.",
    )

    @field_validator("lending")
    @classmethod
    def _no_more_than_nominal(cls, value: float | None, info: ValidationInfo) -> float | None:
        nominal = info.data.get("nominal")
        if value is not None and nominal is not None and value > nominal:
            raise ValueError(f"{value:g} is more than nominal, which is {nominal:g}")
        return value


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
    parent: str | None  # one that the caller may not see reads "other departments"
    weight: int
    quotas: tuple[QuotaModel, ...]
    used: dict[str, float]  # pool -> slots
    queued: int
    running: int


class QueuePoolView(WireModel):
    """How a queue stands in one pool, in slots. What is lent is reckoned: slots are fungible."""

    pool: str
    nominal: float | None = Field(description="Null: no quota, it is unlimited by itself.")
    borrowing: float | None = Field(default=None, description="Null: without limit.")
    lending: float | None = Field(default=None, description="Null: all of nominal.")
    used: float = Field(description="By its jobs and those of the queues below it.")
    borrowed: float = Field(default=0, description="Above nominal.")
    lent: float = Field(default=0, description="Of nominal, in use by others.")
    lent_to: dict[str, float] = Field(
        default={}, description="Queue -> slots; queues that the caller may not see are 'other departments'."
    )
    fair_share: float = Field(description="Nominal, and by weight its part of what no quota names.")


class QueuedJobView(WireModel):
    """A job that waits in the queue, and why."""

    id: str
    name: str
    priority: PriorityClass
    submitted_at: int
    position: int | None = Field(default=None, description="1 = next; null: it does not wait for slots.")
    reason: WaitReason | None = None
    message: str = ""
    hint: str = ""
    expected_start: int | None = None


class QueueDetail(QueueView):
    """A queue, how it stands in each pool, and who waits first."""

    pools: tuple[QueuePoolView, ...] = ()
    waiting: tuple[QueuedJobView, ...] = Field(default=(), description="The first few that wait for slots, in order.")


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
