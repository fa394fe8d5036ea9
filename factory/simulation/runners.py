"""A runner process under `lifecycle.reconcile`: it joins, asks what is desired, looks, acts and reports.

Any message may be lost, doubled or late; the process may die between two actions, and then forgets all that the real
one keeps in memory.
"""

from __future__ import annotations

from random import Random

from factory.domain.ids import AttemptId, RunnerId
from factory.domain.time import Instant
from factory.lifecycle import reconciling
from factory.lifecycle.reconciling import (
    Action,
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
)
from factory.schemas.runner import AttemptReport, JoinRequest, NodeReport, ReportBatch
from factory.simulation.chance import happens
from factory.simulation.checking import Checker
from factory.simulation.cluster import Machine, Proc, SimCluster

__all__ = ["SimRunner"]


class SimRunner:
    """One runner of one cluster, over all its process lives."""

    def __init__(self, id: RunnerId, cluster: SimCluster, rng: Random, checker: Checker) -> None:
        self.id = id
        self.cluster = cluster
        self._rng = rng
        self._checker = checker
        self._life = 0
        self.restart()

    def restart(self) -> None:
        """The process dies, and a new one starts: only what is on the nodes is left."""
        self._life += 1
        self.joined = False
        self.desired: DesiredState | None = None
        self._fresh = False  # the wish was asked for since the last round
        self._started: set[AttemptId] = set()
        self._notified_at: dict[ReplicaId, Instant] = {}
        self._gone_at: dict[ReplicaId, Instant] = {}
        self._seen: dict[ReplicaId, FoundReplica] = {}

    @property
    def incarnation(self) -> str:
        """Fresh per process start."""
        return f"life-{self._life}"

    def join_request(self) -> JoinRequest:
        """What it says first."""
        return JoinRequest(runner=self.id, incarnation=self.incarnation, release="sim", ray_version="sim")

    def told(self, desired: DesiredState) -> None:
        """An answer of the control plane came."""
        self.desired = desired
        self._fresh = True

    def round(self, now: Instant, *, calm: bool) -> tuple[ReportBatch, ...]:
        """Look, decide and act once; return what it reports. `calm`: nothing goes wrong."""
        if self.desired is None:
            return ()
        found = self._look(now, calm)
        actions = reconciling.reconcile(self.desired, found, now)
        self._checker.decided(actions, self.desired, found)
        reports: list[AttemptReport] = []
        for action in actions:
            if not calm and happens(self._rng, 4):
                self.restart()  # died in the middle; what it had to say is lost
                return ()
            report = self._act(action, now)
            if report is not None:
                reports.append(report)
        if self._fresh and all(n.reachable and n.scanned for n in found.nodes):
            self._checker.reconciled(self.cluster.procs(), {attempt.id for attempt in self.desired.attempts})
        self._fresh = False
        nodes = tuple(node_report(self.cluster.machines[id]) for id in sorted(self.cluster.machines))
        batch = ReportBatch(runner=self.id, incarnation=self.incarnation, nodes=nodes, attempts=tuple(reports))
        return (batch,)

    def _look(self, now: Instant, calm: bool) -> FoundState:
        nodes: list[FoundNode] = []
        replicas: list[FoundReplica] = []
        for id, machine in sorted(self.cluster.machines.items()):
            scanned = machine.reachable and (calm or not happens(self._rng, 100))
            nodes.append(FoundNode(id, machine.reachable, scanned))
            for proc in machine.procs.values():
                if machine.reachable or proc.state is Process.STARTING:  # Ray lists what it has not started yet
                    self._seen[proc.id] = self._found(proc, now)
        for id, seen in list(self._seen.items()):
            machine = self.cluster.machines[seen.node]
            if id in machine.procs or not machine.reachable:
                replicas.append(seen)  # of a silent machine it knows what it saw last
            else:
                del self._seen[id]
        return FoundState(tuple(nodes), tuple(replicas), frozenset(self._started))

    def _found(self, proc: Proc, now: Instant) -> FoundReplica:
        if proc.state in (Process.LEFTOVER, Process.GONE):
            self._gone_at.setdefault(proc.id, now)
        if proc.notified:
            self._notified_at.setdefault(proc.id, now)
        return FoundReplica(
            id=proc.id,
            node=proc.node,
            process=proc.state,
            attempt=proc.attempt,
            rank=proc.rank,
            began=proc.began,
            notified_at=self._notified_at.get(proc.id),
            killed=proc.killed,
            gone_at=self._gone_at.get(proc.id),
            outcome=proc.outcome,
            code_digest="sha256:sim" if proc.began else "",
        )

    def _act(self, action: Action, now: Instant) -> AttemptReport | None:
        cluster = self.cluster
        match action:
            case StartReplica(attempt, placement, warm):
                proc = cluster.start(
                    now, placement.node, attempt.id, placement.rank, placement.resources, placement.devices, warm
                )
                if proc is not None:  # a warm replica that died meanwhile has begun nothing
                    self._started.add(attempt.id)
                    self._checker.started(cluster.machines[placement.node])
            case NotifyStop():
                if cluster.notify(action.replica, action.node):
                    self._notified_at.setdefault(action.replica, now)
            case KillReplica():
                cluster.kill(action.replica, action.node)
            case SweepOrphan():
                cluster.kill(action.replica, action.node)
                cluster.forget(action.replica, action.node)
            case StartWarm(node):
                cluster.start(now, node, None)
            case StopWarm(replica, node):
                cluster.kill(replica, node)
                cluster.forget(replica, node)
            case ReportStarting(attempt):
                return AttemptReport(attempt=attempt, kind="starting", at=now)
            case ReportRunning(attempt, digest):
                return AttemptReport(attempt=attempt, kind="running", at=now, code_digest=digest)
            case ReportFound(attempt):
                return AttemptReport(attempt=attempt, kind="found", at=now)
            case ReportEnded(attempt, outcome, proof):
                return AttemptReport(attempt=attempt, kind="ended", at=now, outcome=outcome, proof=proof)
        return None


def node_report(machine: Machine) -> NodeReport:
    """What a runner says of a machine."""
    return NodeReport(
        id=machine.id,
        pool=machine.pool,
        flavor=machine.pool,
        slot_cpu_milli=1000,
        slot_memory_bytes=2**30,
        slot_gpu_milli=1000 if machine.devices else 0,
        cpu_milli=machine.cpu_milli,
        memory_bytes=machine.memory_bytes,
        devices=machine.devices,
        is_alive=machine.reachable,
    )
