"""The guarded apply: decisions of a plan become rows, or are refused with a reason, in one transaction per group.

In the transaction, under the leader's epoch (rule 5): the rows are caught up from the feed; a job whose seq is not the
plan's is refused; capacity, devices and quota are checked again (rule 3); the inputs' gates are read again. Then the
`Admitted` event is the outbox: the runner finds the desired attempt, and its id is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from factory.control.gates import Doomed, Open, judge
from factory.control.ledger import Ledger, Refusal
from factory.control.ports import ControlTx
from factory.control.view import Changed, View, catch_up
from factory.domain.events import Admitted, CancelRequested, Event, Held, PreemptRequested
from factory.domain.ids import JobId
from factory.domain.jobs import Job
from factory.domain.tenancy import PLATFORM
from factory.domain.time import Instant
from factory.jobs.applying import apply_event
from factory.jobs.ports import EndedHook
from factory.lifecycle.stepping import next_attempt_id, why_stale
from factory.scheduling.planning import Admit, Decision, Preempt
from factory.scheduling.snapshot import JobChanged

__all__ = ["Dispatched", "dispatch"]


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What came of a group of decisions."""

    admitted: tuple[JobId, ...] = ()
    preempted: tuple[JobId, ...] = ()
    refused: tuple[tuple[JobId, Refusal], ...] = ()
    view: View | None = None  # what the transaction saw and made; true once it is committed
    changed: Changed = field(default_factory=Changed)  # between the view that it began with and that one


def dispatch(
    tx: ControlTx,
    planned: View,
    decisions: Sequence[Decision],
    *,
    epoch: int,
    now: Instant,
    on_ended: EndedHook | None = None,
    since: View | None = None,
) -> Dispatched:
    """Apply the decisions that still hold. `planned` is the view that they were made on; it is not changed.

    Args:
        since: a later view to catch up from: that of the group before this one.

    Raises:
        StaleWriteError: a row changed under the transaction; nothing is written, plan again.
        FeedPrunedError: as `catch_up`.
    """
    current, changed = catch_up(tx, since or planned)
    group = _Group(tx, planned, Ledger(current.snapshot), epoch, now, on_ended)
    preempts = [decision for decision in decisions if isinstance(decision, Preempt)]
    # one look instead of one for each
    tx.jobs_of(PLATFORM, [*(decision.job_id for decision in decisions), *(preempt.for_job for preempt in preempts)])
    vain = {preempt.for_job for preempt in preempts if not group.holds(preempt)}
    for decision in decisions:
        if isinstance(decision, Preempt) and decision.for_job in vain:
            group.refused.append((decision.job_id, Refusal.STALE))
        else:
            group.apply(decision)
    made = current.snapshot.evolve([JobChanged(id, job) for id, job in sorted(group.written.items())])
    return Dispatched(
        tuple(group.admitted),
        tuple(group.preempted),
        tuple(group.refused),
        # the feed tells of these jobs once more; `catch_up` finds them as they are
        view=View(made, current.cursor),
        changed=replace(changed, jobs=changed.jobs | group.written.keys()),
    )


class _Group:
    """One transaction's worth."""

    def __init__(
        self,
        tx: ControlTx,
        planned: View,
        ledger: Ledger,
        epoch: int,
        now: Instant,
        on_ended: EndedHook | None,
    ) -> None:
        self._tx = tx
        self._planned = planned
        self._ledger = ledger
        self._epoch = epoch
        self._now = now
        self._on_ended = on_ended
        self.admitted: list[JobId] = []
        self.preempted: list[JobId] = []
        self.refused: list[tuple[JobId, Refusal]] = []
        self.written: dict[JobId, Job] = {}

    def holds(self, preempt: Preempt) -> bool:
        """Return whether victim and preemptor are as the plan saw them.

        A job that lost one of its victims to something else would not fit, and one that was cancelled does not want
        to: then the other victims must not go either (rule V7 of `scheduling.preempting`).
        """
        pair = (preempt.job_id, preempt.for_job)
        rows = [(self._tx.job(PLATFORM, id), self._planned.snapshot.jobs.get(id)) for id in pair]
        return all(row is not None and seen is not None and row.seq == seen.seq for row, seen in rows)

    def apply(self, decision: Decision) -> None:
        job = self._tx.job(PLATFORM, decision.job_id)
        seen = self._planned.snapshot.jobs.get(decision.job_id)
        if job is None or seen is None or job.seq != seen.seq:
            self.refused.append((decision.job_id, Refusal.STALE))
            return
        match decision:
            case Admit():
                self._admit(job, decision)
            case Preempt():
                self._preempt(job, decision)

    def _admit(self, job: Job, decision: Admit) -> None:
        refusal = self._ledger.refuses(job, decision.allocation, self._now)
        pool = self._ledger.snapshot.pools.get(decision.allocation.pool)
        if refusal is None and (pool is None or pool.runner != decision.runner):
            refusal = Refusal.POOL
        if refusal is not None:
            self.refused.append((job.id, refusal))
            return
        verdict = judge(self._tx, job)
        if not isinstance(verdict, Open):
            self.refused.append((job.id, Refusal.GATE))
            doomed = isinstance(verdict, Doomed)
            self._write(job, CancelRequested(self._now, "control", verdict.why) if doomed else Held(self._now, verdict))
            return
        admitted = Admitted(self._now, next_attempt_id(job), decision.runner, decision.allocation, self._epoch)
        self._write(job, admitted)
        self._ledger.admit(job.spec.queue, decision.allocation)
        self.admitted.append(job.id)

    def _preempt(self, job: Job, decision: Preempt) -> None:
        event = PreemptRequested(self._now, decision.attempt_id, decision.for_job, self._epoch)
        live = job.live_attempt
        if live is None or live.stop is not None or why_stale(job, event) is not None:
            self.refused.append((job.id, Refusal.STALE))
            return
        self._write(job, event)
        self.preempted.append(job.id)

    def _write(self, job: Job, event: Event) -> None:
        self.written[job.id] = apply_event(self._tx, job, event, self._now, self._on_ended)
