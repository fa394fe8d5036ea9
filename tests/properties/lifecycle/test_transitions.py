"""Any sequence of events: the table is obeyed, final is final, at most one attempt lives, folding gives the row."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

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
from factory.domain.jobs import AttemptState, EndReason, Job, JobState, Outcome, PriorityClass, Waiting, WaitReason
from factory.errors import IllegalTransitionError
from factory.lifecycle.effects import JobEnded
from factory.lifecycle.stepping import fold, next_attempt_id, record, why_stale
from factory.lifecycle.transitions import RULES, rule_for, table_as_markdown
from factory.testing import builders

HELD = builders.allocation(["n1"], pool=builders.pool())
SPEC = builders.spec("a")
HOLD = Waiting(WaitReason.DEPENDENCY_PENDING, "waits")
REASONS = st.sampled_from(list(EndReason))


@st.composite
def events_after_submit(draw: st.DrawFn, job: Job) -> Event:
    """Any event, mostly about the attempt that is last, sometimes about one that is not."""
    at = draw(st.integers(0, 10_000))
    last = job.attempts[-1].id if job.attempts else AttemptId(f"{job.id}.1")
    named = draw(st.sampled_from([last, last, last, AttemptId(f"{job.id}.1"), next_attempt_id(job)]))
    kind = draw(st.integers(0, 15))
    return (
        Held(at, HOLD),
        Queued(at),
        Admitted(at, draw(st.sampled_from([next_attempt_id(job), named])), RunnerId("r"), HELD, 1),
        AttemptStarting(at, named),
        AttemptRunning(at, named),
        AttemptUnknown(at, named),
        AttemptFound(at, named),
        AttemptEnded(at, named, Outcome(draw(REASONS)), "agent"),
        CancelRequested(at, "k"),
        PreemptRequested(at, named, JobId("job-b"), 1),
        StopRequested(at, named, Outcome(draw(st.sampled_from([EndReason.TIMED_OUT, EndReason.START_TIMEOUT])))),
        SuspendRequested(at, "k"),
        ResumeRequested(at, "k"),
        Submitted(at, job.id, job.tenant, "k", SPEC),
        Checkpointed(at, named),
        PriorityChanged(at, "k", draw(st.sampled_from(PriorityClass))),
    )[kind]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans())
def test_every_history_obeys_the_table_and_folds_to_its_row(data: st.DataObject, held: bool) -> None:
    job, first, _ = record(
        None, Submitted(0, JobId("job-a"), builders.tenant().id, "k", SPEC, hold=HOLD if held else None)
    )
    log = [first]
    acknowledged = False
    for _ in range(data.draw(st.integers(0, 25))):
        event = data.draw(events_after_submit(job))
        live = job.live_attempt
        rule = rule_for(type(event), job.state, live.state if live else None)
        try:
            after, entry, effects = record(job, event)
        except IllegalTransitionError:
            assert not job.is_terminal or after_final_nothing_moves(job, event)
            continue
        assert rule is not None
        assert not job.is_terminal  # rule 6
        assert why_stale(job, event) is None
        assert after.seq == job.seq + 1
        assert after.state in rule.to
        then = after.live_attempt
        assert (then.state if then else None) in rule.attempt_to
        assert [a.id for a in after.attempts] == [f"job-a.{n + 1}" for n in range(len(after.attempts))]
        assert all(a.state is AttemptState.ENDED and a.proof for a in after.attempts[:-1])  # rule 4
        if live is not None and then is None:
            assert isinstance(event, AttemptEnded)  # only proof frees slots
        assert effects == ((JobEnded(after.id),) if after.is_terminal else ())
        assert after.is_terminal == (after.outcome is not None)
        assert (after.hold is not None) or after.state not in (JobState.PENDING, JobState.SUSPENDED)
        acknowledged = acknowledged or isinstance(event, CancelRequested)
        if acknowledged:
            assert after.state in (JobState.CANCELLING, JobState.CANCELLED)
        log.append(entry)
        job = after
    assert fold(log) == job


def after_final_nothing_moves(job: Job, event: Event) -> bool:
    return all(rule_for(type(event), job.state, state) is None for state in (None, *AttemptState))


def test_the_table_has_one_rule_per_case_and_prints_whole() -> None:
    cases = [(r.event, j, a) for r in RULES for j in r.jobs for a in r.attempts]
    assert len(cases) == len(set(cases))
    assert table_as_markdown().count("\n") == len(RULES) + 2
