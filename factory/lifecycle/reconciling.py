"""The runner's whole decision: what shall be, what is, and so what to do. Pure and level-triggered.

The runner calls `reconcile` with the newest desired state and a fresh look at its cluster, performs the actions in
their order, looks again. Any action may fail, be repeated, or be cut off by the runner's death: the next call, also by
the next runner, finds what is left to do. Reports are said again until the desired state shows that they arrived.

Rules (DESIGN §1, §2 and §4):

- R1 A gang starts whole or not at all: no replica is started while one of its nodes is silent or not yet scanned.
- R2 One rank's failure ends the attempt: its other ranks are killed. A rank that completed waits for the others.
- R3 `ReportEnded` only when every rank is proven gone: a reachable node's agent scanned it after the replica could have
  started, and no process bears its marker. A silent node proves nothing, and an attempt on it is not reported.
- R4 An attempt begins once. Only one that the control plane still shows as `desired`, and that this process has not
  started before, is started from nothing; begun and found nowhere, it is lost. (A report of its end may be under way:
  started again, it would be taken for dead while it lives. A new process joins before it asks what is desired, and
  from then on its forerunner's reports are refused.)
- R5 A stop is a notice, and after the job's grace a kill. What has not begun user code is killed without notice.
- R6 A replica without a desired attempt is swept; so are surplus warm replicas (rule 8). Evidence of an end is kept as
  long as its attempt is desired, since only the control plane's word shows that it was heard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NewType, TypeAlias

from factory.domain.ids import AttemptId, JobId, NodeId, RunnerId, TenantId
from factory.domain.jobs import (
    Allocation,
    Attempt,
    AttemptState,
    EndReason,
    Job,
    JobSpec,
    Outcome,
    Placement,
    RayMode,
    Stop,
)
from factory.domain.time import SECOND, Instant

__all__ = [
    "Action",
    "DesiredAttempt",
    "DesiredState",
    "FoundNode",
    "FoundReplica",
    "FoundState",
    "KillReplica",
    "NotifyStop",
    "Process",
    "ReplicaId",
    "ReportEnded",
    "ReportFound",
    "ReportRunning",
    "ReportStarting",
    "StartReplica",
    "StartWarm",
    "StopWarm",
    "SweepOrphan",
    "desired_attempt",
    "reconcile",
    "stop_everything",
]

ReplicaId = NewType("ReplicaId", str)  # FACTORY_REPLICA of its process

PROOF_REPORT = "report"  # every rank left its own evidence of how it ended
PROOF_AGENT = "agent"  # the agents found no process with its markers


@dataclass(frozen=True, slots=True)
class DesiredAttempt:
    """One attempt that shall be live on this runner. Its token is not in here: no decision depends on it."""

    id: AttemptId
    job: JobId
    tenant: TenantId
    ordinal: int
    state: AttemptState  # the control plane's view: what it has heard so far
    spec: JobSpec
    allocation: Allocation
    stop: Stop | None = None
    queued_at: Instant = 0

    @property
    def grace_s(self) -> int:
        """Seconds between the notice to stop and the kill."""
        return self.spec.grace_s


@dataclass(frozen=True, slots=True)
class DesiredState:
    """All that this runner shall make true; what it does not list shall not exist."""

    runner: RunnerId
    attempts: tuple[DesiredAttempt, ...]  # by id
    warm_per_node: int = 0


class Process(StrEnum):
    """What there is of a replica."""

    STARTING = "starting"  # asked of Ray; its process is not seen yet (also one that Ray lists as pending)
    ALIVE = "alive"  # its process runs
    LEFTOVER = "leftover"  # its process is gone, others with its marker are not: to be killed, not yet gone
    GONE = "gone"  # scanned: no process with its marker; what is left is evidence


@dataclass(frozen=True, slots=True)
class FoundReplica:
    """A replica as the agents, Ray and the runner's memory show it. Times are the runner's, never another host's."""

    id: ReplicaId
    node: NodeId
    process: Process
    attempt: AttemptId | None = None  # None = warm
    rank: int = 0
    began: bool = False  # user code has begun (the agent's file says so)
    notified_at: Instant | None = None  # when the notice to stop went out
    killed: bool = False  # we killed it while its main process lived: its end explains nothing
    gone_at: Instant | None = None  # when the runner first saw its main process gone
    outcome: Outcome | None = None  # evidence of its end, from LEFTOVER on; None then = it vanished
    code_digest: str = ""


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A node's agent. A node that is not listed is not reachable."""

    id: NodeId
    reachable: bool = True  # the agent answered in this look
    scanned: bool = True  # its process scan is complete, and later than the last start on that node


@dataclass(frozen=True, slots=True)
class FoundState:
    """One look at the cluster."""

    nodes: tuple[FoundNode, ...]
    replicas: tuple[FoundReplica, ...]
    started: frozenset[AttemptId] = frozenset()  # every attempt that this runner process has asked Ray to start


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Start one rank on its node, in a warm replica if there is one."""

    attempt: DesiredAttempt
    placement: Placement  # rank, node, resources, devices
    warm: ReplicaId | None = None


@dataclass(frozen=True, slots=True)
class NotifyStop:
    """Tell the replica to stop (SIGTERM, cancel event); `grace_s` is what it has from now on."""

    replica: ReplicaId
    node: NodeId
    attempt: AttemptId
    reason: EndReason
    grace_s: int


@dataclass(frozen=True, slots=True)
class KillReplica:
    """Kill the replica's processes, all that bear its marker."""

    replica: ReplicaId
    node: NodeId
    attempt: AttemptId
    why: str


@dataclass(frozen=True, slots=True)
class SweepOrphan:
    """Nothing desires it: kill what lives of it, then forget its evidence."""

    replica: ReplicaId
    node: NodeId
    attempt: AttemptId | None
    process: Process


@dataclass(frozen=True, slots=True)
class StartWarm:
    """Start one warm replica on the node."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class StopWarm:
    """One warm replica too many."""

    replica: ReplicaId
    node: NodeId


@dataclass(frozen=True, slots=True)
class ReportStarting:
    """Say that its replicas are being started."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class ReportRunning:
    """Say that user code runs on every rank."""

    attempt: AttemptId
    code_digest: str = ""


@dataclass(frozen=True, slots=True)
class ReportFound:
    """Say that an attempt held for unknown is alive."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class ReportEnded:
    """Say how it ended, with the proof of death."""

    attempt: AttemptId
    outcome: Outcome
    proof: str


Action: TypeAlias = (
    StartReplica
    | NotifyStop
    | KillReplica
    | SweepOrphan
    | StartWarm
    | StopWarm
    | ReportStarting
    | ReportRunning
    | ReportFound
    | ReportEnded
)


def desired_attempt(job: Job, attempt: Attempt, *, queued_at: Instant = 0) -> DesiredAttempt:
    """Return what a runner is told of a job's live attempt."""
    return DesiredAttempt(
        id=attempt.id,
        job=job.id,
        tenant=job.tenant,
        ordinal=attempt.ordinal,
        state=attempt.state,
        spec=job.spec,
        allocation=attempt.allocation,
        stop=attempt.stop,
        queued_at=queued_at,
    )


def stop_everything(desired: DesiredState, at: Instant) -> DesiredState:
    """Return the desired state of a runner that is shut down in order: every attempt stops, nothing stays warm."""
    stop = Stop(EndReason.FACTORY_STOPPED, at, "runner")
    attempts = tuple(a if a.stop is not None else replace(a, stop=stop) for a in desired.attempts)
    return replace(desired, attempts=attempts, warm_per_node=0)


def reconcile(desired: DesiredState, found: FoundState, now: Instant) -> tuple[Action, ...]:
    """Return what to do next, in order. Same arguments, same actions; idempotent as far as they have taken effect.

    Args:
        desired: the newest answer of the control plane, never an older one than seen before.
        found: a fresh look; a replica that this runner has asked Ray for is in it as STARTING from then on.
        now: by the runner's clock, as `FoundReplica.notified_at`.
    """
    look = _Look(found)
    actions: list[Action] = []
    for attempt in sorted(desired.attempts, key=lambda a: a.id):
        actions.extend(_Decision(attempt, look, now).actions())
    wanted = {attempt.id for attempt in desired.attempts}
    actions.extend(_sweep(look, wanted))
    actions.extend(_warm(desired.warm_per_node, look))
    return tuple(actions)


class _Look:
    """One look, indexed; warm replicas are taken out as starts use them."""

    __slots__ = ("by_attempt", "replicas", "scanned", "started", "warm")

    def __init__(self, found: FoundState) -> None:
        self.scanned: frozenset[NodeId] = frozenset(n.id for n in found.nodes if n.reachable and n.scanned)
        self.replicas: tuple[FoundReplica, ...] = tuple(sorted(found.replicas, key=lambda r: r.id))
        self.started: frozenset[AttemptId] = found.started
        self.by_attempt: dict[AttemptId, list[FoundReplica]] = {}
        self.warm: dict[NodeId, list[FoundReplica]] = {node: [] for node in sorted(self.scanned)}
        for replica in self.replicas:
            if replica.attempt is not None:
                self.by_attempt.setdefault(replica.attempt, []).append(replica)
            elif replica.node in self.warm and replica.process in (Process.STARTING, Process.ALIVE):
                self.warm[replica.node].append(replica)

    def take_warm(self, node: NodeId) -> ReplicaId | None:
        """Use up a warm replica of the node that is ready, if there is one."""
        ready = [replica for replica in self.warm[node] if replica.process is Process.ALIVE]
        if not ready:
            return None
        self.warm[node].remove(ready[0])
        return ready[0].id


class _Decision:
    """What to do about one desired attempt."""

    __slots__ = ("attempt", "extra", "look", "missing", "now", "ranks", "silent")

    def __init__(self, attempt: DesiredAttempt, look: _Look, now: Instant) -> None:
        self.attempt = attempt
        self.look = look
        self.now = now
        self.ranks: dict[int, FoundReplica] = {}
        self.extra: list[FoundReplica] = []  # a second process for a rank: none should be; never two
        for replica in look.by_attempt.get(attempt.id, ()):
            if replica.rank in self.ranks:
                self.extra.append(replica)
            else:
                self.ranks[replica.rank] = replica
        placements = attempt.allocation.placements
        # a rank whose node does not answer may be in any state: what was seen of it before is no proof (R3)
        self.silent: bool = any(p.node not in look.scanned for p in placements) or any(
            r.node not in look.scanned and r.process is not Process.GONE for r in look.by_attempt.get(attempt.id, ())
        )
        self.missing: list[Placement] = [p for p in placements if p.rank not in self.ranks and p.node in look.scanned]

    def actions(self) -> Iterator[Action]:
        for replica in self.extra:
            if replica.node in self.look.scanned and replica.process is not Process.GONE:
                yield self._kill(replica, "a second process for the same rank")
        if self._is_over():
            yield from self._end()
        elif self.attempt.stop is not None:
            yield from self._stop(self.attempt.stop)
        elif self.missing:
            yield from self._start()
        else:
            yield from self._report_life()

    def _present(self) -> list[FoundReplica]:
        """Ranks of which something lives on nodes that answer."""
        return [
            replica
            for _, replica in sorted(self.ranks.items())
            if replica.process is not Process.GONE and replica.node in self.look.scanned
        ]

    def _is_over(self) -> bool:
        """True if the attempt can only end: a rank failed or is lost, or every rank has completed."""
        dead = [replica for replica in self.ranks.values() if _is_dead(replica)]
        if any(_has_failed(replica) for replica in dead):
            return True  # R2
        if self.missing and self._has_begun():
            return True  # R4
        return len(dead) == len(self.attempt.allocation.placements)

    def _has_begun(self) -> bool:
        """True if a rank that is not there must have been there (R4)."""
        if self.attempt.state is AttemptState.RUNNING or any(r.began or _is_dead(r) for r in self.ranks.values()):
            return True
        if self.ranks or self.attempt.stop is not None:
            return False
        return self.attempt.state is not AttemptState.DESIRED or self.attempt.id in self.look.started

    def _is_proven_dead(self) -> bool:
        """R3."""
        everything = (*self.ranks.values(), *self.extra)
        return not self.silent and all(replica.process is Process.GONE for replica in everything)

    def _end(self) -> Iterator[Action]:
        for replica in self._present():
            yield self._kill(replica, "another rank of its gang has ended" if not _is_dead(replica) else "left behind")
        yield from self._report_end()

    def _report_end(self) -> Iterator[Action]:
        if not self._is_proven_dead():
            return
        begun = not self.missing and all(replica.began for replica in self.ranks.values())
        if begun and self.attempt.state in (AttemptState.DESIRED, AttemptState.STARTING):
            # it was over before anybody looked: the history still shows that it ran, and which code
            yield ReportRunning(self.attempt.id, self.ranks[min(self.ranks)].code_digest)
        told = not self.missing and all(replica.outcome is not None for replica in self.ranks.values())
        yield ReportEnded(self.attempt.id, self._outcome(), PROOF_REPORT if told else PROOF_AGENT)

    def _stop(self, stop: Stop) -> Iterator[Action]:
        present = self._present()
        if present and not self.silent and self.attempt.state is AttemptState.UNKNOWN:
            yield ReportFound(self.attempt.id)
        for replica in present:
            if not replica.began or _is_dead(replica):
                yield self._kill(replica, f"no grace for what runs no user code: {stop.reason.value}")
            elif replica.notified_at is None:
                yield NotifyStop(replica.id, replica.node, self.attempt.id, stop.reason, self.attempt.grace_s)
            elif self.now - replica.notified_at >= self.attempt.grace_s * SECOND:
                yield self._kill(replica, f"still alive {self.attempt.grace_s} s after the notice to stop")
        yield from self._report_end()

    def _start(self) -> Iterator[Action]:
        if self.silent:
            return  # R1
        for placement in self.missing:
            # only plain replicas are kept warm; Ray inside the job needs an actor of its own making
            plain = self.attempt.spec.ray is RayMode.NONE
            warm = self.look.take_warm(placement.node) if plain else None
            yield StartReplica(self.attempt, placement, warm)
        if self.attempt.state is AttemptState.DESIRED:
            yield ReportStarting(self.attempt.id)

    def _report_life(self) -> Iterator[Action]:
        if self.silent:
            return  # half a look is no news
        state = self.attempt.state
        if state is AttemptState.UNKNOWN:
            yield ReportFound(self.attempt.id)
            return
        if all(r.began for r in self.ranks.values()):
            if state in (AttemptState.DESIRED, AttemptState.STARTING):
                yield ReportRunning(self.attempt.id, self.ranks[min(self.ranks)].code_digest)
        elif state is AttemptState.DESIRED:
            yield ReportStarting(self.attempt.id)

    def _kill(self, replica: FoundReplica, why: str) -> KillReplica:
        return KillReplica(replica.id, replica.node, self.attempt.id, why)

    def _outcome(self) -> Outcome:
        """How the attempt ended, when no rank is left."""
        stop = self.attempt.stop
        ends = [replica for _, replica in sorted(self.ranks.items())]
        if ends and not self.missing and not any(_has_failed(replica) for replica in ends):
            return replace(ends[0].outcome or Outcome(EndReason.COMPLETED), rank=ends[0].rank)
        own = [r for r in ends if _has_failed(r) and not r.killed and r.notified_at is None]
        if stop is not None and all(replica.outcome is None for replica in own):
            return Outcome(stop.reason, f"stopped as asked by {stop.by or 'control'}")
        if own:
            decisive = min(own, key=_decisiveness)
            vanished = f"the process of rank {decisive.rank} on node {decisive.node} died without a word"
            return replace(decisive.outcome or Outcome(EndReason.WORKER_LOST, vanished), rank=decisive.rank)
        if self.missing:
            lost = self.missing[0]
            where = f"rank {lost.rank} is nowhere on node {lost.node}, nor is its evidence"
            return Outcome(EndReason.WORKER_LOST, where, rank=lost.rank)
        return Outcome(EndReason.WORKER_LOST, "its processes were killed and left no evidence")


def _is_dead(replica: FoundReplica) -> bool:
    return replica.process in (Process.LEFTOVER, Process.GONE)


def _has_failed(replica: FoundReplica) -> bool:
    completed = replica.outcome is not None and replica.outcome.reason is EndReason.COMPLETED
    return _is_dead(replica) and not completed


_SEVERITY = (EndReason.OUT_OF_MEMORY, EndReason.ENVIRONMENT_FAILED, EndReason.WORKER_LOST, EndReason.USER_ERROR)


def _decisiveness(replica: FoundReplica) -> tuple[int, int, int]:
    """The rank that was gone first decides; seen at once, the one whose end the others' errors follow from."""
    reason = EndReason.WORKER_LOST if replica.outcome is None else replica.outcome.reason
    severity = _SEVERITY.index(reason) if reason in _SEVERITY else len(_SEVERITY)
    return (2**63 if replica.gone_at is None else replica.gone_at, severity, replica.rank)


def _sweep(look: _Look, wanted: set[AttemptId]) -> Iterator[Action]:
    for replica in look.replicas:
        if replica.node not in look.scanned:
            continue
        is_orphan = replica.attempt is not None and replica.attempt not in wanted
        is_dead_warm = replica.attempt is None and replica.process in (Process.LEFTOVER, Process.GONE)
        if is_orphan or is_dead_warm:
            yield SweepOrphan(replica.id, replica.node, replica.attempt, replica.process)


def _warm(per_node: int, look: _Look) -> Iterator[Action]:
    for node, replicas in sorted(look.warm.items()):
        for _ in range(per_node - len(replicas)):
            yield StartWarm(node)
        for surplus in _newest_first(replicas)[: max(0, len(replicas) - per_node)]:
            yield StopWarm(surplus.id, node)


def _newest_first(replicas: Sequence[FoundReplica]) -> list[FoundReplica]:
    """Replicas that are not ready go before ready ones, later ids before earlier ones."""
    return sorted(sorted(replicas, key=lambda r: r.id, reverse=True), key=lambda r: r.process is Process.ALIVE)
