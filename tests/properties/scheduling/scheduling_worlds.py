"""Random small factories and what may happen to them, for the properties of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hypothesis import strategies as st

from factory.domain.ids import AttemptId, JobId
from factory.domain.jobs import (
    Attempt,
    AttemptState,
    EndReason,
    Job,
    JobSpec,
    JobState,
    PriorityClass,
    Stop,
    Topology,
)
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue, Quota
from factory.scheduling.changes import Change, JobChanged, NodeChanged, PoolChanged, QueueChanged, Rows
from factory.scheduling.planning import Admit, Plan, Preempt
from factory.scheduling.policies.registry import POLICIES
from factory.testing.builders import job, node, pool, queue, runner, spec

T = TypeVar("T")

POOLS = (
    pool("cpu", cpu=1, memory_gib=4),
    pool("gpu", cpu=4, memory_gib=16, gpu=1),
    pool("private", cpu=2, memory_gib=4, tenant="water"),
)
QUEUES = ("city", "mobility", "water", "bikes")
LIVE = (AttemptState.DESIRED, AttemptState.RUNNING, AttemptState.STOPPING, AttemptState.UNKNOWN)
NOW = 10_000_000
LONG_AGO = NOW - 3_600_000  # attempts that began then may be preempted


@st.composite
def pools(draw: st.DrawFn) -> list[Pool]:
    """Some of the pools, each with a policy of its own."""
    chosen = draw(st.lists(st.sampled_from(POOLS), unique=True, min_size=1))
    return [replace(row, policy=draw(st.sampled_from(("fair", "fair", *POLICIES)))) for row in chosen]


@st.composite
def nodes(draw: st.DrawFn, id: str) -> Node:
    where = draw(st.sampled_from(POOLS)).name
    row = node(
        id,
        pool=where,
        cpu=draw(st.sampled_from((1, 2, 4, 7.5))),
        memory_gib=draw(st.sampled_from((4, 8, 30))),
        gpus=draw(st.integers(0, 3)) if where == "gpu" else 0,
        state=draw(st.sampled_from((NodeState.READY,) * 6 + (NodeState.DRAINING, NodeState.LOST))),
    )
    return replace(row, zone=draw(st.sampled_from(("", "east"))), gpu_model=draw(st.sampled_from(("", "h100"))))


@st.composite
def queues(draw: st.DrawFn, name: str) -> Queue:
    row = queue(
        name,
        parent=draw(st.sampled_from((None, *QUEUES, "gone"))),  # circles and missing parents too
        weight=draw(st.integers(0, 3)),
    )
    limited = draw(st.lists(st.sampled_from(POOLS), unique=True, max_size=2))
    return replace(
        row,
        quotas=tuple(
            Quota(
                p.name,
                draw(st.integers(0, 8)) * 500,
                draw(st.sampled_from((0, 500, 2000, None))),
                draw(st.sampled_from((None, None, 0, 500))),
            )
            for p in limited
        ),
    )


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    replicas = draw(st.sampled_from((0, 1, 1, 1, 2, 3, 5)))
    row = spec(
        cpu=draw(st.sampled_from((0, 0.5, 1, 2))),
        memory_gib=draw(st.sampled_from((0, 0, 1, 6))),
        gpu=draw(st.sampled_from((0, 0, 0, 0.3, 0.5, 1, 1.5, 2))),
        replicas=replicas,
        queue=draw(st.sampled_from(QUEUES)),
        pool=draw(st.sampled_from((None, None, "cpu", "gpu", "private", "nowhere"))),
        priority=draw(st.sampled_from(PriorityClass)),
    )
    return replace(
        row,
        min_replicas=draw(st.sampled_from((None, None, None, 1, 2))),
        flavors=draw(st.sampled_from(((), (), (), ("gpu", "cpu"), ("tpu",)))),
        gpu_models=draw(st.sampled_from(((), (), (), ("h100",)))),
        topology=draw(st.sampled_from((Topology.ANY, Topology.ANY, *Topology))),
        estimate_s=draw(st.sampled_from((None, None, 60, 4000, 9000))),
    )


@st.composite
def queued(draw: st.DrawFn, id: str) -> Job:
    return job(
        id,
        spec=draw(specs()),
        submitted_at=draw(st.integers(0, 3)),
        not_before=draw(st.sampled_from((None, None, None, NOW - 1, NOW + 1))),
    )


@st.composite
def worlds(draw: st.DrawFn) -> Rows:
    """A factory in which nothing runs yet."""
    return Rows(
        pools=tuple(draw(pools())),
        nodes=tuple(draw(nodes(f"n{i}")) for i in range(draw(st.integers(0, 5)))),
        queues=tuple(draw(queues(name)) for name in QUEUES[: draw(st.integers(1, 4))]),
        jobs=tuple(draw(queued(f"job-{i:02}")) for i in range(draw(st.integers(0, 12)))),
        runners=(runner(),),
        since=0,
    )


@st.composite
def changes(draw: st.DrawFn, rows: Rows) -> list[Change]:
    """What may happen at once: rows come, change and go."""
    found: list[Change] = []
    known = {row.id: row for row in rows.jobs}
    moved: set[str] = set()
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.sampled_from(("queued", "ended", "unknown", "node", "queue", "pool", "requeued", "gone"))):
            case "queued":
                id = f"job-{draw(st.integers(0, 20)):02}"
                if id not in moved and (id not in known or not known[JobId(id)].attempts):
                    moved.add(id)
                    found.append(JobChanged(JobId(id), draw(queued(id))))
            case "ended" | "unknown" | "requeued" | "gone" as what if rows.jobs:
                row = draw(st.sampled_from(rows.jobs))
                if row.id not in moved and (change := _moved(row, what)) is not None:
                    moved.add(row.id)  # what is final stays so
                    found.append(change)
            case "node":
                id = f"n{draw(st.integers(0, 6))}"
                row = draw(st.none() | nodes(id))
                found.append(NodeChanged(node(id).id, row))
            case "queue":
                name = draw(st.sampled_from(QUEUES))
                found.append(QueueChanged(queue(name).name, draw(st.none() | queues(name))))
            case "pool":
                row = draw(pools())[0]
                found.append(PoolChanged(row.name, draw(st.sampled_from((row, None)))))
            case _:
                pass
    return found


def _moved(row: Job, what: str) -> Change | None:
    live = row.live_attempt
    if row.is_terminal:
        return None
    if what == "gone":  # only rows that have ended for long are ever removed, or such as never ran
        return None if row.attempts else JobChanged(row.id, None)
    if what == "unknown" and live is not None:
        silent = replace(live, state=AttemptState.UNKNOWN)
        return JobChanged(row.id, replace(row, attempts=(*row.attempts[:-1], silent)))
    attempts = row.attempts
    if live is not None:
        attempts = (*row.attempts[:-1], replace(live, state=AttemptState.ENDED, ended_at=NOW))
    if what == "requeued" or not attempts:
        return JobChanged(row.id, replace(row, state=JobState.QUEUED, attempts=attempts))
    return JobChanged(row.id, replace(row, state=JobState.SUCCEEDED, attempts=attempts, ended_at=NOW))


@dataclass(frozen=True)
class Applied:
    """A plan that came true: the rows after it, and the changes that lead there."""

    rows: Rows
    changes: tuple[Change, ...]


def admitted(rows: Rows, made: Plan, state: AttemptState = AttemptState.RUNNING, at: int = LONG_AGO) -> Applied:
    """Give every admitted job an attempt with its allocation, and tell every victim to stop."""
    jobs = {row.id: row for row in rows.jobs}
    found: list[Change] = []
    for decision in made.decisions:
        row = jobs[decision.job_id]
        match decision:
            case Admit():
                ordinal = len(row.attempts) + 1
                attempt = Attempt(
                    AttemptId(f"{row.id}.{ordinal}"), ordinal, state, decision.runner, decision.allocation, at
                )
                if state is not AttemptState.DESIRED:
                    attempt = replace(attempt, running_at=at)
                jobs[row.id] = replace(row, state=JobState.RUNNING, attempts=(*row.attempts, attempt))
            case Preempt():
                live = row.live_attempt
                assert live is not None
                stop = Stop(EndReason.PREEMPTED, NOW, decision.for_job)
                stopped = replace(live, state=AttemptState.STOPPING, stop=stop)
                jobs[row.id] = replace(row, state=JobState.PREEMPTING, attempts=(*row.attempts[:-1], stopped))
        found.append(JobChanged(row.id, jobs[row.id]))
    return Applied(replace(rows, jobs=tuple(jobs.values())), tuple(found))


def after(rows: Rows, happened: Sequence[Change]) -> Rows:
    """The rows after changes, computed the plain way."""
    pools: dict[str, Pool] = {row.name: row for row in rows.pools}
    members: dict[str, Node] = {row.id: row for row in rows.nodes}
    lines: dict[str, Queue] = {row.name: row for row in rows.queues}
    jobs: dict[str, Job] = {row.id: row for row in rows.jobs}
    for change in happened:
        match change:
            case PoolChanged(key, value):
                _set(pools, key, value)
            case NodeChanged(key, value):
                _set(members, key, value)
            case QueueChanged(key, value):
                _set(lines, key, value)
            case JobChanged(key, value):
                _set(jobs, key, value)
            case _:
                raise AssertionError(change)
    return replace(
        rows,
        pools=tuple(pools.values()),
        nodes=tuple(members.values()),
        queues=tuple(lines.values()),
        jobs=tuple(jobs.values()),
    )


def _set(rows: dict[str, T], key: str, value: T | None) -> None:
    if value is None:
        rows.pop(key, None)
    else:
        rows[key] = value
