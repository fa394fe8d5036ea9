"""The one transition table of jobs and attempts: data that a person can read and that `stepping` obeys.

A rule says: this event, while the job is in one of these states and its live attempt in one of those, may lead to one
of these. What it leads to where there are several is decided in `stepping` (retry policy, a wish to stop, a person's
hold), and a property test holds it to the table. What no rule names is an `IllegalTransitionError`.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    ResumeRequested,
    StopRequested,
    Submitted,
    SuspendRequested,
)
from factory.domain.jobs import AttemptState, JobState

__all__ = ["RULES", "Rule", "rule_for", "table_as_markdown"]

J = JobState
A = AttemptState
_LIVE = (J.ADMITTED, J.STARTING, J.RUNNING)  # an attempt is live and nobody wants the job to leave
_BOUND = (*_LIVE, J.PREEMPTING, J.CANCELLING)  # an attempt is live
_ENDS = (J.SUCCEEDED, J.FAILED, J.TIMED_OUT, J.CANCELLED, J.QUEUED)
_UP = (A.DESIRED, A.STARTING, A.RUNNING)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `None` in `jobs` = there is no job yet; in `attempts` and `attempt_to` = no live attempt."""

    event: type[Event]
    jobs: tuple[JobState | None, ...]
    attempts: tuple[AttemptState | None, ...]
    to: tuple[JobState, ...]
    attempt_to: tuple[AttemptState | None, ...]
    why: str


RULES: tuple[Rule, ...] = (
    Rule(Submitted, (None,), (None,), (J.QUEUED, J.PENDING), (None,), "accepted; pending if something holds it"),
    Rule(Held, (J.PENDING, J.QUEUED), (None,), (J.PENDING,), (None,), "it waits for what is not a slot"),
    Rule(Queued, (J.PENDING,), (None,), (J.QUEUED,), (None,), "what held it is over"),
    Rule(Admitted, (J.QUEUED,), (None,), (J.ADMITTED,), (A.DESIRED,), "slots held, a new attempt desired (rule 4)"),
    Rule(AttemptStarting, (J.ADMITTED,), (A.DESIRED,), (J.STARTING,), (A.STARTING,), "the runner starts its replicas"),
    Rule(
        AttemptRunning,
        (J.ADMITTED, J.STARTING),
        (A.DESIRED, A.STARTING),
        (J.RUNNING,),
        (A.RUNNING,),
        "user code runs on every replica (a lost 'starting' is made up for)",
    ),
    Rule(
        Checkpointed,
        _BOUND,
        (A.RUNNING, A.STOPPING),
        _BOUND,
        (A.RUNNING, A.STOPPING),
        "its state is saved: what came before is not lost",
    ),
    Rule(
        AttemptUnknown,
        _BOUND,
        (*_UP, A.STOPPING),
        _BOUND,
        (A.UNKNOWN,),
        "runner or node silent: slots stay held, time alone is no proof",
    ),
    Rule(
        AttemptFound,
        _BOUND,
        (A.UNKNOWN,),
        _BOUND,
        (*_UP, A.STOPPING),
        "seen alive: back to where it was, or to stopping if that is wanted",
    ),
    Rule(
        StopRequested,
        _LIVE,
        (*_UP, A.UNKNOWN),
        _LIVE,
        (A.STOPPING, A.UNKNOWN),
        "over its time; a wish until proof of death",
    ),
    Rule(
        PreemptRequested,
        _LIVE,
        (*_UP, A.UNKNOWN),
        (J.PREEMPTING,),
        (A.STOPPING, A.UNKNOWN),
        "the plan takes the slots back",
    ),
    Rule(
        CancelRequested,
        (J.PENDING, J.QUEUED, J.SUSPENDED),
        (None,),
        (J.CANCELLED,),
        (None,),
        "nothing is live: cancelled at once",
    ),
    Rule(
        CancelRequested,
        (*_LIVE, J.PREEMPTING),
        (*_UP, A.STOPPING, A.UNKNOWN),
        (J.CANCELLING,),
        (A.STOPPING, A.UNKNOWN),
        "acknowledged and final (rule 6); slots held until proof of death",
    ),
    Rule(
        PriorityChanged,
        (J.PENDING, J.QUEUED, J.SUSPENDED),
        (None,),
        (J.PENDING, J.QUEUED, J.SUSPENDED),
        (None,),
        "moved to another priority class while nothing of it runs",
    ),
    Rule(SuspendRequested, (J.PENDING, J.QUEUED), (None,), (J.SUSPENDED,), (None,), "a person holds it"),
    Rule(
        SuspendRequested,
        _LIVE,
        (*_UP, A.STOPPING, A.UNKNOWN),
        (J.PREEMPTING,),
        (A.STOPPING, A.UNKNOWN),
        "stopped first, suspended when its attempt is proven dead",
    ),
    Rule(ResumeRequested, (J.SUSPENDED,), (None,), (J.PENDING,), (None,), "judged again: dependencies, gates, time"),
    Rule(
        ResumeRequested,
        (J.PREEMPTING,),
        (A.STOPPING, A.UNKNOWN),
        (J.PREEMPTING,),
        (A.STOPPING, A.UNKNOWN),
        "the hold is lifted before the attempt has ended",
    ),
    Rule(
        AttemptEnded,
        _LIVE,
        (*_UP, A.STOPPING, A.UNKNOWN),
        _ENDS,
        (None,),
        "proof of death: final, or queued again by the retry policy",
    ),
    Rule(
        AttemptEnded,
        (J.PREEMPTING,),
        (A.STOPPING, A.UNKNOWN),
        (*_ENDS, J.SUSPENDED),
        (None,),
        "its slots are back; queued again, uncounted, or suspended",
    ),
    Rule(
        AttemptEnded,
        (J.CANCELLING,),
        (A.STOPPING, A.UNKNOWN),
        (J.CANCELLED,),
        (None,),
        "however the attempt ended, the cancel holds (rule 6)",
    ),
)

_INDEX: dict[tuple[type[Event], JobState | None, AttemptState | None], Rule] = {
    (rule.event, job, attempt): rule for rule in RULES for job in rule.jobs for attempt in rule.attempts
}


def rule_for(event: type[Event], job: JobState | None, attempt: AttemptState | None) -> Rule | None:
    """Return the rule for an event on a job whose live attempt is in `attempt` (None: no live one), or None."""
    return _INDEX.get((event, job, attempt))


def table_as_markdown() -> str:
    """Return the table for the documentation, one row per rule."""
    lines = ["| event | job | live attempt | job then | attempt then | why |", "|---|---|---|---|---|---|"]
    for rule in RULES:
        cells = (_names(rule.jobs), _names(rule.attempts), _names(rule.to), _names(rule.attempt_to))
        lines.append(f"| {rule.event.__name__} | {' | '.join(cells)} | {rule.why} |")
    return "\n".join(lines) + "\n"


def _names(states: tuple[JobState | AttemptState | None, ...]) -> str:
    return ", ".join("–" if state is None else state.value for state in states)
