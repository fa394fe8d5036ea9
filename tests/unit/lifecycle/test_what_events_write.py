"""What each event writes into the job and its attempt, and what it leaves as it was."""

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
    Recorded,
    ResumeRequested,
    StopRequested,
    Submitted,
    SuspendRequested,
)
from factory.domain.ids import AttemptId, JobId, RunnerId
from factory.domain.jobs import (
    Attempt,
    AttemptState,
    EndReason,
    GroupKind,
    GroupRef,
    Job,
    JobState,
    Outcome,
    PriorityClass,
    RetryPolicy,
    Stop,
    Waiting,
    WaitReason,
)
from factory.errors import IllegalTransitionError
from factory.lifecycle.effects import JobEnded
from factory.lifecycle.stepping import Stale, fold, next_attempt_id, record, step, why_stale
from factory.testing import builders

J, A = JobState, AttemptState
FIRST, SECOND_TRY = AttemptId("job-a.1"), AttemptId("job-a.2")
HELD = builders.allocation(["n1", "n2"], pool=builders.pool())
HOLD = Waiting(WaitReason.DEPENDENCY_PENDING, "waits for job-b")
SPEC = builders.spec("a", replicas=2)
SUBMITTED = Submitted(10, JobId("job-a"), builders.tenant().id, "key-1", SPEC)
ADMITTED = Admitted(20, FIRST, RunnerId("runner-1"), HELD, epoch=1)
STARTING, RUNNING = AttemptStarting(30, FIRST), AttemptRunning(40, FIRST, "sha")


def life(*events: Event, spec: object = SPEC) -> Job:
    return fold([replace(SUBMITTED, spec=spec), *events])  # pyright: ignore[reportArgumentType]


def live(*events: Event, spec: object = SPEC) -> Job:
    return life(ADMITTED, STARTING, RUNNING, *events, spec=spec)


def ended(
    reason: EndReason, at: int = 90, id: AttemptId = FIRST, proof: str = "agent", **facts: object
) -> AttemptEnded:
    return AttemptEnded(at, id, Outcome(reason, **facts), proof)  # pyright: ignore[reportArgumentType]


def last(job: Job) -> Attempt:
    return job.attempts[-1]


# -- submitting, holding, queueing -------------------------------------------------------------------------------------


def test_a_submitted_job_is_as_it_was_asked_for() -> None:
    group = GroupRef(GroupKind.MAP, "map-1", 4)
    made = step(None, replace(SUBMITTED, group=group))
    assert made.effects == ()
    assert made.job == Job(JobId("job-a"), builders.tenant().id, SPEC, J.QUEUED, 10, "key-1", 1, 10, group=group)


def test_a_job_submitted_with_a_hold_is_pending_with_it() -> None:
    made = step(None, replace(SUBMITTED, hold=HOLD)).job
    assert (made.state, made.hold, made.state_since) == (J.PENDING, HOLD, 10)


def test_a_held_job_has_the_last_hold_it_was_given() -> None:
    other = Waiting(WaitReason.BUDGET_EXHAUSTED, "no money")
    row = life(Held(11, HOLD), Held(12, other))
    assert (row.state, row.hold, row.state_since, row.seq) == (J.PENDING, other, 11, 3)


def test_a_queued_job_is_held_by_nothing() -> None:
    row = life(Held(11, HOLD), Queued(15))
    assert (row.state, row.hold, row.state_since) == (J.QUEUED, None, 15)


def test_another_priority_changes_nothing_else() -> None:
    for before in (life(), life(Held(11, HOLD)), life(SuspendRequested(11, "key-1"))):
        done = step(before, PriorityChanged(30, "key-1", PriorityClass.LOW))
        assert done.job == replace(before, seq=before.seq + 1, spec=replace(SPEC, priority=PriorityClass.LOW))
        assert done.effects == ()


# -- an attempt's way up -----------------------------------------------------------------------------------------------


def test_an_admission_desires_a_new_attempt() -> None:
    row = step(replace(life(), not_before=15, hold=None), ADMITTED).job
    assert row.attempts == (Attempt(FIRST, 1, A.DESIRED, RunnerId("runner-1"), HELD, 20),)
    assert (row.state, row.state_since, row.not_before, row.hold) == (J.ADMITTED, 20, None, None)


def test_the_times_of_an_attempt_are_those_of_its_events() -> None:
    up = last(live())
    assert (up.admitted_at, up.starting_at, up.running_at, up.ended_at) == (20, 30, 40, None)
    assert (up.state, up.code_digest) == (A.RUNNING, "sha")
    assert live().state_since == 40


def test_running_keeps_the_time_of_its_start_and_the_code_that_is_known() -> None:
    base = life(ADMITTED, STARTING)
    known = replace(base, attempts=(replace(last(base), code_digest="known"),))
    assert last(step(known, AttemptRunning(44, FIRST)).job).code_digest == "known"
    assert last(step(known, AttemptRunning(44, FIRST, "new")).job).code_digest == "new"
    assert last(step(known, AttemptRunning(44, FIRST)).job).starting_at == 30
    assert last(life(ADMITTED, AttemptRunning(44, FIRST))).starting_at == 44


def test_the_next_attempt_has_the_next_number_and_leaves_the_others_alone() -> None:
    again = live(ended(EndReason.WORKER_LOST))
    assert next_attempt_id(again) == SECOND_TRY
    row = step(again, Admitted(99, SECOND_TRY, RunnerId("runner-2"), HELD, 2)).job
    assert [attempt.ordinal for attempt in row.attempts] == [1, 2]
    assert row.attempts[0] == again.attempts[0]
    assert (last(row).runner, last(row).state, last(row).admitted_at) == ("runner-2", A.DESIRED, 99)
    with pytest.raises(IllegalTransitionError):
        step(again, Admitted(99, FIRST, RunnerId("runner-2"), HELD, 2))


# -- checkpoints and silence -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_noted_and_moves_nothing() -> None:
    before = live()
    row = step(before, Checkpointed(60, FIRST)).job
    assert row == replace(before, seq=before.seq + 1, attempts=(replace(last(before), checkpointed_at=60),))
    assert last(step(row, Checkpointed(70, FIRST)).job).checkpointed_at == 70


def test_an_attempt_that_is_being_stopped_may_save_its_state() -> None:
    held = live(SuspendRequested(50, "key-1"))
    row = step(held, Checkpointed(60, FIRST)).job
    assert (row.state, row.hold) == (J.PREEMPTING, held.hold)
    assert last(row) == replace(last(held), checkpointed_at=60)


def test_a_silent_attempt_keeps_its_times_and_its_job() -> None:
    before = live()
    row = step(before, AttemptUnknown(60, FIRST)).job
    assert row == replace(before, seq=before.seq + 1, attempts=(replace(last(before), state=A.UNKNOWN),))
    assert step(row, AttemptFound(70, FIRST)).job == replace(before, seq=before.seq + 2)


def test_silence_lifts_no_hold() -> None:
    held = live(SuspendRequested(50, "key-1"))
    silent = step(held, AttemptUnknown(60, FIRST)).job
    found = step(silent, AttemptFound(70, FIRST)).job
    assert silent.hold == found.hold == held.hold
    assert last(found).state is A.STOPPING


# -- being stopped -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [EndReason.TIMED_OUT, EndReason.START_TIMEOUT, EndReason.FACTORY_STOPPED])
def test_a_stop_of_the_control_loop_is_a_wish(reason: EndReason) -> None:
    before = live()
    row = step(before, StopRequested(60, FIRST, Outcome(reason))).job
    stopped = replace(last(before), state=A.STOPPING, stop=Stop(reason, 60, "control"))
    assert row == replace(before, seq=before.seq + 1, attempts=(stopped,))


@pytest.mark.parametrize("reason", [EndReason.COMPLETED, EndReason.CANCELLED, EndReason.PREEMPTED, EndReason.NODE_LOST])
def test_the_control_loop_stops_for_no_other_reason(reason: EndReason) -> None:
    with pytest.raises(IllegalTransitionError):
        step(live(), StopRequested(60, FIRST, Outcome(reason)))


def test_an_attempt_is_stopped_once() -> None:
    silent = live(StopRequested(60, FIRST, Outcome(EndReason.TIMED_OUT)), AttemptUnknown(61, FIRST))
    for again in (StopRequested(62, FIRST, Outcome(EndReason.TIMED_OUT)), PreemptRequested(62, FIRST, JobId("b"), 1)):
        with pytest.raises(IllegalTransitionError):
            step(silent, again)


def test_a_preemption_names_the_preemptor() -> None:
    row = live(PreemptRequested(60, FIRST, JobId("job-b"), 1))
    assert (row.state, row.state_since, last(row).state) == (J.PREEMPTING, 60, A.STOPPING)
    assert last(row).stop == Stop(EndReason.PREEMPTED, 60, "job-b")
    assert row.hold is None


def test_a_suspension_stops_and_holds() -> None:
    row = live(SuspendRequested(60, "key-7"))
    assert row.hold is not None
    assert (row.hold.reason, row.hold.message) == (WaitReason.SUSPENDED, "suspended by key-7")
    assert last(row).stop == Stop(EndReason.PREEMPTED, 60, "key-7")


def test_a_suspension_leaves_an_earlier_wish_to_stop_as_it_is() -> None:
    row = live(StopRequested(55, FIRST, Outcome(EndReason.TIMED_OUT)), SuspendRequested(60, "key-7"))
    assert last(row).stop == Stop(EndReason.TIMED_OUT, 55, "control")


def test_without_an_attempt_a_suspension_holds_at_once() -> None:
    row = life(SuspendRequested(60, "key-7"))
    assert row.state is J.SUSPENDED
    assert row.hold is not None
    assert row.hold.message == "suspended by key-7"


def test_a_resumed_job_waits_to_be_judged() -> None:
    row = life(SuspendRequested(60, "key-7"), ResumeRequested(70, "key-8"))
    assert row.hold == Waiting(WaitReason.PENDING_EVALUATION, "resumed by key-8; not yet judged")
    assert (row.state, row.state_since) == (J.PENDING, 70)


def test_resuming_while_it_is_stopped_lifts_the_hold_and_no_more() -> None:
    held = live(SuspendRequested(60, "key-7"))
    assert step(held, ResumeRequested(61, "key-7")).job == replace(held, seq=held.seq + 1, hold=None)


def test_a_preempted_job_that_nobody_suspended_cannot_be_resumed() -> None:
    with pytest.raises(IllegalTransitionError):
        live(PreemptRequested(60, FIRST, JobId("job-b"), 1), ResumeRequested(61, "key-7"))


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_a_cancel_without_an_attempt_tells_who_and_why() -> None:
    row = life(CancelRequested(60, "key-1", "a mistake"))
    assert row.outcome == Outcome(EndReason.CANCELLED, "cancelled by key-1 while queued: a mistake")
    assert (row.state, row.ended_at, row.state_since, row.not_before) == (J.CANCELLED, 60, 60, None)
    held = life(Held(11, HOLD), CancelRequested(60, "key-1"))
    assert held.outcome == Outcome(EndReason.CANCELLED, "cancelled by key-1 while pending")
    assert held.hold is None


def test_a_cancel_takes_over_an_earlier_wish_to_stop_and_its_hold() -> None:
    row = live(SuspendRequested(55, "key-7"), CancelRequested(60, "key-1"))
    assert (row.state, row.hold) == (J.CANCELLING, None)
    assert last(row).stop == Stop(EndReason.CANCELLED, 60, "key-1")


def test_a_cancelled_job_says_how_its_attempt_ended_if_not_as_asked() -> None:
    row = live(CancelRequested(60, "key-1"), ended(EndReason.CANCELLED))
    assert row.outcome == Outcome(EndReason.CANCELLED, "cancelled by key-1")
    row = live(CancelRequested(60, "key-1"), ended(EndReason.USER_ERROR))
    assert row.outcome == Outcome(EndReason.CANCELLED, "cancelled by key-1; its attempt ended as UserError")
    row = live(CancelRequested(60, "key-1"), ended(EndReason.NODE_LOST))
    assert row.outcome == Outcome(EndReason.CANCELLED, "cancelled by key-1")  # it vanished as it was asked to
    row = live(CancelRequested(60, ""), ended(EndReason.CANCELLED))
    assert row.outcome == Outcome(EndReason.CANCELLED, "cancelled by a person")


def test_a_cancelled_jobs_attempt_keeps_its_own_outcome() -> None:
    row = live(CancelRequested(60, "key-1"), ended(EndReason.USER_ERROR, at=77, proof="report"))
    assert last(row).outcome == Outcome(EndReason.USER_ERROR)
    assert (last(row).ended_at, last(row).proof, last(row).state) == (77, "report", A.ENDED)
    assert (row.state, row.ended_at, row.retries) == (J.CANCELLED, 77, 0)


# -- ending ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (EndReason.COMPLETED, J.SUCCEEDED),
        (EndReason.TIMED_OUT, J.TIMED_OUT),
        (EndReason.CANCELLED, J.CANCELLED),
        (EndReason.USER_ERROR, J.FAILED),
    ],
)
def test_a_final_end_is_the_jobs_own(reason: EndReason, state: JobState) -> None:
    done = step(live(), ended(reason, at=77, message="so", exit_code=3))
    assert (done.job.state, done.job.ended_at, done.job.state_since) == (state, 77, 77)
    assert done.job.outcome == last(done.job).outcome == Outcome(reason, "so", exit_code=3)
    assert done.effects == (JobEnded(JobId("job-a")),)


def test_a_retried_end_counts_and_waits() -> None:
    row = live(ended(EndReason.NODE_LOST, at=77))
    assert (row.state, row.retries, row.not_before, row.state_since) == (J.QUEUED, 1, 77 + 1000, 77)
    assert (row.outcome, row.ended_at, row.hold) == (None, None, None)
    assert last(row).outcome == Outcome(EndReason.NODE_LOST)


def test_an_end_that_is_not_counted_leaves_the_count_alone() -> None:
    row = step(replace(live(), retries=2), ended(EndReason.PREEMPTED)).job
    assert (row.state, row.retries, row.not_before) == (J.QUEUED, 2, None)


def test_the_last_retry_is_told_with_the_error() -> None:
    spec = replace(SPEC, retry=RetryPolicy(max_retries=0))
    assert live(ended(EndReason.NODE_LOST, message="gone"), spec=spec).outcome == Outcome(EndReason.NODE_LOST, "gone")
    tried = replace(live(spec=replace(SPEC, retry=RetryPolicy(max_retries=2))), retries=2)
    done = step(tried, ended(EndReason.NODE_LOST)).job
    assert done.outcome == Outcome(EndReason.NODE_LOST, "(after 2 retries)")
    assert last(done).outcome == Outcome(EndReason.NODE_LOST)
    failed = step(tried, ended(EndReason.USER_ERROR, message="no")).job
    assert failed.outcome == Outcome(EndReason.USER_ERROR, "no")  # retries have nothing to do with it


@pytest.mark.parametrize("reason", [EndReason.WORKER_LOST, EndReason.NODE_LOST])
def test_what_vanished_while_it_was_stopped_was_stopped(reason: EndReason) -> None:
    row = live(PreemptRequested(60, FIRST, JobId("job-b"), 1), ended(reason, message="no word"))
    assert last(row).outcome == Outcome(EndReason.PREEMPTED, "no word")
    assert (row.state, row.retries) == (J.QUEUED, 0)


@pytest.mark.parametrize("reason", [EndReason.USER_ERROR, EndReason.OUT_OF_MEMORY, EndReason.COMPLETED])
def test_an_end_that_explains_itself_is_not_explained_by_the_stop(reason: EndReason) -> None:
    row = live(PreemptRequested(60, FIRST, JobId("job-b"), 1), ended(reason))
    assert last(row).outcome == Outcome(reason)


def test_a_suspended_job_that_ends_for_good_is_final() -> None:
    row = live(SuspendRequested(60, "key-7"), ended(EndReason.COMPLETED))
    assert (row.state, row.hold) == (J.SUCCEEDED, None)


def test_a_suspended_job_keeps_its_hold_when_its_attempt_is_dead() -> None:
    row = live(SuspendRequested(60, "key-7"), ended(EndReason.WORKER_LOST))
    assert (row.state, row.retries) == (J.SUSPENDED, 0)
    assert row.hold is not None
    assert row.hold.reason is WaitReason.SUSPENDED


def test_only_a_suspension_suspends() -> None:
    base = live(PreemptRequested(60, FIRST, JobId("job-b"), 1))
    assert step(replace(base, hold=HOLD), ended(EndReason.PREEMPTED)).job.state is J.QUEUED


# -- the log -----------------------------------------------------------------------------------------------------------


def test_recording_numbers_events_without_gaps() -> None:
    row, first, _ = record(None, SUBMITTED)
    row, second, effects = record(row, ADMITTED)
    assert (first, second) == (Recorded(row.id, 1, SUBMITTED), Recorded(row.id, 2, ADMITTED))
    assert effects == ()
    assert fold([first, second]) == row == fold([SUBMITTED, ADMITTED])
    assert record(live(), ended(EndReason.COMPLETED))[2] == (JobEnded(row.id),)


def test_a_log_of_another_job_or_with_a_gap_is_refused() -> None:
    first, second = Recorded(JobId("job-a"), 1, SUBMITTED), Recorded(JobId("job-a"), 2, ADMITTED)
    for wrong in (replace(second, seq=3), replace(second, job_id=JobId("job-b")), replace(second, seq=1)):
        with pytest.raises(
            IllegalTransitionError, match=r"event \d of job-. does not follow event 1 of job-a"
        ) as refused:
            fold([first, wrong])
        assert "restore it from a backup" in refused.value.hint
        assert refused.value.facts == {"job": "job-a", "seq": wrong.seq}
    with pytest.raises(IllegalTransitionError, match="no events"):
        fold([])


def test_what_is_refused_is_told_with_the_state_of_job_and_attempt() -> None:
    with pytest.raises(IllegalTransitionError) as refused:
        step(live(), Queued(50))
    assert refused.value.message == "Queued is not possible for job job-a: it is running, attempt job-a.1 running"
    assert refused.value.facts == {"event": "Queued", "job": "job-a", "state": "running"}
    with pytest.raises(IllegalTransitionError, match="it is queued, no live attempt"):
        step(life(), AttemptRunning(50, FIRST))
    with pytest.raises(IllegalTransitionError, match="Queued of a job that does not exist"):
        step(None, Queued(50))


@pytest.mark.parametrize(
    ("row", "event", "stale"),
    [
        (live(), STARTING, Stale.ALREADY_KNOWN),
        (live(), RUNNING, Stale.ALREADY_KNOWN),
        (live(), AttemptFound(50, FIRST), Stale.ALREADY_KNOWN),
        (live(), AttemptRunning(50, SECOND_TRY), Stale.OTHER_ATTEMPT),
        (life(), AttemptRunning(50, FIRST), Stale.OTHER_ATTEMPT),
        (live(CancelRequested(50, "k")), RUNNING, Stale.STOPPING),
        (live(CancelRequested(50, "k")), STARTING, Stale.STOPPING),
        (live(CancelRequested(50, "k"), AttemptUnknown(51, FIRST)), AttemptUnknown(52, FIRST), Stale.ALREADY_KNOWN),
        (live(ended(EndReason.NODE_LOST)), RUNNING, Stale.ATTEMPT_ENDED),
        (live(ended(EndReason.NODE_LOST)), ended(EndReason.NODE_LOST), Stale.ATTEMPT_ENDED),
        (live(ended(EndReason.COMPLETED)), ended(EndReason.COMPLETED), Stale.JOB_ENDED),
        (live(ended(EndReason.COMPLETED)), Checkpointed(99, FIRST), Stale.JOB_ENDED),
        (live(), ended(EndReason.COMPLETED), None),
        (live(), Checkpointed(50, FIRST), None),
        (life(ADMITTED), RUNNING, None),
        (live(), CancelRequested(50, "k"), None),
        (live(ended(EndReason.COMPLETED)), CancelRequested(50, "k"), None),
        (live(), Admitted(50, SECOND_TRY, RunnerId("r"), HELD, 1), None),
        (live(ended(EndReason.COMPLETED)), Queued(50), None),
    ],
)
def test_a_report_that_is_no_news_is_told_apart(row: Job, event: Event, stale: Stale | None) -> None:
    assert why_stale(row, event) is stale
