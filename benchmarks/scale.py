"""How long does the scheduler think when the factory is big? One cycle = take the changes into the snapshot, and plan.

Prints one JSON object on its last line: {cycle_p50_ms, cycle_p99_ms, rebuild_s, rss_mb, decisions_per_s, ...}.

The factory begins nearly full (`allocated_start`: the scarcest resource of each pool, nodes weighted alike), with 79
shapes from a tenth of a GPU to gangs of 64, a queue per tenant under departments, quotas that are borrowed, lent and
taken back, priorities, and estimates for a part of the jobs. On a virtual clock 200 jobs a second arrive and 200 end;
nodes drain and come back. Cycles follow each other as the control loop's do: each takes what happened in the last 100
ms, or in the time that the last cycle really took if that was longer. Its decisions come back as changes of the next
one, through `lifecycle.record`; a preempted attempt ends some seconds later, and only then
frees its slots.

Beside the timing, every cycle is checked against books of its own (`factory.testing.plan_checks`), and five also for
`plan(evolved) == plan(built anew)`; `rebuild_s` is the median of these five builds. The first cycles (`--warmup`) are
checked and reported, but not timed: they tidy up a state that no scheduler made. Garbage collection is on and tuned
as the server does it (`factory.bootstrap.tune_collector`).

    python -m benchmarks.scale --queued 100000 --tenants 1000 --nodes 10000
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from benchmarks._crowd import SHAPES, Crowd, allocated, build_crowd
from factory.bootstrap import tune_collector
from factory.domain.events import (
    Admitted,
    AttemptEnded,
    AttemptRunning,
    AttemptStarting,
    Checkpointed,
    Event,
    PreemptRequested,
)
from factory.domain.ids import AttemptId, JobId, PoolName
from factory.domain.jobs import EndReason, Job, JobState, Outcome
from factory.domain.pools import NodeState
from factory.domain.resources import Resources
from factory.domain.time import SECOND, Instant
from factory.lifecycle.stepping import next_attempt_id, record
from factory.scheduling.planning import Admit, Plan, Policy, Preempt, plan
from factory.scheduling.snapshot import Change, JobChanged, NodeChanged, Snapshot
from factory.testing.plan_checks import Books, Fault

START: Instant = 1_700_000_000_000
SHORTEST_MS = 100  # a cycle takes at least the changes of so long
ENDS_PER_S = ARRIVALS_PER_S = 200
STARTING_MS = 1_000  # from the admission to user code
GRACE_MS = (1_000, 8_000)  # from the notice to the proof of death
CHECKPOINT_MS = 60_000
DRAIN_EVERY_MS, DRAIN_FOR_MS = 2_000, 20_000
REBUILDS = 5


def main(arguments: list[str] | None = None) -> int:
    """Measure; exit 1 if a plan broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="cycles of a big factory")
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--cycles", type=int, default=200, help="timed ones with a decision")
    parser.add_argument("--warmup", type=int, default=5, help="cycles before the first timed one")
    parser.add_argument("--limit-s", type=float, default=420, help="begin no further cycle after so many seconds")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    crowd = build_crowd(
        Random(given.seed),
        queued=given.queued,
        tenants=given.tenants,
        nodes=given.nodes,
        now=START,
        ends_per_s=ENDS_PER_S,
    )
    books = Books(crowd.rows)
    world = _World(crowd, books, Random(given.seed + 1))
    run = _Run(world, books, given.cycles)
    run.measure(given.warmup, until=began + given.limit_s)
    found = run.figures()
    found |= {
        "queued": given.queued,
        "tenants": given.tenants,
        "nodes": given.nodes,
        "seed": given.seed,
        "shapes": len(SHAPES),
        "wall_s": round(time.perf_counter() - began, 1),
    }
    for fault in run.faults[:20]:
        print(f"{fault.rule}: {fault.text}")
    print(json.dumps(found))
    return 1 if run.faults or not run.cycle_ms else 0


class _World:
    """What happens outside the scheduler, on a virtual clock."""

    def __init__(self, crowd: Crowd, books: Books, rng: Random) -> None:
        self._crowd = crowd
        self._books = books
        self._rng = rng
        self._agenda: list[tuple[Instant, int, Callable[[], None]]] = []
        self._count = 0
        self._out: list[Change] = []
        self.now: Instant = START
        self.happened: Counter[str] = Counter()
        self.started: dict[JobId, Instant] = {}  # of preemptors: when they were admitted
        self.promised: dict[JobId, Instant] = {}  # preemptor -> since when victims are stopped for it
        self._arrival: Instant = START
        for job in books.jobs.values():
            live = job.live_attempt
            if live is not None:
                self._at(START + self._lasts_ms(), self._ender(job.id, live.id))
        self._drain_next()

    def advance(self, milliseconds: int) -> list[Change]:
        """Let time pass; return the changes, each as a row that replaces the one before."""
        self.now += milliseconds
        while self._arrival + SECOND / ARRIVALS_PER_S <= self.now:
            self._arrival += round(SECOND / ARRIVALS_PER_S)
            job = self._crowd.waiting(self._arrival)
            self.happened["arrived"] += 1
            self._changed(job)
        while self._agenda and self._agenda[0][0] <= self.now:
            heapq.heappop(self._agenda)[2]()
        changes, self._out = self._out, []
        return changes

    def perform(self, decided: Plan) -> None:
        """Write the decisions down, as the control loop does."""
        for decision in decided.decisions:
            job = self._books.jobs.get(decision.job_id)
            if job is None:
                continue
            match decision:
                case Admit():
                    id = next_attempt_id(job)
                    self._record(job, Admitted(self.now, id, decision.runner, decision.allocation, epoch=1))
                    self._at(self.now + STARTING_MS, self._starter(job.id, id))
                    self._at(self.now + STARTING_MS + self._lasts_ms(), self._ender(job.id, id))
                    self.happened["admitted"] += 1
                    if job.id in self.promised:
                        self.happened["preemptors_admitted"] += 1
                        del self.promised[job.id]
                case Preempt():
                    self._record(job, PreemptRequested(self.now, decision.attempt_id, decision.for_job, epoch=1))
                    killed = self._ender(job.id, decision.attempt_id, EndReason.PREEMPTED)
                    self._at(self.now + self._rng.randrange(*GRACE_MS), killed)
                    self.happened["preempted"] += 1
                    if decision.for_job not in self.promised:
                        self.happened["preemptors"] += 1
                        self.promised[decision.for_job] = self.now

    def _starter(self, id: JobId, attempt: AttemptId) -> Callable[[], None]:
        def start() -> None:
            job = self._alive(id, attempt)
            if job is not None and job.state is JobState.ADMITTED:
                job = self._record(job, AttemptStarting(self.now, attempt))
                self._record(job, AttemptRunning(self.now, attempt))
                if self._rng.random() < 0.5:
                    self._at(self.now + CHECKPOINT_MS, self._saver(id, attempt))

        return start

    def _saver(self, id: JobId, attempt: AttemptId) -> Callable[[], None]:
        def save() -> None:
            job = self._alive(id, attempt)
            if job is not None and job.state is JobState.RUNNING:
                self._record(job, Checkpointed(self.now, attempt))
                self._at(self.now + CHECKPOINT_MS, self._saver(id, attempt))

        return save

    def _ender(self, id: JobId, attempt: AttemptId, reason: EndReason = EndReason.COMPLETED) -> Callable[[], None]:
        def end() -> None:
            job = self._alive(id, attempt)
            if job is not None:
                self.happened["ended" if reason is EndReason.COMPLETED else "requeued"] += 1
                self._record(job, AttemptEnded(self.now, attempt, Outcome(reason), proof="report"))

        return end

    def _alive(self, id: JobId, attempt: AttemptId) -> Job | None:
        job = self._books.jobs.get(id)
        live = None if job is None else job.live_attempt
        return job if live is not None and live.id == attempt else None

    def _drain_next(self) -> None:
        self._at(self.now + DRAIN_EVERY_MS, self._drain)

    def _drain(self) -> None:
        node = self._rng.choice(self._crowd.rows.nodes)
        if self._books.nodes[node.id].state is NodeState.READY:
            self._emit(NodeChanged(node.id, replace(node, state=NodeState.DRAINING)))
            self._at(self.now + DRAIN_FOR_MS, lambda: self._emit(NodeChanged(node.id, node)))
            self.happened["drained"] += 1
        self._drain_next()

    def _lasts_ms(self) -> int:
        return 1 + round(self._rng.expovariate(1 / self._crowd.mean_s) * SECOND)

    def _at(self, when: Instant, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (when, self._count, act))

    def _record(self, job: Job, event: Event) -> Job:
        after, _, _ = record(job, event)
        self._changed(after)
        return after

    def _changed(self, job: Job) -> None:
        self._emit(JobChanged(job.id, job))

    def _emit(self, change: Change) -> None:
        self._books.apply((change,))
        self._out.append(change)


class _Run:
    """The cycles, and what they took."""

    def __init__(self, world: _World, books: Books, cycles: int) -> None:
        self.faults: list[Fault] = []
        self.cycle_ms: list[float] = []
        self._warmup_ms: list[float] = []
        self._idle = 0  # timed cycles without a decision
        self._world = world
        self._books = books
        self._wanted = cycles
        self._evolve_ms: list[float] = []
        self._decisions: list[int] = []
        self._changes: list[int] = []
        self._busy_s = 0.0
        self._rebuild_s: list[float] = []
        self._allocated: list[dict[PoolName, float]] = []
        self._policy = Policy()
        self._virtual_s = 0.0

    def measure(self, warmup: int, until: float) -> None:
        """Cycle until enough cycles decided something."""
        self._allocated.append(self._given_out())
        snapshot = Snapshot.build(self._books.rows())
        gc.collect()
        tune_collector()
        took_ms = 0.0
        rebuild_at = {max(1, self._wanted * i // REBUILDS) for i in range(1, REBUILDS + 1)}
        began = self._world.now
        while len(self.cycle_ms) < self._wanted and time.perf_counter() < until:
            changes = self._world.advance(max(SHORTEST_MS, round(took_ms)))
            start = time.perf_counter()
            snapshot = snapshot.evolve(changes)
            evolved = time.perf_counter()
            decided = plan(snapshot, self._policy, self._world.now)
            done = time.perf_counter()
            took_ms = (done - start) * 1000
            self.faults += self._books.faults(decided, self._world.now)
            if warmup > 0:
                warmup -= 1
                self._warmup_ms.append(took_ms)
                began = self._world.now
                self._world.happened.clear()
            else:
                self._busy_s += done - start
                self._evolve_ms.append((evolved - start) * 1000)
                self._decisions.append(len(decided.decisions))
                self._changes.append(len(changes))
                if decided.decisions:
                    self.cycle_ms.append(took_ms)
                    self._allocated.append(self._given_out())
                else:
                    self._idle += 1
                if len(self.cycle_ms) in rebuild_at:
                    rebuild_at.discard(len(self.cycle_ms))
                    self._rebuild(decided)
            self._world.perform(decided)
        self._virtual_s = (self._world.now - began) / SECOND

    def _rebuild(self, decided: Plan) -> None:
        start = time.perf_counter()
        built = Snapshot.build(self._books.rows())
        self._rebuild_s.append(time.perf_counter() - start)
        if plan(built, self._policy, self._world.now) != decided:
            self.faults.append(Fault("evolve", "the evolved snapshot is planned otherwise than one built anew"))

    def _given_out(self) -> dict[PoolName, float]:
        held: dict[PoolName, Resources] = {}
        for id, node in self._books.nodes.items():
            if node.state is NodeState.READY:
                held[node.pool] = held.get(node.pool, Resources()) + self._books.used(id)
        return allocated(list(self._books.nodes.values()), held)

    def figures(self) -> dict[str, Any]:
        """Everything for the JSON line."""
        happened = self._world.happened
        nodes = Counter(node.pool for node in self._books.nodes.values())
        over = [sum(share * nodes[pool] for pool, share in each.items()) / nodes.total() for each in self._allocated]
        return {
            "cycle_p50_ms": _quantile(self.cycle_ms, 0.5),
            "cycle_p99_ms": _quantile(self.cycle_ms, 0.99),
            "cycle_max_ms": _quantile(self.cycle_ms, 1.0),
            "warmup_max_ms": _quantile(self._warmup_ms, 1.0),
            "evolve_p50_ms": _quantile(self._evolve_ms, 0.5),
            "evolve_p99_ms": _quantile(self._evolve_ms, 0.99),
            "rebuild_s": _quantile(self._rebuild_s, 0.5),
            "rebuild_max_s": _quantile(self._rebuild_s, 1.0),
            "rss_mb": _rss_mb(),
            "decisions_per_s": round(sum(self._decisions) / self._busy_s) if self._busy_s else 0,
            "cycles": len(self.cycle_ms),
            "cycles_without_decision": self._idle,
            "decisions": sum(self._decisions),
            "decisions_per_cycle": round(sum(self._decisions) / max(1, len(self._decisions)), 1),
            "changes_per_cycle": round(sum(self._changes) / max(1, len(self._changes)), 1),
            "allocated_start": round(over[0], 4),
            "allocated_min": round(min(over), 4),
            "allocated_by_pool": {pool: round(share, 4) for pool, share in self._allocated[-1].items()},
            "virtual_s": round(self._virtual_s, 1),
            "arrivals_per_s": round(happened["arrived"] / max(1e-9, self._virtual_s)),
            "ends_per_s": round(happened["ended"] / max(1e-9, self._virtual_s)),
            "happened": dict(sorted(happened.items())),
            "plans_checked": len(self._decisions) + len(self._warmup_ms),
            "rebuilds_compared": len(self._rebuild_s),
            "faults": dict(Counter(fault.rule for fault in self.faults)),
        }


def _quantile(values: list[float], q: float) -> float:
    """Nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    return round(sorted(values)[max(0, -(-int(q * 1000) * len(values) // 1000) - 1)], 2)


def _rss_mb() -> int:
    """Memory of this process now, the harness' own books included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 // 2**20


if __name__ == "__main__":
    sys.exit(main())
