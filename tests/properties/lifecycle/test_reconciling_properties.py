"""A runner that dies, looks half, and repeats itself: gangs start whole, ends are proven, and all comes to rest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.ids import AttemptId, JobId, NodeId, RunnerId
from factory.domain.jobs import AttemptState, EndReason, Outcome, Stop
from factory.domain.time import SECOND
from factory.lifecycle.reconciling import (
    Action,
    DesiredAttempt,
    DesiredState,
    FoundNode,
    FoundReplica,
    FoundState,
    KillReplica,
    NotifyStop,
    Process,
    ReplicaId,
    ReportEnded,
    ReportFound,
    ReportRunning,
    ReportStarting,
    StartReplica,
    StartWarm,
    StopWarm,
    SweepOrphan,
    reconcile,
)
from factory.testing import builders

NODES = ("n1", "n2", "n3")
S = AttemptState
ENDS = (EndReason.COMPLETED, EndReason.COMPLETED, EndReason.USER_ERROR, EndReason.OUT_OF_MEMORY, None)


@dataclass
class Cluster:
    """Processes on nodes, and what the control plane has heard; actions take effect at once, or are lost."""

    attempts: dict[AttemptId, DesiredAttempt]
    warm: int = 0
    replicas: dict[ReplicaId, FoundReplica] = field(default_factory=dict)
    started: set[AttemptId] = field(default_factory=set)
    starts: list[tuple[AttemptId, int]] = field(default_factory=list)
    ends: dict[AttemptId, Outcome] = field(default_factory=dict)
    now: int = 0
    serial: int = 0

    def look(self, silent: frozenset[str] = frozenset()) -> FoundState:
        nodes = tuple(FoundNode(NodeId(name), reachable=name not in silent) for name in NODES)
        return FoundState(nodes, tuple(self.replicas.values()), frozenset(self.started))

    def turn(self, silent: frozenset[str] = frozenset(), lost: frozenset[int] = frozenset()) -> tuple[Action, ...]:
        desired = DesiredState(RunnerId("r"), tuple(self.attempts.values()), self.warm)
        found = self.look(silent)
        actions = reconcile(desired, found, self.now)
        shuffled = replace(found, nodes=found.nodes[::-1], replicas=found.replicas[::-1])
        assert reconcile(replace(desired, attempts=desired.attempts[::-1]), shuffled, self.now) == actions
        for number, action in enumerate(actions):
            self.check(action, silent)
            if number not in lost:
                self.perform(action)
        return actions

    def check(self, action: Action, silent: frozenset[str]) -> None:
        """What must hold of every action, whatever came before."""
        match action:
            case StartReplica(attempt=attempt, placement=placement):
                assert not {p.node for p in attempt.allocation.placements} & silent  # R1
                there = [r for r in self.replicas.values() if r.attempt == attempt.id and r.rank == placement.rank]
                assert not there, "a rank is never started twice"
                assert attempt.stop is None
            case ReportEnded(attempt=id):
                left = [r for r in self.replicas.values() if r.attempt == id and r.process is not Process.GONE]
                assert not left, "an end is proven (R3)"
                assert not {p.node for p in self.attempts[id].allocation.placements} & silent
            case ReportRunning(attempt=id):
                ranks = {r.rank for r in self.replicas.values() if r.attempt == id and r.began}
                assert ranks == {p.rank for p in self.attempts[id].allocation.placements}
            case NotifyStop(replica=id):
                assert self.replicas[id].process is Process.ALIVE
                assert self.replicas[id].notified_at is None
            case KillReplica(replica=id, node=at) | SweepOrphan(replica=id, node=at) | StopWarm(replica=id, node=at):
                assert self.replicas[id].node == at
                assert at not in silent
            case ReportStarting() | ReportFound() | StartWarm():
                pass

    def perform(self, action: Action) -> None:
        match action:
            case StartReplica(attempt=attempt, placement=placement, warm=warm):
                self.started.add(attempt.id)
                self.starts.append((attempt.id, placement.rank))
                if warm is not None:
                    del self.replicas[warm]
                self.add(placement.node, Process.STARTING, attempt.id, placement.rank)
            case StartWarm(node=at):
                self.add(at, Process.ALIVE, None, 0)
            case KillReplica(replica=id):
                row = self.replicas[id]
                self.replicas[id] = replace(
                    row, process=Process.GONE, killed=row.killed or row.process is not Process.LEFTOVER,
                    gone_at=self.now if row.gone_at is None else row.gone_at,
                )  # fmt: skip
            case SweepOrphan(replica=id) | StopWarm(replica=id):
                del self.replicas[id]
            case NotifyStop(replica=id):
                self.replicas[id] = replace(self.replicas[id], notified_at=self.now)
            case ReportStarting(attempt=id):
                self.hear(id, S.STARTING)
            case ReportRunning(attempt=id):
                self.hear(id, S.RUNNING)
            case ReportFound(attempt=id):
                self.hear(id, S.STOPPING if self.attempts[id].stop is not None else S.RUNNING)
            case ReportEnded(attempt=id, outcome=outcome):
                assert id not in self.ends
                self.ends[id] = outcome
                del self.attempts[id]

    def hear(self, id: AttemptId, state: AttemptState) -> None:
        if self.attempts[id].state is not S.STOPPING:
            self.attempts[id] = replace(self.attempts[id], state=state)

    def add(self, at: NodeId, process: Process, attempt: AttemptId | None, rank: int) -> None:
        self.serial += 1
        id = ReplicaId(f"rep-{self.serial:03}")
        self.replicas[id] = FoundReplica(id, at, process, attempt, rank)

    def grow(self, data: st.DataObject) -> None:
        """Processes come up, begin, end, as they like."""
        for id, row in sorted(self.replicas.items()):
            if row.attempt is None or not data.draw(st.booleans()):
                continue
            if row.process is Process.STARTING:
                self.replicas[id] = replace(row, process=Process.ALIVE, began=data.draw(st.booleans()))
            elif row.process is Process.ALIVE and not row.began:
                self.replicas[id] = replace(row, began=True)
            elif row.process is Process.ALIVE and data.draw(st.booleans()):
                reason = data.draw(st.sampled_from(ENDS))
                outcome = None if reason is None else Outcome(reason)
                process = data.draw(st.sampled_from((Process.GONE, Process.LEFTOVER)))
                self.replicas[id] = replace(row, process=process, outcome=outcome, gone_at=self.now)

    def stop(self, id: AttemptId, reason: EndReason) -> None:
        self.attempts[id] = replace(self.attempts[id], state=S.STOPPING, stop=Stop(reason, self.now, "key-1"))


def wanted(id: str, nodes: list[str]) -> DesiredAttempt:
    held = builders.allocation(nodes, pool=builders.pool())
    row = builders.job(id, replicas=len(nodes))
    return DesiredAttempt(AttemptId(f"{id}.1"), JobId(id), row.tenant, 1, S.DESIRED, row.spec, held)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    gangs = [draw(st.lists(st.sampled_from(NODES), min_size=1, max_size=3)) for _ in range(draw(st.integers(1, 3)))]
    attempts = [wanted(f"job-{at}", nodes) for at, nodes in enumerate(gangs)]
    return Cluster({attempt.id: attempt for attempt in attempts}, warm=draw(st.integers(0, 2)))


@settings(max_examples=120, deadline=None)
@given(clusters(), st.data())
def test_whatever_happens_no_rule_is_broken_and_in_the_end_all_is_said(cluster: Cluster, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 8))):
        silent = frozenset(data.draw(st.lists(st.sampled_from(NODES), max_size=2)))
        cluster.turn(silent, frozenset(data.draw(st.lists(st.integers(0, 6), max_size=3))))
        cluster.grow(data)
        cluster.now += data.draw(st.sampled_from((0, 1, 11))) * SECOND
        if cluster.attempts and data.draw(st.integers(0, 3)) == 0:
            id = data.draw(st.sampled_from(sorted(cluster.attempts)))
            if cluster.attempts[id].stop is None:
                cluster.stop(id, data.draw(st.sampled_from((EndReason.CANCELLED, EndReason.PREEMPTED))))
    for id in list(cluster.attempts):  # nobody wants any of it any more, and all nodes answer
        if cluster.attempts[id].stop is None:
            cluster.stop(id, EndReason.FACTORY_STOPPED)
    cluster.warm = 0
    for _ in range(12):
        cluster.now += 11 * SECOND
        cluster.turn()
    assert cluster.attempts == {}
    assert cluster.replicas == {}
    assert cluster.turn() == ()
    assert len(cluster.starts) == len(set(cluster.starts)), "each rank of an attempt is started at most once"


@settings(max_examples=60, deadline=None)
@given(clusters())
def test_left_alone_every_gang_runs_whole(cluster: Cluster) -> None:
    everything = {id: {p.rank for p in attempt.allocation.placements} for id, attempt in cluster.attempts.items()}
    for _ in range(3):
        cluster.turn()
        for id, row in cluster.replicas.items():
            if row.attempt is not None:
                cluster.replicas[id] = replace(row, process=Process.ALIVE, began=True)
    assert {id: attempt.state for id, attempt in cluster.attempts.items()} == dict.fromkeys(everything, S.RUNNING)
    for id, ranks in everything.items():
        assert {rank for attempt, rank in cluster.starts if attempt == id} == ranks
    warm = [row.node for row in cluster.replicas.values() if row.attempt is None]
    assert sorted(warm) == sorted(NodeId(name) for name in NODES for _ in range(cluster.warm))
    assert cluster.turn() == ()
