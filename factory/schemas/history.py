"""What was asked of the factory in a period, for replaying it (`factory simulate --from …`), in integers."""

from __future__ import annotations

from pydantic import Field

from factory.domain.jobs import PriorityClass, Topology
from factory.domain.pools import NodeState
from factory.schemas.common import WireModel

__all__ = ["HistoryFleet", "HistoryJob", "HistoryNode", "HistoryPage", "HistoryPool", "HistoryQueue", "HistoryQuota"]


class HistoryJob(WireModel):
    """One job: what it asked for, when, and how long it held its slots. Nothing of what it did."""

    id: str
    tenant: str
    queue: str
    name: str
    cpu_milli: int = Field(description="Per replica, like memory and GPUs.")
    memory_bytes: int
    gpu_milli: int
    replicas: int
    min_replicas: int | None = None
    pool: str | None = None
    flavors: tuple[str, ...] = ()
    gpu_models: tuple[str, ...] = ()
    topology: Topology = Topology.ANY
    estimate_s: int | None = None
    priority: PriorityClass = PriorityClass.NORMAL
    submitted_at: int
    queued_at: int = Field(description="When it first waited for slots: dependencies and gates were over.")
    started_at: int | None = Field(default=None, description="When it was first given slots.")
    held_ms: int | None = Field(
        default=None, description="How long it held them; of one that still runs a guess, of one that never ran None."
    )
    withdrawn_at: int | None = Field(default=None, description="When it ended without ever having had slots.")
    preemptions: int = 0


class HistoryPage(WireModel):
    """Newest first. The last page has no cursor."""

    items: tuple[HistoryJob, ...]
    next_cursor: str | None = None


class HistoryPool(WireModel):
    """A pool's row."""

    name: str
    flavor: str
    slot_cpu_milli: int
    slot_memory_bytes: int
    slot_gpu_milli: int
    runner: str
    tenant: str | None = None  # whose alone it is
    policy: str


class HistoryNode(WireModel):
    """A node's row."""

    id: str
    pool: str
    runner: str
    cpu_milli: int
    memory_bytes: int
    devices: int
    state: NodeState
    gpu_model: str = ""
    zone: str = ""


class HistoryQuota(WireModel):
    """A quota in thousandths of a slot."""

    pool: str
    nominal_milli: int
    borrowing_milli: int | None
    lending_milli: int | None


class HistoryQueue(WireModel):
    """A queue's row."""

    name: str
    tenant: str
    parent: str | None = None
    weight: int
    quotas: tuple[HistoryQuota, ...] = ()


class HistoryFleet(WireModel):
    """What is shared now, and how."""

    pools: tuple[HistoryPool, ...]
    nodes: tuple[HistoryNode, ...]
    queues: tuple[HistoryQueue, ...]
