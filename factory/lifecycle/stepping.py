"""The life of a job: `step(job, event) -> Step(job, effects)`, pure and total over the one transition table.

Rules of DESIGN §4 that are decided here:

- rule 2: the row is the fold of its events (`fold`), `seq` is the last event's number;
- rule 4: a new attempt only when the last one is ENDED, and ENDED only by `AttemptEnded`, which carries a proof;
- rule 6: terminal states have no outgoing rule; an acknowledged cancel ends as `cancelled` whatever the attempt says.

Taste: dask/distributed's worker state machine (events in, instructions out, no IO).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from factory.domain.events import (
    Admitted,
    AttemptEnded,
    AttemptFound,
    AttemptRunning,
    AttemptStarting,
    AttemptUnknown,
    CancelRequested,
    Checkpointed,
    Event,
    Held,
    PreemptRequested,
    PriorityChanged,
    Queued,
    Recorded,
    ResumeRequested,
    StopRequested,
    Submitted,
    SuspendRequested,
)
from factory.domain.ids import AttemptId
from factory.domain.jobs import (
    Attempt,
    AttemptState,
    EndReason,
    Job,
    JobState,
    Outcome,
    Stop,
    Waiting,
    WaitReason,
)
from factory.domain.time import Instant
from factory.errors import IllegalTransitionError
from factory.lifecycle.effects import Effect, JobEnded
from factory.lifecycle.retrying import RetryReason, decide
from factory.lifecycle.transitions import rule_for

__all__ = ["Stale", "Step", "fold", "next_attempt_id", "record", "step", "why_stale"]

_UNEXPLAINED = frozenset({EndReason.WORKER_LOST, EndReason.NODE_LOST})  # a process that vanished says no more than that
_STOP_REASONS = frozenset({EndReason.TIMED_OUT, EndReason.START_TIMEOUT, EndReason.FACTORY_STOPPED})
_FINAL_OF = {
    EndReason.COMPLETED: JobState.SUCCEEDED,
    EndReason.TIMED_OUT: JobState.TIMED_OUT,
    EndReason.CANCELLED: JobState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Step:
    """What an event made of the job, and what the shell is asked to do."""

    job: Job
    effects: tuple[Effect, ...] = ()


class Stale(StrEnum):
    """Why a runner's report changes nothing. Reports may be lost, doubled and late; this is no error."""

    JOB_ENDED = "job_ended"
    ATTEMPT_ENDED = "attempt_ended"
    OTHER_ATTEMPT = "other_attempt"  # the job has no such attempt, or a later one lives
    ALREADY_KNOWN = "already_known"
    STOPPING = "stopping"  # it is being stopped: how far it got no longer matters


def next_attempt_id(job: Job) -> AttemptId:
    """Return the id that the job's next attempt has: deterministic, so that a repeated start is recognised."""
    return AttemptId(f"{job.id}.{len(job.attempts) + 1}")


def step(job: Job | None, event: Event) -> Step:
    """Return what `event` makes of `job` (None: it does not exist yet).

    Raises:
        IllegalTransitionError: the table has no rule for it, or it names an attempt that is not the live one.
    """
    live = job.live_attempt if job is not None else None
    rule = rule_for(type(event), None if job is None else job.state, None if live is None else live.state)
    if rule is None:
        raise _illegal(job, event)
    if job is None:
        if not isinstance(event, Submitted):  # pragma: no cover - the table allows nothing else without a job
            raise _illegal(job, event)
        return Step(_submitted(event))
    named = getattr(event, "attempt_id", None)
    if named is not None and not isinstance(event, Admitted) and (live is None or live.id != named):
        raise _illegal(job, event)
    moved = _move(job, live, event)
    # rule 6: no event leads from a final state, so who is final now has just ended
    return Step(moved, (JobEnded(moved.id),) if moved.is_terminal else ())


def record(job: Job | None, event: Event) -> tuple[Job, Recorded, tuple[Effect, ...]]:
    """Step, and number the event: the row and the event to store in one transaction (rule 2).

    Raises:
        IllegalTransitionError: as `step`.
    """
    stepped = step(job, event)
    return stepped.job, Recorded(stepped.job.id, stepped.job.seq, event), stepped.effects


def fold(events: Iterable[Recorded | Event]) -> Job:
    """Return the job that these events make, from `Submitted` on (rule 2).

    Raises:
        IllegalTransitionError: they are not the history of one job, or a number is missing.
    """
    job: Job | None = None
    for entry in events:
        event = entry.event if isinstance(entry, Recorded) else entry
        job = step(job, event).job
        if isinstance(entry, Recorded) and (entry.seq != job.seq or entry.job_id != job.id):
            raise IllegalTransitionError(
                f"event {entry.seq} of {entry.job_id} does not follow event {job.seq - 1} of {job.id}",
                hint="the event log has a gap: restore it from a backup",
                facts={"job": job.id, "seq": entry.seq},
            )
    if job is None:
        raise IllegalTransitionError("no events: there is no job to fold")
    return job


def why_stale(job: Job, event: Event) -> Stale | None:
    """Return why a report about an attempt is late, doubled or not the live attempt's; None if it is news.

    Events without an attempt are never stale.
    """
    named = getattr(event, "attempt_id", None)
    if named is None or isinstance(event, Admitted):
        return None
    if job.is_terminal:
        return Stale.JOB_ENDED
    live = job.live_attempt
    if live is None or live.id != named:
        known = any(attempt.id == named for attempt in job.attempts)
        return Stale.ATTEMPT_ENDED if known else Stale.OTHER_ATTEMPT
    if rule_for(type(event), job.state, live.state) is not None:
        return None
    if isinstance(event, AttemptStarting | AttemptRunning) and live.stop is not None:
        return Stale.STOPPING
    return Stale.ALREADY_KNOWN


def _submitted(event: Submitted) -> Job:
    return Job(
        id=event.job_id,
        tenant=event.tenant,
        spec=event.spec,
        state=JobState.QUEUED if event.hold is None else JobState.PENDING,
        submitted_at=event.at,
        submitted_by=event.by,
        seq=1,
        state_since=event.at,
        group=event.group,
        hold=event.hold,
    )


def _move(job: Job, live: Attempt | None, event: Event) -> Job:
    match event:
        case Held():
            return _to(job, JobState.PENDING, event.at, hold=event.hold)
        case Queued():
            return _to(job, JobState.QUEUED, event.at)
        case Admitted():
            return _admit(job, event)
        case CancelRequested():
            return _cancel(job, live, event)
        case SuspendRequested():
            return _suspend(job, live, event)
        case ResumeRequested():
            return _resume(job, event)
        case PriorityChanged():
            return replace(job, seq=job.seq + 1, spec=replace(job.spec, priority=event.priority))
        case (
            AttemptStarting()
            | AttemptRunning()
            | Checkpointed()
            | AttemptUnknown()
            | AttemptFound()
            | StopRequested()
            | PreemptRequested()
            | AttemptEnded()
        ):
            if live is None:  # pragma: no cover - the table asks for a live attempt
                raise _illegal(job, event)
            return _move_attempt(job, live, event)
        case Submitted():
            raise _illegal(job, event)
    assert_never(event)


def _move_attempt(
    job: Job,
    live: Attempt,
    event: AttemptStarting
    | AttemptRunning
    | Checkpointed
    | AttemptUnknown
    | AttemptFound
    | StopRequested
    | PreemptRequested
    | AttemptEnded,
) -> Job:
    match event:
        case AttemptStarting():
            begun = replace(live, state=AttemptState.STARTING, starting_at=event.at)
            return _to(job, JobState.STARTING, event.at, begun)
        case AttemptRunning():
            started = event.at if live.starting_at is None else live.starting_at
            code = event.code_digest or live.code_digest
            up = replace(live, state=AttemptState.RUNNING, starting_at=started, running_at=event.at, code_digest=code)
            return _to(job, JobState.RUNNING, event.at, up)
        case Checkpointed():
            return _to(job, job.state, event.at, replace(live, checkpointed_at=event.at), hold=job.hold)
        case AttemptUnknown():
            return _to(job, job.state, event.at, replace(live, state=AttemptState.UNKNOWN), hold=job.hold)
        case AttemptFound():
            return _to(job, job.state, event.at, replace(live, state=_state_before_silence(live)), hold=job.hold)
        case StopRequested():
            if event.outcome.reason not in _STOP_REASONS or live.stop is not None:
                raise _illegal(job, event)
            stopped = _stopped(live, Stop(event.outcome.reason, event.at, "control"))
            return _to(job, job.state, event.at, stopped, hold=job.hold)
        case PreemptRequested():
            if live.stop is not None:
                raise _illegal(job, event)
            stopped = _stopped(live, Stop(EndReason.PREEMPTED, event.at, event.by))
            return _to(job, JobState.PREEMPTING, event.at, stopped)
        case AttemptEnded():
            return _end(job, live, event)
    assert_never(event)


def _admit(job: Job, event: Admitted) -> Job:
    if event.attempt_id != next_attempt_id(job):
        raise _illegal(job, event)
    attempt = Attempt(
        id=event.attempt_id,
        ordinal=len(job.attempts) + 1,
        state=AttemptState.DESIRED,
        runner=event.runner,
        allocation=event.allocation,
        admitted_at=event.at,
    )
    return replace(
        job,
        seq=job.seq + 1,
        state=JobState.ADMITTED,
        state_since=event.at,
        attempts=(*job.attempts, attempt),
        not_before=None,
        hold=None,
    )


def _cancel(job: Job, live: Attempt | None, event: CancelRequested) -> Job:
    if live is None:
        message = f"cancelled by {event.by} while {job.state.value}" + (f": {event.reason}" if event.reason else "")
        return _final(job, JobState.CANCELLED, Outcome(EndReason.CANCELLED, message), event.at)
    stopped = _stopped(live, Stop(EndReason.CANCELLED, event.at, event.by))
    return _to(job, JobState.CANCELLING, event.at, stopped)


def _suspend(job: Job, live: Attempt | None, event: SuspendRequested) -> Job:
    hold = Waiting(WaitReason.SUSPENDED, f"suspended by {event.by}", "resume it to let it go on")
    if live is None:
        return _to(job, JobState.SUSPENDED, event.at, hold=hold)
    stopped = _stopped(live, live.stop or Stop(EndReason.PREEMPTED, event.at, event.by))
    return _to(job, JobState.PREEMPTING, event.at, stopped, hold=hold)


def _resume(job: Job, event: ResumeRequested) -> Job:
    if job.state is JobState.PREEMPTING:
        if job.hold is None:
            raise _illegal(job, event)
        return replace(job, seq=job.seq + 1, hold=None)
    judged = Waiting(WaitReason.PENDING_EVALUATION, f"resumed by {event.by}; not yet judged")
    return _to(job, JobState.PENDING, event.at, hold=judged)


def _end(job: Job, live: Attempt, event: AttemptEnded) -> Job:
    outcome = _explained(live, event.outcome)
    ended = replace(live, state=AttemptState.ENDED, ended_at=event.at, outcome=outcome, proof=event.proof)
    if job.state is JobState.CANCELLING:
        by = live.stop.by if live.stop is not None else ""
        how = f"; its attempt ended as {outcome.reason.value}" if outcome.reason is not EndReason.CANCELLED else ""
        cancelled = Outcome(EndReason.CANCELLED, f"cancelled by {by or 'a person'}{how}")
        return _final(job, JobState.CANCELLED, cancelled, event.at, ended)
    decision = decide(job, outcome, event.at)
    if not decision.retry:
        if decision.reason is RetryReason.EXHAUSTED and job.retries:
            outcome = replace(outcome, message=f"{outcome.message} (after {job.retries} retries)".strip())
        return _final(job, _FINAL_OF.get(outcome.reason, JobState.FAILED), outcome, event.at, ended)
    counted = replace(job, retries=job.retries + decision.counted, not_before=decision.not_before)
    if job.hold is not None and job.hold.reason is WaitReason.SUSPENDED:
        return _to(counted, JobState.SUSPENDED, event.at, ended, hold=job.hold)
    return _to(counted, JobState.QUEUED, event.at, ended)


def _explained(live: Attempt, outcome: Outcome) -> Outcome:
    """A process that vanished while it was being stopped was stopped: the wish explains the end."""
    if live.stop is None or outcome.reason not in _UNEXPLAINED:
        return outcome
    return replace(outcome, reason=live.stop.reason)


def _final(job: Job, state: JobState, outcome: Outcome, at: Instant, attempt: Attempt | None = None) -> Job:
    return replace(
        job,
        seq=job.seq + 1,
        state=state,
        state_since=at,
        attempts=_latest(job, attempt),
        hold=None,
        outcome=outcome,
        ended_at=at,
        not_before=None,
    )


def _stopped(live: Attempt, stop: Stop) -> Attempt:
    # an unknown attempt stays unknown: nobody is there to stop it yet, and found again it goes on to stopping
    state = AttemptState.UNKNOWN if live.state is AttemptState.UNKNOWN else AttemptState.STOPPING
    return replace(live, state=state, stop=stop)


def _state_before_silence(live: Attempt) -> AttemptState:
    if live.stop is not None:
        return AttemptState.STOPPING
    if live.running_at is not None:
        return AttemptState.RUNNING
    return AttemptState.DESIRED if live.starting_at is None else AttemptState.STARTING


def _to(job: Job, state: JobState, at: Instant, attempt: Attempt | None = None, *, hold: Waiting | None = None) -> Job:
    """Return the job one event later, in `state`, `attempt` in place of its last one, in a single copy."""
    return replace(
        job,
        seq=job.seq + 1,
        state=state,
        state_since=at if state is not job.state else job.state_since,
        attempts=_latest(job, attempt),
        hold=hold,
    )


def _latest(job: Job, attempt: Attempt | None) -> tuple[Attempt, ...]:
    return job.attempts if attempt is None else (*job.attempts[:-1], attempt)


def _illegal(job: Job | None, event: Event) -> IllegalTransitionError:
    name = type(event).__name__
    if job is None:
        return IllegalTransitionError(f"{name} of a job that does not exist", facts={"event": name})
    live = job.live_attempt
    attempt = "no live attempt" if live is None else f"attempt {live.id} {live.state.value}"
    return IllegalTransitionError(
        f"{name} is not possible for job {job.id}: it is {job.state.value}, {attempt}",
        hint="read the job again and decide on its present state",
        facts={"event": name, "job": job.id, "state": job.state.value},
    )
