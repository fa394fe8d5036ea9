"""A fake Ray cluster with node agents: processes that start late, run, fail, fork, ignore signals and vanish.

It is the ground truth of a simulation: what a control plane or a runner believes is compared with what runs here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from factory.domain.ids import AttemptId, NodeId
from factory.domain.jobs import DeviceShare, EndReason, Outcome
from factory.domain.resources import Resources
from factory.domain.time import Instant
from factory.lifecycle.reconciling import Process, ReplicaId
from factory.simulation.chance import happens

__all__ = ["Machine", "Proc", "SimCluster"]

_OUTCOMES: tuple[tuple[int, Outcome | None], ...] = (
    (70, Outcome(EndReason.COMPLETED)),
    (10, Outcome(EndReason.USER_ERROR, "it raised")),
    (6, Outcome(EndReason.OUT_OF_MEMORY, "over its limit")),
    (4, Outcome(EndReason.ENVIRONMENT_FAILED, "no such package")),
    (10, None),  # the process vanishes
)


@dataclass(slots=True)
class Proc:
    """One replica process, with all its children."""

    id: ReplicaId
    node: NodeId
    state: Process
    ready_at: Instant  # STARTING: when its process comes up
    attempt: AttemptId | None = None  # None = warm
    rank: int = 0
    resources: Resources = field(default_factory=Resources)
    devices: tuple[DeviceShare, ...] = ()
    begin_at: Instant = 0
    end_at: Instant = 0
    began: bool = False
    notified: bool = False
    obeys: bool = True  # it ends soon after the notice to stop
    killed: bool = False
    forks: bool = False  # leaves a child that outlives it
    fate: Outcome | None = None
    outcome: Outcome | None = None  # evidence

    @property
    def lives(self) -> bool:
        """True if anything of it may still do work, or will come up."""
        return self.state is not Process.GONE


@dataclass(slots=True)
class Machine:
    """One node."""

    id: NodeId
    pool: str
    cpu_milli: int
    memory_bytes: int
    devices: int
    reachable: bool = True
    procs: dict[ReplicaId, Proc] = field(default_factory=dict[ReplicaId, Proc])

    @property
    def capacity(self) -> Resources:
        """What it really has."""
        return Resources(self.cpu_milli, self.memory_bytes, 1000 * self.devices)


class SimCluster:
    """The machines of one runner."""

    def __init__(self, rng: Random, machines: list[Machine]) -> None:
        self._rng = rng
        self.machines = {machine.id: machine for machine in machines}
        self._count = 0

    def procs(self) -> Iterator[Proc]:
        """Every process and every evidence of one, in a fixed order."""
        for node in sorted(self.machines):
            yield from self.machines[node].procs.values()

    def living(self, attempt: AttemptId) -> list[Proc]:
        """What lives of an attempt, seen by nobody or not."""
        return [proc for proc in self.procs() if proc.attempt == attempt and proc.lives]

    # -- what a runner asks for; a machine that is not reachable hears nothing -----------------------------------------

    def start(
        self,
        now: Instant,
        node: NodeId,
        attempt: AttemptId | None,
        rank: int = 0,
        resources: Resources | None = None,
        devices: tuple[DeviceShare, ...] = (),
        warm: ReplicaId | None = None,
    ) -> Proc | None:
        """Ask Ray for a process (it comes up later), or give an attempt to a warm one."""
        machine = self.machines[node]
        if warm is not None:
            proc = machine.procs.get(warm)
            if not machine.reachable or proc is None or proc.state is not Process.ALIVE or proc.attempt is not None:
                return None
        else:
            self._count += 1
            delay = self._rng.randrange(50, 3000)
            proc = Proc(ReplicaId(f"rep-{self._count:05d}"), node, Process.STARTING, now + delay)
            machine.procs[proc.id] = proc
        if attempt is not None:
            self._assign(proc, max(now, proc.ready_at), attempt, rank, resources or Resources(), devices)
        return proc

    def notify(self, replica: ReplicaId, node: NodeId) -> bool:
        """Tell a process to stop; True if the agent heard it."""
        proc = self._heard(replica, node)
        if proc is None:
            return False
        proc.notified = True
        return True

    def kill(self, replica: ReplicaId, node: NodeId) -> bool:
        """Kill all that bears the marker; True if the agent heard it."""
        proc = self._heard(replica, node)
        if proc is None:
            return False
        proc.killed = proc.killed or proc.state in (Process.STARTING, Process.ALIVE)
        proc.state = Process.GONE
        return True

    def forget(self, replica: ReplicaId, node: NodeId) -> None:
        """Drop the evidence of a process that is gone."""
        proc = self._heard(replica, node)
        if proc is not None and not proc.lives:
            del self.machines[node].procs[replica]

    # -- what happens by itself ------------------------------------------------------------------------------------

    def pass_time(self, now: Instant, *, hurry: bool = False) -> None:
        """Let every process go on to `now`. `hurry`: whatever runs comes to its end."""
        for proc in list(self.procs()):
            if proc.state is Process.STARTING and (now >= proc.ready_at or hurry):
                proc.state = Process.ALIVE
            if proc.state is not Process.ALIVE or proc.attempt is None:
                continue
            if not proc.began and (now >= proc.begin_at or hurry):
                proc.began = True
            if proc.began and ((now >= proc.end_at or hurry) or (proc.notified and proc.obeys)):
                self._end(proc, Outcome(EndReason.USER_ERROR, "SIGTERM") if proc.notified else proc.fate)

    def kill_some(self) -> None:
        """The kernel, or a person, kills a process."""
        alive = [proc for proc in self.procs() if proc.state is Process.ALIVE]
        if alive:
            self._end(self._rng.choice(alive), None)

    def reset(self, node: NodeId) -> None:
        """The machine loses power: no process and no evidence is left."""
        self.machines[node].procs.clear()

    def _end(self, proc: Proc, outcome: Outcome | None) -> None:
        proc.outcome = outcome
        proc.state = Process.LEFTOVER if proc.forks else Process.GONE

    def _assign(
        self,
        proc: Proc,
        from_: Instant,
        attempt: AttemptId,
        rank: int,
        resources: Resources,
        devices: tuple[DeviceShare, ...],
    ) -> None:
        rng = self._rng
        proc.attempt, proc.rank, proc.resources, proc.devices = attempt, rank, resources, devices
        proc.begin_at = from_ + rng.randrange(10, 1000)
        proc.end_at = proc.begin_at + rng.randrange(100, 30_000)
        proc.obeys = not happens(rng, 300)
        proc.forks = happens(rng, 80)
        point = rng.randrange(100)
        for share, fate in _OUTCOMES:
            if point < share:
                proc.fate = fate
                break
            point -= share

    def _heard(self, replica: ReplicaId, node: NodeId) -> Proc | None:
        machine = self.machines.get(node)
        return machine.procs.get(replica) if machine is not None and machine.reachable else None
