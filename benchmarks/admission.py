"""How fast jobs get in: Kueue's own performance workloads through the factory's real path, against their quota bound.

    python -m benchmarks.admission --workload kueue-baseline|kueue-large [--durable] [--realtime]

Jobs come in through `JobService.submit_batch` (what `POST /jobs:batch` calls), are admitted by the real `ControlLoop`,
and begin and end through the real report path. `--durable` keeps all of it on SQLite with the settings of production
(WAL, synchronous=FULL, one writer); else a store in memory. `--realtime` runs on the wall clock: each job really lasts
its 150–1000 ms under a small runner in this process, and submitter, loop and runner are threads, as in a server.
Without it a virtual clock jumps from event to event in one thread: `wall_s` then is what kernel and store cost for the
whole workload, `ratio` is null, and nothing of it compares with anybody's published times.

Prints one JSON object on its last line. Times to admission count from the commit that accepted the job to the first
admission, means per class. After the run every job is read back from the store: all must have succeeded.
`peak_of_quota` is the most that a cohort held after any turn of the loop (1 = all of its quota).

Source: Kueue's `test/performance/scheduler` generators (baseline, large-scale): cohorts of queues, each with a nominal
quota of 20 units and a borrowing limit of 100. A cohort is a queue above its queues here, with nothing of its own; a
unit is one CPU slot, and priorities 50/100/200 are the classes low/normal/high. Differs: Kueue creates single objects,
we batches of what is due.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from factory.algorithms.catalogue import load_catalogue
from factory.api.wakes import Bell
from factory.bootstrap import SystemClock, UuidIds, tune_collector
from factory.control.loop import ControlLoop, TickResult
from factory.control.reports import apply_report
from factory.domain.ids import AttemptId, JobId, NodeId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import EndReason, Job, JobState, Outcome, PriorityClass
from factory.domain.pools import Flavor, Node, Pool, Runner
from factory.domain.resources import GIB, Resources
from factory.domain.tenancy import PLATFORM, Principal, Queue, Quota, Role
from factory.domain.time import Instant
from factory.errors import StaleWriteError
from factory.jobs.ports import JobFilter
from factory.jobs.service import BATCH_LIMIT, JobService
from factory.scheduling.snapshot import Snapshot
from factory.schemas.jobs import BatchItem, CommandSpec, JobSpec
from factory.schemas.runner import AttemptReport, ReportBatch
from factory.storage.store import open_store
from factory.testing.memory import MemoryStore

POOL, RUNNER, INCARNATION = PoolName("cpu"), RunnerId("bench"), "one"
NOMINAL, BORROWING, NODE_SLOTS = 20, 100, 600  # slots of a queue, of a queue above that, of a node
GATHER_S = 0.005  # loop, submitter and runner gather what comes together for so long into one turn
LONGEST_S = 600.0  # a run that takes longer has failed


@dataclass(frozen=True, slots=True)
class Kind:
    """One class of jobs of the generators, as created in every queue."""

    name: str
    priority: PriorityClass
    slots: int
    count: int
    run_ms: int
    every_ms: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job and when it is created."""

    at_ms: int
    tenant: TenantId
    item: BatchItem


@dataclass(frozen=True, slots=True)
class Workload:
    """One of Kueue's generators."""

    cohorts: int
    queues: int  # of each cohort
    kinds: tuple[Kind, ...]

    @property
    def jobs(self) -> int:
        """How many jobs it has."""
        return self.cohorts * self.queues * sum(kind.count for kind in self.kinds)

    @property
    def lower_bound_s(self) -> float:
        """No scheduler ends sooner: the slot time of a cohort's jobs over its quota."""
        return sum(kind.count * kind.slots * kind.run_ms for kind in self.kinds) / NOMINAL / 1000

    def arrivals(self) -> list[Arrival]:
        """Return every job in the order of creation, as its client has it ready to send."""
        wanted = sorted(
            (number * kind.every_ms, cohort, queue, place)
            for place, kind in enumerate(self.kinds)
            for number in range(kind.count)
            for cohort in range(self.cohorts)
            for queue in range(self.queues)
        )
        return [
            Arrival(at, TenantId(f"c{cohort}"), _item(f"job-{number}", f"c{cohort}-q{queue}", self.kinds[place]))
            for number, (at, cohort, queue, place) in enumerate(wanted)
        ]


def _item(key: str, queue: str, kind: Kind) -> BatchItem:
    command = CommandSpec(argv=("true",))
    asked = {"name": kind.name, "command": command, "cpu": kind.slots, "memory": 0, "priority": kind.priority}
    return BatchItem(key=key, spec=JobSpec.model_validate({**asked, "queue": queue}))


LOW, NORMAL, HIGH = PriorityClass.LOW, PriorityClass.NORMAL, PriorityClass.HIGH
WORKLOADS = {
    "kueue-baseline": Workload(
        5,
        6,
        (
            Kind("small", LOW, 1, 350, 200, 100),
            Kind("medium", NORMAL, 5, 100, 500, 500),
            Kind("large", HIGH, 20, 50, 1000, 1200),
        ),
    ),
    "kueue-large": Workload(
        10,
        100,
        (
            Kind("small", LOW, 1, 35, 150, 60),
            Kind("medium", NORMAL, 5, 11, 350, 300),
            Kind("large", HIGH, 20, 4, 700, 700),
        ),
    ),
}


class VirtualClock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.at: Instant = 0

    def now(self) -> Instant:
        """Return the time that it was set to."""
        return self.at


class NoBundles:
    """The jobs are commands: no code is uploaded."""

    def has(self, tenant: TenantId, digests: object) -> frozenset[str]:
        """Return that nothing is there."""
        return frozenset()


class FakeRunner:
    """Starts what it hears of at once, ends it when its time is over or it is to stop; says so in batches."""

    def __init__(self, run_ms: dict[str, int]) -> None:
        self._run_ms = run_ms
        self._heard: deque[tuple[AttemptId, int | None]] = deque()  # (attempt, how long it lasts or None = stop it)
        self._ends: list[tuple[Instant, AttemptId]] = []
        self._live: set[AttemptId] = set()

    def hear(self, job: Job) -> None:
        """Take in that the job's live attempt is to run, or to stop; from any thread."""
        live = job.live_attempt
        if live is not None:
            self._heard.append((live.id, self._run_ms[job.spec.name] if live.stop is None else None))

    def next_at(self, now: Instant) -> Instant | None:
        """Return when there is something to say next; None = nothing runs."""
        if self._heard:
            return now
        return self._ends[0][0] if self._ends else None

    def turn(self, now: Instant) -> ReportBatch | None:
        """Start and end what is to, and return what to say of it."""
        said: list[AttemptReport] = []
        while self._heard:
            attempt, lasts_ms = self._heard.popleft()
            if lasts_ms is not None:
                self._live.add(attempt)
                heappush(self._ends, (now + lasts_ms, attempt))
                said.append(AttemptReport(attempt=attempt, kind="running", at=now))
            elif attempt in self._live:
                self._live.remove(attempt)
                said.append(_ended(attempt, EndReason.PREEMPTED, now))
        while self._ends and self._ends[0][0] <= now:
            _, attempt = heappop(self._ends)
            if attempt in self._live:
                self._live.remove(attempt)
                said.append(_ended(attempt, EndReason.COMPLETED, now))
        return ReportBatch(runner=RUNNER, incarnation=INCARNATION, attempts=tuple(said)) if said else None


def _ended(attempt: AttemptId, reason: EndReason, now: Instant) -> AttemptReport:
    return AttemptReport(attempt=attempt, kind="ended", at=now, outcome=Outcome(reason), proof="report")


class Bench:
    """The factory of one run: a store with its queues and nodes, the service, the loop, the runner."""

    def __init__(self, workload: Workload, store: Any, clock: Any) -> None:
        self.workload = workload
        self.store = store
        self.clock = clock
        self.jobs = JobService(store, ids=UuidIds(), bundles=NoBundles(), catalogue=load_catalogue())
        self.loop = ControlLoop(store, holder="bench", submitter=self.jobs)
        self.runner = FakeRunner({kind.name: kind.run_ms for kind in workload.kinds})
        self.specs = {kind.name: kind for kind in workload.kinds}
        self.ended = 0
        self.peak_milli = 0  # the most that a cohort held after a turn of the loop
        self.figures = {"ticks": 0, "tick_s": 0.0, "stale": 0, "refused": 0, "admitted": 0, "preempted": 0}
        store.transact(self._furnish)

    def _furnish(self, tx: Any) -> None:
        now, slots = self.clock.now(), self.workload.cohorts * self.workload.queues * NOMINAL
        slot = Resources(cpu_milli=1000, memory_bytes=GIB)
        tx.put_runner(Runner(RUNNER, INCARNATION, now))
        tx.put_pool(Pool(POOL, Flavor("cpu", slot), RUNNER))
        for number, first in enumerate(range(0, slots, NODE_SLOTS)):
            room = min(NODE_SLOTS, slots - first)  # all nodes together have just what the quotas promise
            tx.put_node(Node(NodeId(f"node-{number:03}"), POOL, RUNNER, slot * room, seen_at=now))
        quota = (Quota(POOL, NOMINAL * 1000, BORROWING * 1000),)
        for cohort in range(self.workload.cohorts):
            tenant, above = TenantId(f"c{cohort}"), QueueName(f"c{cohort}")
            tx.put_queue(Queue(above, tenant, quotas=(Quota(POOL, 0, 0),)))  # a cohort shares within itself only
            for number in range(self.workload.queues):
                tx.put_queue(Queue(QueueName(f"{above}-q{number}"), tenant, parent=above, quotas=quota))

    def _held(self, snapshot: Snapshot, cohort: int) -> int:
        queues = (QueueName(f"c{cohort}-q{number}") for number in range(self.workload.queues))
        return sum(snapshot.used.get((queue, POOL), 0) for queue in queues)

    def submit(self, arrivals: Sequence[Arrival]) -> None:
        """Submit jobs in their order, one batch per tenant and thousand."""
        items: dict[TenantId, list[BatchItem]] = {}
        for arrival in arrivals:
            items.setdefault(arrival.tenant, []).append(arrival.item)
        for tenant, wanted in items.items():
            principal = Principal("key-bench", Role.OPERATOR, tenant)
            for start in range(0, len(wanted), BATCH_LIMIT):
                self.jobs.submit_batch(principal, wanted[start : start + BATCH_LIMIT], now=self.clock.now())

    def report(self) -> bool:
        """Let the runner say what there is to say; False if there was nothing."""
        batch = self.runner.turn(self.clock.now())
        if batch is None:
            return False
        while True:
            try:
                done = self.store.transact(lambda tx: apply_report(tx, batch, self.clock.now()))
            except StaleWriteError:
                continue
            break
        late = {attempt for attempt, _ in done.ignored}
        self.ended += sum(
            report.outcome is not None and report.outcome.reason is EndReason.COMPLETED and report.attempt not in late
            for report in batch.attempts
        )
        return True

    def tick(self) -> TickResult:
        """One turn of the control loop."""
        began = time.perf_counter()
        result = self.loop.tick(self.clock.now())
        snapshot, figures = self.loop.snapshot, self.figures
        for id in (*result.admitted, *result.preempted):
            if snapshot is not None and (job := snapshot.jobs.get(id)) is not None:
                self.runner.hear(job)
        if snapshot is not None:
            self.peak_milli = max(self.peak_milli, *(self._held(snapshot, n) for n in range(self.workload.cohorts)))
        figures["ticks"] += 1
        figures["tick_s"] += time.perf_counter() - began
        figures["stale"] += result.stale
        figures["refused"] += len(result.refused)
        figures["admitted"] += len(result.admitted)
        figures["preempted"] += len(result.preempted)
        return result


def run_virtual(bench: Bench, arrivals: Sequence[Arrival]) -> float:
    """Run in one thread on a clock that jumps; return the virtual seconds that it took."""
    clock: VirtualClock = bench.clock
    submitted = 0
    while bench.ended < len(arrivals):
        due = submitted
        while due < len(arrivals) and arrivals[due].at_ms <= clock.at:
            due += 1
        if due > submitted:
            bench.submit(arrivals[submitted:due])
            submitted = due
        reported = bench.report()
        result = bench.tick()
        if reported or result.wake_at <= clock.at:
            continue
        at = bench.runner.next_at(clock.at)
        coming = [result.wake_at] + ([] if at is None else [at])
        if submitted < len(arrivals):
            coming.append(arrivals[submitted].at_ms)
        clock.at = max(clock.at, min(coming))
    return clock.at / 1000


def run_realtime(bench: Bench, arrivals: Sequence[Arrival]) -> float:
    """Run submitter, loop and runner as threads on the wall clock; return the seconds that it took."""
    bell, heard, done = Bell(), Bell(), threading.Event()
    errors: list[BaseException] = []
    began = time.monotonic()

    def submitter() -> None:
        submitted = 0
        while submitted < len(arrivals) and not done.is_set():
            elapsed_ms = (time.monotonic() - began) * 1000
            due = submitted
            while due < len(arrivals) and arrivals[due].at_ms <= elapsed_ms:
                due += 1
            bench.submit(arrivals[submitted:due])
            bell.ring()
            submitted = due
            if submitted < len(arrivals):
                wait_s = began + arrivals[submitted].at_ms / 1000 - time.monotonic()
                done.wait(max(GATHER_S, wait_s))

    def looper() -> None:
        while not done.is_set():
            result = bench.tick()
            if result.admitted or result.preempted:
                heard.ring()
            nap_s = min((result.wake_at - bench.clock.now()) / 1000, 1.0)
            if nap_s > 0 and bell.wait(nap_s):
                done.wait(GATHER_S)

    def runner() -> None:
        while not done.is_set():
            if bench.report():
                bell.ring()
            if bench.ended >= bench.workload.jobs:
                done.set()
            now = bench.clock.now()
            at = bench.runner.next_at(now)
            heard.wait(1.0 if at is None else max(0, at - now) / 1000)
            done.wait(GATHER_S)

    def guarded(body: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                body()
            except BaseException as exc:
                errors.append(exc)
                done.set()

        return run

    threads = [threading.Thread(target=guarded(body), name=body.__name__) for body in (submitter, looper, runner)]
    for thread in threads:
        thread.start()
    if not done.wait(LONGEST_S):
        errors.append(TimeoutError(f"only {bench.ended} of {bench.workload.jobs} jobs ended in {LONGEST_S} s"))
        done.set()
    took = time.monotonic() - began
    bell.ring()
    heard.ring()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return took


@contextmanager
def opened(durable: bool, clock: Any, *, threaded: bool) -> Iterator[Any]:
    """Open the store: SQLite in a fresh folder, or memory."""
    if not durable:
        yield MemoryStore(clock=clock)
        return
    with tempfile.TemporaryDirectory(prefix="admission-") as folder:
        url = f"sqlite:///{Path(folder) / 'factory.db'}"
        with open_store(url, clock=clock, writer_thread=threaded) as store:
            yield store


def stored_jobs(store: Any) -> list[Job]:
    """Read every job back."""
    found: list[Job] = []
    before: JobId | None = None
    while page := store.read(lambda tx, before=before: tx.jobs(PLATFORM, JobFilter(before=before, limit=1000))):
        found.extend(page)
        before = page[-1].id
    return found


def measure(workload: Workload, *, durable: bool, realtime: bool) -> dict[str, Any]:
    """Run a workload to its end and return its figures. Raises: RuntimeError: a job is missing or did not succeed."""
    clock = SystemClock() if realtime else VirtualClock()
    with opened(durable, clock, threaded=realtime) as store:
        bench = Bench(workload, store, clock)
        arrivals = workload.arrivals()
        cpu, began = time.process_time(), time.perf_counter()
        took_s = run_realtime(bench, arrivals) if realtime else run_virtual(bench, arrivals)
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        jobs = stored_jobs(store)
    failed = [job.id for job in jobs if job.state is not JobState.SUCCEEDED]
    if failed or len(jobs) != workload.jobs:
        raise RuntimeError(f"{len(jobs)} of {workload.jobs} jobs are stored, {len(failed)} of them did not succeed")
    waits: dict[str, list[int]] = {kind.name: [] for kind in reversed(workload.kinds)}
    for job in jobs:
        waits[job.spec.name].append(job.attempts[0].admitted_at - job.submitted_at)
    return {
        "durable": durable,
        "clock": "wall" if realtime else "virtual",
        "wall_s": round(took_s if realtime else wall_s, 2),
        "lower_bound_s": round(workload.lower_bound_s, 3),
        "ratio": round(took_s / workload.lower_bound_s, 3) if realtime else None,
        "admissions_per_s": round(sum(len(job.attempts) for job in jobs) / wall_s, 1),
        "mean_time_to_admission_s": {name: round(statistics.fmean(ms) / 1000, 2) for name, ms in waits.items()},
        "cpu_s": round(cpu_s, 2),
        "peak_of_quota": round(bench.peak_milli / (workload.queues * NOMINAL * 1000), 4),
        **{name: round(value, 2) for name, value in bench.figures.items()},
        **({} if realtime else {"virtual_s": round(took_s, 2)}),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one workload and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), required=True)
    parser.add_argument("--durable", action="store_true", help="SQLite, every decision on disk")
    parser.add_argument("--realtime", action="store_true", help="the wall clock, and jobs that really last")
    asked = parser.parse_args(arguments)
    tune_collector()  # as the server does
    found = measure(WORKLOADS[asked.workload], durable=asked.durable, realtime=asked.realtime)
    print(json.dumps({"workload": asked.workload, **found}))


if __name__ == "__main__":
    main()
