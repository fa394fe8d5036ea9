"""Bugs that somebody could write, each as a small patch of the real code. The simulation must find every one.

A patch takes away one thing that a rule of DESIGN §4 rests on; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from factory.control import deadlines, dispatching, loop, reports
from factory.control.ledger import Ledger, Refusal
from factory.domain.events import AttemptEnded, PreemptRequested
from factory.domain.jobs import AttemptState, EndReason, Job, JobState, Outcome, WaitReason
from factory.jobs import service as jobs_service
from factory.lifecycle import reconciling, stepping
from factory.scheduling import explaining, planning
from factory.scheduling.planning import Preempt
from factory.simulation import world as worlds
from factory.simulation.chance import Crash
from factory.testing.memory import MemoryStore
from factory.testing.memory_tx import MemoryTx

__all__ = ["BUGS"]

Patch = pytest.MonkeyPatch


def no_epoch_check(patch: Patch) -> None:
    """A leader that was replaced goes on dispatching."""
    patch.setattr(MemoryStore, "_check_epoch", lambda self, epoch: None)


def acknowledged_before_commit(patch: Patch) -> None:
    """A submit is answered when the transaction has run, not when it is on disk.

    Patches the in-memory adapter's `transact`: the promise is an adapter's, and only there a commit can be left out.
    """
    real = MemoryStore.transact

    def transact(self: MemoryStore, fn: Callable[[Any], Any], *, epoch: int | None = None) -> Any:
        answers: list[Any] = []
        try:
            return real(self, lambda tx: answers.append(fn(tx)) or answers[-1], epoch=epoch)
        except Crash:
            if answers and epoch is None:
                return answers[-1]
            raise

    patch.setattr(MemoryStore, "transact", transact)


def report_applied_twice(patch: Patch) -> None:
    """A report names its job in effect: what comes late or twice hits the attempt that lives now."""
    real = reports._events

    def events(job: Job, report: Any, now: int) -> Iterator[Any]:
        live = job.live_attempt
        return real(job, report if live is None else report.model_copy(update={"attempt": live.id}), now)

    patch.setattr(reports, "_events", events)


def slot_freed_on_the_cancel_request(patch: Patch) -> None:
    """A cancelled job's slots are given away while its processes still run."""
    real = stepping._cancel

    def cancel(job: Job, live: Any, event: Any) -> Job:
        done = real(job, live, event)
        if live is None:
            return done
        ended = replace(live, state=AttemptState.ENDED, ended_at=event.at)
        return replace(
            done,
            state=JobState.CANCELLED,
            attempts=(*job.attempts[:-1], ended),
            outcome=Outcome(EndReason.CANCELLED),
            ended_at=event.at,
        )

    patch.setattr(stepping, "_cancel", cancel)


def rescue_by_time(patch: Patch) -> None:
    """An attempt whose runner is silent long enough counts as dead, and its job runs again elsewhere."""
    real = deadlines.unknown

    def unknown(job: Job, why: str, now: int) -> Any:
        event = real(job, why, now)
        return None if event is None else AttemptEnded(now, event.attempt_id, Outcome(EndReason.NODE_LOST, why), "time")

    patch.setattr(loop, "unknown", unknown)


def gang_started_partially(patch: Patch) -> None:
    """The ranks whose nodes answer are started, the others later."""

    def start(self: Any) -> Iterator[Any]:
        for placement in self.missing:
            yield reconciling.StartReplica(self.attempt, placement, self.look.take_warm(placement.node))

    patch.setattr(reconciling._Decision, "_start", start)


def capacity_not_checked_again(patch: Patch) -> None:
    """The plan is believed, although nodes, devices and quotas may have changed since."""
    real = Ledger.refuses

    def refuses(self: Ledger, job: Job, allocation: Any, now: int) -> Refusal | None:
        refusal = real(self, job, allocation, now)
        believed = (Refusal.NODE, Refusal.CAPACITY, Refusal.DEVICE, Refusal.QUOTA)
        return None if refusal in believed else refusal

    patch.setattr(Ledger, "refuses", refuses)


def stale_seq_guard_off(patch: Patch) -> None:
    """Decisions are written over whatever the row has become."""
    real = dispatching._Group.apply

    def apply(self: Any, decision: Any) -> None:
        seen = self._planned.snapshot.jobs.get(decision.job_id)
        if seen is not None:
            tx = self._tx
            self._tx = _Behind(tx, seen)
            real(self, decision)
            self._tx = tx

    patch.setattr(dispatching._Group, "apply", apply)
    patch.setattr(MemoryTx, "_is_current", lambda self, job, expected_seq: True)


class _Behind:
    """A transaction in which one job reads as it was."""

    def __init__(self, tx: Any, seen: Job) -> None:
        self._tx = tx
        self._seen = seen

    def job(self, scope: Any, job_id: Any) -> Any:
        return self._seen if job_id == self._seen.id else self._tx.job(scope, job_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)


def orphan_not_swept(patch: Patch) -> None:
    """What has no desired attempt stays on the nodes."""
    patch.setattr(reconciling, "_sweep", lambda look, wanted: iter(()))


def cancel_not_final(patch: Patch) -> None:
    """A job that completes while it is being cancelled counts as succeeded."""
    real = stepping._end

    def end(job: Job, live: Any, event: Any) -> Job:
        if event.outcome.reason is EndReason.COMPLETED and job.state is JobState.CANCELLING:
            return real(replace(job, state=JobState.RUNNING), live, event)
        return real(job, live, event)

    patch.setattr(stepping, "_end", end)


def token_not_revoked(patch: Patch) -> None:
    """A worker of an attempt that ended may still write. Patches `lifecycle.liveness.require_live`, where the job
    service calls it.
    """

    def require_live(job: Job | None, attempt_id: Any) -> Any:
        assert job is not None
        return job, next(attempt for attempt in job.attempts if attempt.id == attempt_id)

    patch.setattr(jobs_service, "require_live", require_live)


def full_quota_not_told(patch: Patch) -> None:
    """A job that waits for its queue's quota is told nothing. Patches `scheduling.explaining`."""
    real = explaining._why

    def why(*given: Any) -> Any:
        told = real(*given)
        full = told[0] is not None and told[0].reason is WaitReason.WAITING_FOR_QUOTA
        return (None, None, ()) if full else told

    patch.setattr(explaining, "_why", why)


def plan_forgets_small_gangs(patch: Patch) -> None:
    """A gang of two is never planned, although it is told that it fits. Patches the planner that the loop calls."""
    real = worlds.plan

    def plan(snapshot: Any, policy: Any, now: int) -> Any:
        found = real(snapshot, policy, now)
        kept = [d for d in found.decisions if snapshot.jobs[d.job_id].spec.replicas != 2]
        return replace(found, decisions=tuple(kept))

    patch.setattr(worlds, "plan", plan)


def lost_attempt_started_again(patch: Patch) -> None:
    """An attempt that began and is nowhere is simply started once more, by whoever looks."""
    patch.setattr(reconciling._Decision, "_has_begun", lambda self: False)


def silent_node_taken_for_empty(patch: Patch) -> None:
    """What is not seen is taken for dead, although its node does not answer."""

    def is_proven_dead(self: Any) -> bool:
        return not self._present()

    patch.setattr(reconciling._Decision, "_is_proven_dead", is_proven_dead)


def runner_of_before_the_restart_is_heard(patch: Patch) -> None:
    """A late report of an older runner process is taken in."""
    patch.setattr(
        reports, "current_runner", lambda tx, id, _: next(r for r in tx.runners(worlds.PLATFORM) if r.id == id)
    )


def commit_without_event(patch: Patch) -> None:
    """A row changes and its event is lost."""
    real = MemoryTx.update_job

    def update_job(self: Any, job: Job, events: Any, *, expected_seq: int) -> None:
        if job.state is JobState.RUNNING:
            job = replace(job, retries=job.retries + 1)
        real(self, job, events, expected_seq=expected_seq)

    patch.setattr(MemoryTx, "update_job", update_job)


def freed_slots_given_to_anybody(patch: Patch) -> None:
    """What victims leave is not kept for the job that they were preempted for. Patches `scheduling.planning`."""
    patch.setattr(planning.Planning, "_honour_claims", lambda self: None)


def preempted_twice(patch: Patch) -> None:
    """An attempt that is being stopped is chosen again, and nobody looks whether it is."""
    real_plan, real_live, real_rule = worlds.plan, stepping._move_attempt, stepping.rule_for

    def plan(snapshot: Any, policy: Any, now: int) -> Any:
        found = real_plan(snapshot, policy, now)
        again = [
            Preempt(id, job.live_attempt.id, job.live_attempt.stop.by)
            for id, job in sorted(snapshot.jobs.items())
            if job.state is JobState.PREEMPTING and job.live_attempt.stop.reason is EndReason.PREEMPTED
        ]
        return replace(found, decisions=(*found.decisions, *again))

    def rule_for(event: Any, state: Any, live: Any) -> Any:
        is_again = event is PreemptRequested and live is AttemptState.STOPPING
        return real_rule(event, JobState.RUNNING, AttemptState.RUNNING) if is_again else real_rule(event, state, live)

    def unstopped(job: Job) -> Job:
        return replace(job, attempts=(*job.attempts[:-1], replace(job.attempts[-1], stop=None)))

    def while_live(job: Job, live: Any, event: Any) -> Any:
        if isinstance(event, PreemptRequested) and live.stop is not None:
            job = unstopped(job)
            live = job.attempts[-1]
        return real_live(job, live, event)

    def preempt(self: Any, job: Job, decision: Any) -> None:
        self._write(job, PreemptRequested(self._now, decision.attempt_id, decision.for_job, self._epoch))

    patch.setattr(worlds, "plan", plan)
    patch.setattr(stepping, "_move_attempt", while_live)
    patch.setattr(stepping, "rule_for", rule_for)
    patch.setattr(dispatching._Group, "_preempt", preempt)


def preemptor_never_admitted(patch: Patch) -> None:
    """The slots are freed and kept, and the job that they are for is forgotten. Patches the planner of the loop."""
    real = worlds.plan

    def plan(snapshot: Any, policy: Any, now: int) -> Any:
        found = real(snapshot, policy, now)
        kept = [d for d in found.decisions if isinstance(d, Preempt) or d.job_id not in snapshot.claims]
        return replace(found, decisions=tuple(kept))

    patch.setattr(worlds, "plan", plan)


def minimum_run_time_forgotten(patch: Patch) -> None:
    """Whoever is cheapest to stop goes, however young it is. Patches the planner that the loop calls."""
    real = worlds.plan
    patch.setattr(worlds, "plan", lambda snapshot, policy, now: real(snapshot, replace(policy, min_runtime_s=0), now))


BUGS: tuple[Callable[[Patch], None], ...] = (
    no_epoch_check,
    acknowledged_before_commit,
    report_applied_twice,
    slot_freed_on_the_cancel_request,
    rescue_by_time,
    gang_started_partially,
    capacity_not_checked_again,
    stale_seq_guard_off,
    orphan_not_swept,
    cancel_not_final,
    token_not_revoked,
    full_quota_not_told,
    plan_forgets_small_gangs,
    lost_attempt_started_again,
    silent_node_taken_for_empty,
    runner_of_before_the_restart_is_heard,
    commit_without_event,
    freed_slots_given_to_anybody,
    preempted_twice,
    preemptor_never_admitted,
    minimum_run_time_forgotten,
)
