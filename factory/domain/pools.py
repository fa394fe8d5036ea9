"""Pools, flavors, nodes: what the factory shares.

A pool is nodes of one flavor, offered as slots; it belongs to one runner (one Ray cluster).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from factory.domain.ids import KeyId, NodeId, PoolName, RunnerId, TenantId
from factory.domain.resources import Resources
from factory.domain.time import Instant

__all__ = ["Flavor", "Isolation", "Node", "NodeState", "Pool", "Runner"]


class Isolation(StrEnum):
    """Who may share the pool's Ray cluster, which is one trust domain."""

    SHARED = "shared"  # every tenant; data up to class `internal`
    TENANT = "tenant"  # one tenant only


class NodeState(StrEnum):
    """May the scheduler use the node?"""

    READY = "ready"  # reports; takes new work
    DRAINING = "draining"  # reports; keeps its work, takes no new
    LOST = "lost"  # silent; its attempts are unknown, its slots quarantined until proof of death


@dataclass(frozen=True, slots=True)
class Flavor:
    """A kind of node; `slot` is the vector that one slot of it stands for."""

    name: str  # "cpu", "h100"
    slot: Resources  # never all zero


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes of one flavor under one runner."""

    name: PoolName
    flavor: Flavor
    runner: RunnerId
    isolation: Isolation = Isolation.SHARED
    tenant: TenantId | None = None  # set if isolation is TENANT
    policy: str = "fair"  # in which order jobs get its slots: a name of `scheduling.policies`
    self_fence_s: int | None = None  # see DESIGN §2, proof of death; None = off; changes only while nothing runs there
    set_by: str = ""  # key of the admin who set isolation or self-fence; "" = they are as its runner's join says
    version: int = 0  # optimistic guard, one more per write


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a pool as its agent reports it."""

    id: NodeId
    pool: PoolName
    runner: RunnerId
    capacity: Resources  # reported − reserve; what the ledger gives out
    devices: int = 0  # whole GPUs, indices 0..devices-1; capacity.gpu_milli == 1000 * devices
    state: NodeState = NodeState.READY
    gpu_model: str = ""
    zone: str = ""
    host: str = ""  # address that other nodes reach it by
    ray_node_id: str = ""  # Ray's id of the present incarnation
    seen_at: Instant = 0  # last report
    drain: str | None = None  # why an admin drains it, also while it is lost; None = not
    memory_limits: str = "watchdog"  # "cgroup" or "watchdog": how the agent holds the memory limit
    version: int = 0


@dataclass(frozen=True, slots=True)
class Runner:
    """A runner that joined: one Ray cluster."""

    id: RunnerId
    incarnation: str  # fresh per process start; reports of an older incarnation are refused
    seen_at: Instant
    ingress_url: str = ""  # where its endpoints answer, e.g. http://127.0.0.1:9000
    release: str = ""  # factory version of the runner
    ray_version: str = ""
    isolation: Isolation = Isolation.SHARED  # as its join says; what counts is the pool's
    tenant: TenantId | None = None
    self_fence_s: int | None = None
    key: KeyId | None = None  # the one key that speaks for it, since its first join (pools/runners.py)
    version: int = 0
