"""What time alone brings about: an attempt over its time to start or to run, a runner that fell silent.

Time stops attempts and makes them unknown. It never ends one: only proof of death does (DESIGN §2).
"""

from __future__ import annotations

from factory.domain.events import AttemptUnknown, StopRequested
from factory.domain.jobs import AttemptState, EndReason, Job, JobState, Outcome
from factory.domain.pools import Node, NodeState, Runner
from factory.domain.time import SECOND, Instant

__all__ = ["due_at", "is_forgettable", "overdue", "silent_from", "unknown"]


def due_at(job: Job) -> Instant | None:
    """Return when time may next do something to the job: its time is over, or its back-off; None = never."""
    if job.state is JobState.QUEUED:
        return job.not_before
    live = job.live_attempt
    if live is None or live.stop is not None:
        return None
    if live.running_at is not None:
        return None if job.spec.timeout_s is None else live.running_at + job.spec.timeout_s * SECOND
    if live.state is AttemptState.UNKNOWN:
        return None  # nobody could say that it runs: it gets its answer when it is found
    return live.admitted_at + job.spec.start_timeout_s * SECOND


def overdue(job: Job, now: Instant) -> StopRequested | None:
    """Return the request to stop an attempt that is over its time, if it is."""
    live, due = job.live_attempt, due_at(job)
    if live is None or due is None or now < due:
        return None
    if live.running_at is not None:
        took = Outcome(
            EndReason.TIMED_OUT,
            f"ran longer than its {job.spec.timeout_s} s",
            "raise timeout_s, or make it end sooner",
        )
    else:
        took = Outcome(EndReason.START_TIMEOUT, f"did not begin to run within {job.spec.start_timeout_s} s")
    return StopRequested(now, live.id, took)


def silent_from(runner: Runner, silence_s: int) -> Instant:
    """Return when the runner counts as silent unless it is heard before."""
    return runner.seen_at + silence_s * SECOND


def is_forgettable(node: Node, *, holds: bool, keep_s: int, now: Instant) -> bool:
    """True if a lost node is removed: it holds no attempt (one that is not proven dead holds it), and is lost long."""
    return node.state is NodeState.LOST and not holds and now >= node.seen_at + keep_s * SECOND


def unknown(job: Job, why: str, now: Instant) -> AttemptUnknown | None:
    """Return the event that makes the job's live attempt unknown; None if it has none or is unknown already."""
    live = job.live_attempt
    if live is None or live.state is AttemptState.UNKNOWN:
        return None
    return AttemptUnknown(now, live.id, why)
