"""A small factory on the store in memory, for tests of the control loop: a clock, a runner with nodes, one tenant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from factory.control.loop import ControlLoop, Settings, TickResult
from factory.control.reports import Applied, apply_report
from factory.domain.datasets import Contract, DatasetVersion, VersionState
from factory.domain.events import CancelRequested, Event, Submitted
from factory.domain.ids import DatasetName, JobId, RunnerId, TenantId, VersionId
from factory.domain.jobs import Attempt, EndReason, GroupRef, Job, JobSpec, Outcome, Waiting
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import PLATFORM, Queue
from factory.lifecycle.stepping import record
from factory.schemas.runner import AttemptReport, NodeReport, ReportBatch
from factory.testing import builders
from factory.testing.memory import MemoryStore

START = 1_000_000  # when every test begins
MOBILITY = TenantId("mobility")


class Clock:
    def __init__(self) -> None:
        self.at = START

    def now(self) -> int:
        return self.at


class Submitter:
    """Inserts replica jobs as the job service does."""

    def __init__(self) -> None:
        self.count = 0

    def submit_service(self, tx: Any, tenant: TenantId, spec: JobSpec, *, group: GroupRef, by: str, now: int) -> Job:
        self.count += 1
        event = Submitted(now, JobId(f"job-svc-{self.count:03d}"), tenant, by, spec, group)
        job, recorded, _ = record(None, event)
        tx.insert_job(job, (recorded,))
        return job


class Floor:
    """One runner with node n1 (2 CPUs) in pool cpu, queue mobility without quota, unless said otherwise."""

    def __init__(self, *rows: Pool | Node | Queue | Runner) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.submitter = Submitter()
        self.ended: list[JobId] = []
        given = rows or (builders.pool(), builders.node("n1", cpu=2), builders.queue(), builders.runner(seen_at=START))
        self.write(lambda tx: [self._put(tx, row) for row in given])
        self.loop = self.another_loop("a")

    def another_loop(self, holder: str, **settings: Any) -> ControlLoop:
        return ControlLoop(
            self.store,
            holder=holder,
            submitter=self.submitter,
            settings=Settings(**settings),
            on_ended=lambda tx, job, now: self.ended.append(job.id),
        )

    def tick(self, seconds: float = 0) -> TickResult:
        self.clock.at += int(seconds * 1000)
        return self.loop.tick(self.clock.at)

    def write(self, fn: Any) -> Any:
        return self.store.transact(fn)

    def submit(self, id: str, *, hold: Waiting | None = None, spec: JobSpec | None = None, **asked: Any) -> Job:
        event = Submitted(self.clock.at, JobId(id), MOBILITY, "key-1", spec or builders.spec(id, **asked), None, hold)
        job, recorded, _ = record(None, event)
        self.write(lambda tx: tx.insert_job(job, (recorded,)))
        return job

    def happen(self, id: str, event: Event) -> Job:
        job, recorded, _ = record(self.job(id), event)
        self.write(lambda tx: tx.update_job(job, (recorded,), expected_seq=job.seq - 1))
        return job

    def cancel(self, id: str) -> Job:
        return self.happen(id, CancelRequested(self.clock.at, "key-1"))

    def job(self, id: str) -> Job:
        found = self.store.read(lambda reader: reader.job(PLATFORM, JobId(id)))
        assert found is not None
        return found

    def attempt(self, id: str) -> Attempt:
        return self.job(id).attempts[-1]

    def node(self, id: str = "n1") -> Node:
        return next(n for n in self.store.read(lambda reader: reader.nodes(PLATFORM)) if n.id == id)

    def change_node(self, **fields: Any) -> None:
        self.write(lambda tx: tx.put_node(replace(self._of(tx.nodes(PLATFORM)), **fields)))

    def report(
        self, *reports: AttemptReport, nodes: Iterable[NodeReport] | None = None, incarnation: str = "inc-1"
    ) -> Applied:
        batch = ReportBatch(
            runner="runner-1",
            incarnation=incarnation,
            nodes=None if nodes is None else tuple(nodes),
            attempts=reports,
        )
        return self.write(
            lambda tx: apply_report(tx, batch, self.clock.at, lambda tx, job, now: self.ended.append(job.id))
        )

    def version(self, id: str, state: VersionState) -> None:
        def work(tx: Any) -> None:
            old = tx.version(PLATFORM, VersionId(id))
            new = DatasetVersion(VersionId(id), MOBILITY, DatasetName("flow"), 1, state, Contract(), 0, "key-1")
            tx.put_version(new if old is None else replace(old, state=state))

        self.write(work)

    @staticmethod
    def _of(rows: Iterable[Any]) -> Any:
        (row,) = rows
        return row

    @staticmethod
    def _put(tx: Any, row: Any) -> None:
        {Pool: tx.put_pool, Node: tx.put_node, Queue: tx.put_queue, Runner: tx.put_runner}[type(row)](row)


def said(attempt: str, kind: str, **facts: Any) -> AttemptReport:
    if kind == "ended":
        facts = {"outcome": Outcome(EndReason.COMPLETED), "proof": "agent", **facts}
    return AttemptReport(attempt=attempt, kind=kind, at=0, **facts)  # pyright: ignore[reportArgumentType]


def node_report(id: str = "n1", *, is_alive: bool = True) -> NodeReport:
    return NodeReport(
        id=id,
        pool="cpu",
        flavor="cpu",
        slot_cpu_milli=1000,
        slot_memory_bytes=4 * 2**30,
        slot_gpu_milli=0,
        cpu_milli=2000,
        memory_bytes=64 * 2**30,
        host="127.0.0.1",
        is_alive=is_alive,
    )


RUNNER = RunnerId("runner-1")
