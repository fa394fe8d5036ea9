"""The runner protocol: a runner joins, long-polls what it shall make true, and reports what is.

Level-triggered: `DesiredReply` is always the whole wish, reports are facts; both may be lost, doubled or late.
"""

from __future__ import annotations

from typing import Literal

from factory.domain.jobs import JobSpec, Outcome, Placement, Stop
from factory.domain.pools import Isolation
from factory.schemas.common import PROTOCOL, Name, WireModel
from factory.schemas.pools import Fence

__all__ = [
    "AttemptReport",
    "DesiredAttempt",
    "DesiredReply",
    "IngressWire",
    "JoinReply",
    "JoinRequest",
    "LogReply",
    "NodeReport",
    "ReportBatch",
    "ReportReply",
    "RouteWire",
    "ServerWire",
]


class NodeReport(WireModel):
    """A node as its agent sees it."""

    id: str
    pool: str
    flavor: str  # "cpu", "h100"
    slot_cpu_milli: int  # the slot that this flavor is divided into
    slot_memory_bytes: int
    slot_gpu_milli: int
    cpu_milli: int  # capacity after the reserve
    memory_bytes: int
    devices: int = 0
    gpu_model: str = ""
    zone: str = ""
    host: str = ""
    ray_node_id: str = ""
    memory_limits: Literal["cgroup", "watchdog"] = "watchdog"
    is_alive: bool = True  # False: Ray says that the node is dead or the agent does not answer


class JoinRequest(WireModel):
    """A runner process starts. A newer incarnation makes every older one's calls answer 409 `stale_runner`."""

    runner: str
    incarnation: str
    protocol: int = PROTOCOL
    release: str
    ray_version: str
    ingress_url: str = ""
    isolation: Isolation = Isolation.SHARED  # of the whole Ray cluster; an admin's `factory pools set` goes before it
    tenant: Name | None = None  # whose it is, if isolation is "tenant"
    self_fence_s: Fence | None = None  # None = off
    nodes: tuple[NodeReport, ...] = ()


class JoinReply(WireModel):
    """Welcome."""

    protocol: int
    release: str
    poll_s: int  # how long a long poll may wait
    silence_s: int  # after so long without a call the runner counts as silent
    notes: tuple[str, ...] = ()  # what of the join did not take effect, and why


class DesiredAttempt(WireModel):
    """One attempt that shall be live here. One that is not listed shall not exist."""

    attempt: str
    job: str
    tenant: str
    ordinal: int
    state: str  # domain AttemptState: the control plane's view
    spec: JobSpec
    placements: tuple[Placement, ...]
    stop: Stop | None = None  # stop it: notice now, kill after spec.grace_s
    token: str  # the attempt's bearer token; never log it
    queued_at: int = 0
    self_fence_s: int | None = None  # its nodes end it when they were not renewed so long


class ServerWire(WireModel):
    """A replica behind the ingress."""

    name: str
    host: str
    port: int
    weight: int = 100
    draining: bool = False


class RouteWire(WireModel):
    """An endpoint at the ingress."""

    tenant: str
    endpoint: str
    servers: tuple[ServerWire, ...]


class IngressWire(WireModel):
    """All that the ingress shall do; `keys` maps sha256 hex to tenant, "*" = every tenant."""

    routes: tuple[RouteWire, ...] = ()
    keys: dict[str, str] = {}


class DesiredReply(WireModel):
    """The whole wish. `revision` goes back as `after`; the poll returns at once when it differs."""

    revision: str
    attempts: tuple[DesiredAttempt, ...]
    warm_per_node: int
    ingress: IngressWire
    self_fence: bool = False  # some pool of this runner has a self-fence: renew the nodes


class AttemptReport(WireModel):
    """A fact about an attempt."""

    attempt: str
    kind: Literal["starting", "running", "ended", "found"]
    at: int
    outcome: Outcome | None = None  # kind "ended"
    proof: str = ""  # kind "ended": "report", "agent", "runner"
    code_digest: str = ""  # kind "running"


class ReportBatch(WireModel):
    """Facts since the last batch. `nodes` is the whole list of this runner's nodes, or None = no news."""

    runner: str
    incarnation: str
    nodes: tuple[NodeReport, ...] | None = None
    attempts: tuple[AttemptReport, ...] = ()
    ingress_url: str | None = None


class ReportReply(WireModel):
    """`ignored`: attempt -> why its report changed nothing (late, doubled); no error."""

    ignored: dict[str, str] = {}


class LogReply(WireModel):
    """How far the log of one stream is stored; the next chunk starts there."""

    next_offset: int
