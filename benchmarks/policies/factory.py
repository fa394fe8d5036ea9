"""The factory's own scheduler in the simulated cluster: the kernel that the running factory uses, on rows like its own.

Each piece of news becomes a row change, the snapshot evolves, `plan` decides, and the decisions are performed until it
has nothing more to say: Admit starts an attempt, Preempt ends one and queues the job again with what it has attained.
A victim is gone at once; a real one has its grace.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from benchmarks.policies.cluster import Execution, Verdict
from benchmarks.policies.estimates import Estimator
from benchmarks.policies.trace import TraceJob
from factory.domain.ids import AttemptId, JobId, NodeId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import (
    Attempt,
    AttemptState,
    CommandEntry,
    EndReason,
    Job,
    JobSpec,
    JobState,
    Outcome,
    Stop,
)
from factory.domain.pools import Flavor, Node, Pool, Runner
from factory.domain.resources import Resources
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND, Instant
from factory.scheduling.planning import Admit, Policy, Preempt, plan
from factory.scheduling.snapshot import Change, JobChanged, Rows, Snapshot

__all__ = ["Factory"]

_POOL = PoolName("gpus")
_QUEUE = QueueName("training")
_TENANT = TenantId("city")
_RUNNER = RunnerId("cluster")
_ENTRY = CommandEntry(("train",))
_ROUNDS = 10_000  # of plan at one instant; more is a circle
_SLACK_S = 0.001


class Factory:
    """One pool under one policy; every trace job is a row."""

    def __init__(self, nodes: int, gpus_per_node: int, policy: str, estimator: Estimator) -> None:
        self._gpus_per_node = gpus_per_node
        self._policy = Policy()
        self._estimator = estimator
        self._executions: dict[JobId, Execution] = {}
        self._snapshot = Snapshot.build(_rows(nodes, gpus_per_node, policy))

    def decide(self, now_s: float, came: Sequence[Execution], ended: Sequence[Execution]) -> Verdict:
        """Tell the kernel the news, and do what it says until it says nothing."""
        now = _instant(now_s)
        self._take_news(now, came, ended)
        was_running = {id for id, execution in self._executions.items() if execution.is_running}
        runs = set(was_running)
        stopped: set[JobId] = set()
        for _ in range(_ROUNDS):
            decided = plan(self._snapshot, self._policy, now)
            wake_at = decided.wake_at
            changes: list[Change] = []
            for decision in decided.decisions:
                job = self._snapshot.jobs[decision.job_id]
                match decision:
                    case Admit():
                        runs.add(job.id)
                        changes.append(JobChanged(job.id, _started(job, decision, now)))
                    case Preempt():
                        runs.discard(job.id)
                        stopped.add(job.id)
                        changes.append(JobChanged(job.id, self._stopped(job, decision.for_job, now)))
            if not changes:
                break
            self._snapshot = self._snapshot.evolve(changes)
        else:
            raise RuntimeError(f"at {now_s} s the plan has found no end after {_ROUNDS} rounds")
        stop = [self._executions[id] for id in sorted(was_running - runs)]
        start = [self._executions[id] for id in sorted(runs - was_running)]
        restart = [self._executions[id] for id in sorted(stopped & runs & was_running)]
        return Verdict(stop + restart, start + restart, self._wake_at_s(now_s, runs, wake_at))

    def _take_news(self, now: Instant, came: Sequence[Execution], ended: Sequence[Execution]) -> None:
        changes: list[Change] = []
        for execution in ended:
            id = _id(execution.job)
            self._estimator.forget(execution)
            del self._executions[id]
            changes.append(JobChanged(id, _succeeded(self._snapshot.jobs[id], now)))
        for id, execution in self._executions.items():
            if execution.is_running and self._estimator.news_after_s(execution) <= _SLACK_S:
                changes.append(JobChanged(id, self._estimated(self._snapshot.jobs[id], goes_on=True)))
        for execution in came:
            id = _id(execution.job)
            self._executions[id] = execution
            changes.append(
                JobChanged(id, self._estimated(_queued(execution.job, self._gpus_per_node, now), goes_on=False))
            )
        self._snapshot = self._snapshot.evolve(changes)

    def _stopped(self, job: Job, preemptor: JobId, now: Instant) -> Job:
        """End the attempt and queue the job again, with what is known of it now."""
        last = replace(
            job.attempts[-1],
            state=AttemptState.ENDED,
            ended_at=now,
            checkpointed_at=now,
            stop=Stop(EndReason.PREEMPTED, now, by=preemptor),
            outcome=Outcome(EndReason.PREEMPTED),
            proof="report",
        )
        queued = replace(
            job, state=JobState.QUEUED, state_since=now, seq=job.seq + 1, attempts=(*job.attempts[:-1], last)
        )
        return self._estimated(queued, goes_on=False)

    def _estimated(self, job: Job, *, goes_on: bool) -> Job:
        """Write the estimate of the whole run time, as the row has it."""
        execution = self._executions[job.id]
        remaining_s = self._estimator.remaining_s(execution, goes_on=goes_on)
        total_s = None if remaining_s is None else max(1, round(execution.attained_s + remaining_s))
        return replace(job, spec=replace(job.spec, estimate_s=total_s))

    def _wake_at_s(self, now_s: float, runs: Collection[JobId], kernel_wants: Instant | None) -> float:
        after_s = min((self._estimator.news_after_s(self._executions[id]) for id in runs), default=math.inf)
        kernel_s = math.inf if kernel_wants is None else kernel_wants / SECOND
        return min(now_s + after_s, kernel_s)


def _instant(now_s: float) -> Instant:
    return math.floor(now_s * SECOND + 0.001)  # an alarm that was set in milliseconds is not missed by a rounding


def _id(job: TraceJob) -> JobId:
    return JobId(f"job-{job.index:06d}")


def _rows(nodes: int, gpus_per_node: int, policy: str) -> Rows:
    slot = Resources(gpu_milli=1000)
    return Rows(
        pools=(Pool(_POOL, Flavor("gpu", slot), _RUNNER, policy=policy),),
        nodes=tuple(
            Node(NodeId(f"node-{number:04d}"), _POOL, _RUNNER, slot * gpus_per_node, devices=gpus_per_node)
            for number in range(nodes)
        ),
        queues=(Queue(_QUEUE, _TENANT),),
        runners=(Runner(_RUNNER, "1", seen_at=0),),
    )


def _queued(job: TraceJob, gpus_per_node: int, now: Instant) -> Job:
    """Return the row of a job that has just come: one replica if a node has room for it, else a replica per node."""
    replicas = -(-job.gpus // gpus_per_node)
    each = min(job.gpus, gpus_per_node)
    spec = JobSpec(
        name=job.model,
        entry=_ENTRY,
        queue=_QUEUE,
        resources=Resources(gpu_milli=1000 * each),
        replicas=replicas,
        pool=_POOL,
    )
    return Job(_id(job), _TENANT, spec, JobState.QUEUED, now, "trace", seq=1, state_since=now)


def _succeeded(job: Job, now: Instant) -> Job:
    last = replace(
        job.attempts[-1],
        state=AttemptState.ENDED,
        ended_at=now,
        outcome=Outcome(EndReason.COMPLETED),
        proof="report",
    )
    return replace(
        job,
        state=JobState.SUCCEEDED,
        state_since=now,
        seq=job.seq + 1,
        attempts=(*job.attempts[:-1], last),
        ended_at=now,
        outcome=last.outcome,
    )


def _started(job: Job, admit: Admit, now: Instant) -> Job:
    ordinal = len(job.attempts) + 1
    attempt = Attempt(
        AttemptId(f"{job.id}-{ordinal}"),
        ordinal,
        AttemptState.RUNNING,
        admit.runner,
        admit.allocation,
        admitted_at=now,
        starting_at=now,
        running_at=now,
    )
    return replace(job, state=JobState.RUNNING, state_since=now, seq=job.seq + 1, attempts=(*job.attempts, attempt))
