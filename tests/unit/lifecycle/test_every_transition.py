"""Every event in every state: what it makes of a job and its attempt, written out once more beside the table."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
from factory.domain.ids import AttemptId, JobId, RunnerId
from factory.domain.jobs import (
    AttemptState,
    EndReason,
    Job,
    JobState,
    Outcome,
    PriorityClass,
    Stop,
    Waiting,
    WaitReason,
)
from factory.errors import IllegalTransitionError
from factory.lifecycle.stepping import step
from factory.lifecycle.transitions import RULES, rule_for
from factory.testing import builders

J, A = JobState, AttemptState
FIRST = AttemptId("job-a.1")
HELD = builders.allocation(["n1"], pool=builders.pool())
HOLD = Waiting(WaitReason.DEPENDENCY_PENDING, "waits")
UP = (A.DESIRED, A.STARTING, A.RUNNING)
LIVE = (*UP, A.STOPPING, A.UNKNOWN)
AT = 50

EVENTS: dict[str, Event] = {
    "held": Held(AT, HOLD),
    "queued": Queued(AT),
    "admitted": Admitted(AT, FIRST, RunnerId("runner-1"), HELD, epoch=1),
    "starting": AttemptStarting(AT, FIRST),
    "running": AttemptRunning(AT, FIRST, "sha"),
    "checkpointed": Checkpointed(AT, FIRST),
    "unknown": AttemptUnknown(AT, FIRST),
    "found": AttemptFound(AT, FIRST),
    "completed": AttemptEnded(AT, FIRST, Outcome(EndReason.COMPLETED), "report"),
    "lost": AttemptEnded(AT, FIRST, Outcome(EndReason.NODE_LOST), "fenced"),
    "cancel": CancelRequested(AT, "key-1"),
    "preempt": PreemptRequested(AT, FIRST, JobId("job-b"), 1),
    "timeout": StopRequested(AT, FIRST, Outcome(EndReason.TIMED_OUT)),
    "priority": PriorityChanged(AT, "key-1", PriorityClass.HIGH),
    "suspend": SuspendRequested(AT, "key-1"),
    "resume": ResumeRequested(AT, "key-1"),
    "submitted": Submitted(AT, JobId("job-a"), builders.tenant().id, "key-1", builders.spec("a")),
}

Case = tuple[str, JobState, AttemptState | None]
Result = tuple[JobState, AttemptState | None]


def allowed() -> dict[Case, Result]:
    """What is possible, and what comes of it; everything else is refused."""
    found: dict[Case, Result] = {}

    def say(event: str, jobs: tuple[JobState, ...], attempts: tuple[AttemptState | None, ...], *to: object) -> None:
        for job in jobs:
            for attempt in attempts:
                job_to, attempt_to = (job if to[0] is None else to[0]), (attempt if to[1] == "same" else to[1])
                found[event, job, attempt] = (job_to, attempt_to)  # pyright: ignore[reportArgumentType]

    alive = (J.ADMITTED, J.STARTING, J.RUNNING)
    bound = (*alive, J.PREEMPTING, J.CANCELLING)
    unbound = (J.PENDING, J.QUEUED, J.SUSPENDED)
    say("held", (J.PENDING, J.QUEUED), (None,), J.PENDING, None)
    say("queued", (J.PENDING,), (None,), J.QUEUED, None)
    say("admitted", (J.QUEUED,), (None,), J.ADMITTED, A.DESIRED)
    say("starting", (J.ADMITTED,), (A.DESIRED,), J.STARTING, A.STARTING)
    say("running", (J.ADMITTED, J.STARTING), (A.DESIRED, A.STARTING), J.RUNNING, A.RUNNING)
    say("checkpointed", bound, (A.RUNNING, A.STOPPING), None, "same")
    say("unknown", bound, (*UP, A.STOPPING), None, A.UNKNOWN)
    say("found", bound, (A.UNKNOWN,), None, A.DESIRED)  # the attempts below have not begun
    say("completed", (*alive,), LIVE, J.SUCCEEDED, None)
    say("completed", (J.PREEMPTING,), (A.STOPPING, A.UNKNOWN), J.SUCCEEDED, None)
    say("completed", (J.CANCELLING,), (A.STOPPING, A.UNKNOWN), J.CANCELLED, None)
    say("lost", (*alive,), LIVE, J.QUEUED, None)
    say("lost", (J.PREEMPTING,), (A.STOPPING, A.UNKNOWN), J.QUEUED, None)
    say("lost", (J.CANCELLING,), (A.STOPPING, A.UNKNOWN), J.CANCELLED, None)
    say("cancel", unbound, (None,), J.CANCELLED, None)
    say("cancel", (*alive, J.PREEMPTING), (*UP, A.STOPPING), J.CANCELLING, A.STOPPING)
    say("cancel", (*alive, J.PREEMPTING), (A.UNKNOWN,), J.CANCELLING, A.UNKNOWN)
    say("preempt", alive, UP, J.PREEMPTING, A.STOPPING)
    say("preempt", alive, (A.UNKNOWN,), J.PREEMPTING, A.UNKNOWN)
    say("timeout", alive, UP, None, A.STOPPING)
    say("timeout", alive, (A.UNKNOWN,), None, A.UNKNOWN)
    say("priority", unbound, (None,), None, None)
    say("suspend", (J.PENDING, J.QUEUED), (None,), J.SUSPENDED, None)
    say("suspend", alive, (*UP, A.STOPPING), J.PREEMPTING, A.STOPPING)
    say("suspend", alive, (A.UNKNOWN,), J.PREEMPTING, A.UNKNOWN)
    say("resume", (J.SUSPENDED,), (None,), J.PENDING, None)
    say("resume", (J.PREEMPTING,), (A.STOPPING, A.UNKNOWN), J.PREEMPTING, "same")
    return found


ALLOWED = allowed()


def job_in(state: JobState, attempt: AttemptState | None) -> Job:
    """A job in any state, with a live attempt that is somewhere, or none."""
    base = builders.job("job-a", state=state, hold=HOLD if state in (J.PENDING, J.SUSPENDED, J.PREEMPTING) else None)
    if attempt is None:
        return base
    live = replace(builders.attempt("job-a", HELD, state=attempt), starting_at=None, running_at=None)
    return replace(base, attempts=(live,))


@pytest.mark.parametrize("name", list(EVENTS))
def test_every_event_in_every_state(name: str) -> None:
    for state in JobState:
        for attempt in (None, *LIVE):
            check(name, state, attempt)


def check(name: str, state: JobState, attempt: AttemptState | None) -> None:
    before = job_in(state, attempt)
    expected = ALLOWED.get((name, state, attempt))
    if expected is None:
        with pytest.raises(IllegalTransitionError) as refused:
            step(before, EVENTS[name])
        assert refused.value.facts["state"] == state.value
        return
    after = step(before, EVENTS[name]).job
    live = after.live_attempt
    assert (after.state, None if live is None else live.state) == expected
    assert after.seq == before.seq + 1
    moved = after.state is not before.state
    assert after.state_since == (AT if moved else before.state_since)


def test_the_table_names_no_case_that_is_not_written_out_here_and_misses_none() -> None:
    types = {name: type(event) for name, event in EVENTS.items()}
    cases = {(rule.event, job, attempt) for rule in RULES for job in rule.jobs for attempt in rule.attempts}
    assert cases - {(Submitted, None, None)} == {(types[name], job, attempt) for name, job, attempt in ALLOWED}
    assert (Submitted, None, None) in cases


def test_every_result_is_one_that_its_rule_allows() -> None:
    for (name, state, attempt), (to, attempt_to) in ALLOWED.items():
        rule = rule_for(type(EVENTS[name]), state, attempt)
        assert rule is not None
        assert to in rule.to
        assert attempt_to in rule.attempt_to


@pytest.mark.parametrize("name", [name for name in EVENTS if name != "submitted"])
def test_nothing_but_a_submission_makes_a_job(name: str) -> None:
    with pytest.raises(IllegalTransitionError, match="does not exist"):
        step(None, EVENTS[name])


ABOUT_AN_ATTEMPT = ("starting", "running", "checkpointed", "unknown", "found", "completed", "preempt", "timeout")


@pytest.mark.parametrize("name", ABOUT_AN_ATTEMPT)
def test_what_names_another_attempt_than_the_live_one_is_refused(name: str) -> None:
    for (event, state, attempt), _ in ALLOWED.items():
        if event == name:
            with pytest.raises(IllegalTransitionError):
                step(job_in(state, attempt), replace(EVENTS[name], attempt_id=AttemptId("job-a.2")))  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("began", "runs", "stop", "state"),
    [
        (None, None, None, A.DESIRED),
        (3, None, None, A.STARTING),
        (3, 4, None, A.RUNNING),
        (None, 4, None, A.RUNNING),
        (3, 4, Stop(EndReason.TIMED_OUT, 9), A.STOPPING),
        (None, None, Stop(EndReason.PREEMPTED, 9), A.STOPPING),
    ],
)
def test_found_again_an_attempt_is_where_its_times_say(
    began: int | None, runs: int | None, stop: Stop | None, state: AttemptState
) -> None:
    base = job_in(J.RUNNING, A.UNKNOWN)
    silent = replace(base.attempts[0], starting_at=began, running_at=runs, stop=stop)
    (found,) = step(replace(base, attempts=(silent,)), AttemptFound(AT, FIRST)).job.attempts
    assert found == replace(silent, state=state)
