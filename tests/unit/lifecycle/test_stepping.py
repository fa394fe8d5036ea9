"""The life of one job, event by event."""

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
    Event,
    PreemptRequested,
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
    FaultDomain,
    Job,
    JobState,
    Outcome,
    RetryPolicy,
    Waiting,
    WaitReason,
)
from factory.errors import IllegalTransitionError
from factory.lifecycle.effects import JobEnded
from factory.lifecycle.stepping import Stale, fold, record, step, why_stale
from factory.testing import builders

HELD = builders.allocation(["n1"], pool=builders.pool())
FIRST = AttemptId("job-a.1")


def submitted(at: int = 1, **spec: object) -> Submitted:
    asked = builders.spec("a", **spec)  # pyright: ignore[reportArgumentType]
    return Submitted(at, JobId("job-a"), asked.queue, "key-1", asked)  # pyright: ignore[reportArgumentType]


def admitted(at: int = 2, ordinal: int = 1) -> Admitted:
    return Admitted(at, AttemptId(f"job-a.{ordinal}"), RunnerId("runner-1"), HELD, epoch=1)


def ended(reason: EndReason, at: int = 9, attempt: str = FIRST, **outcome: object) -> AttemptEnded:
    return AttemptEnded(at, AttemptId(attempt), Outcome(reason, **outcome), "agent")  # pyright: ignore[reportArgumentType]


def life(*events: Event, **spec: object) -> Job:
    return fold([submitted(**spec), *events])


def live(*events: Event, **spec: object) -> Job:
    return life(admitted(), AttemptStarting(3, FIRST), AttemptRunning(4, FIRST, "sha"), *events, **spec)


def attempt_of(job: Job) -> Attempt:
    return job.attempts[-1]


def test_a_job_goes_from_submit_to_success() -> None:
    job = live(ended(EndReason.COMPLETED, result_json="7"))
    assert job.state is JobState.SUCCEEDED
    assert job.outcome is not None
    assert job.outcome.result_json == "7"
    assert (attempt_of(job).state, attempt_of(job).proof, attempt_of(job).code_digest) == (
        AttemptState.ENDED,
        "agent",
        "sha",
    )
    assert job.seq == 5


def test_running_without_starting_is_made_up_for() -> None:
    job = life(admitted(), AttemptRunning(5, FIRST))
    assert job.state is JobState.RUNNING
    assert attempt_of(job).starting_at == 5


@pytest.mark.parametrize("before", [(), (SuspendRequested(2, "key-1"),)])
def test_cancel_without_a_live_attempt_is_final_at_once(before: tuple[Event, ...]) -> None:
    done = step(life(*before), CancelRequested(3, "key-1", "changed my mind"))
    assert done.job.state is JobState.CANCELLED
    assert done.job.outcome is not None
    assert "changed my mind" in done.job.outcome.message
    assert done.effects == (JobEnded(done.job.id),)


def test_cancel_of_a_live_job_waits_for_proof_of_death() -> None:
    done = step(live(), CancelRequested(5, "key-1"))
    assert done.job.state is JobState.CANCELLING
    assert attempt_of(done.job).state is AttemptState.STOPPING
    assert done.effects == ()


def test_an_acknowledged_cancel_holds_even_if_the_attempt_then_completes() -> None:
    job = live(CancelRequested(5, "key-1"), ended(EndReason.COMPLETED))
    assert job.state is JobState.CANCELLED
    assert job.outcome is not None
    assert "its attempt ended as Completed" in job.outcome.message


def test_cancel_of_an_unknown_attempt_keeps_it_unknown_and_found_again_it_stops() -> None:
    job = live(AttemptUnknown(5, FIRST), CancelRequested(6, "key-1"))
    assert (job.state, attempt_of(job).state) == (JobState.CANCELLING, AttemptState.UNKNOWN)
    found = step(job, AttemptFound(7, FIRST))
    assert (found.job.state, attempt_of(found.job).state) == (JobState.CANCELLING, AttemptState.STOPPING)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((), AttemptState.DESIRED),
        ((AttemptStarting(3, FIRST),), AttemptState.STARTING),
        ((AttemptRunning(3, FIRST),), AttemptState.RUNNING),
    ],
)
def test_an_attempt_found_again_is_where_it_was(events: tuple[Event, ...], state: AttemptState) -> None:
    job = life(admitted(), *events, AttemptUnknown(5, FIRST), AttemptFound(6, FIRST))
    assert attempt_of(job).state is state


def test_an_unknown_attempt_keeps_its_job_where_it_is() -> None:
    assert live(AttemptUnknown(5, FIRST)).state is JobState.RUNNING


@pytest.mark.parametrize("reason", [EndReason.PREEMPTED, EndReason.FACTORY_STOPPED])
def test_slots_taken_back_cost_no_retry(reason: EndReason) -> None:
    job = live(ended(reason))
    assert (job.state, job.retries, job.not_before) == (JobState.QUEUED, 0, None)


def test_lost_workers_are_retried_with_doubling_back_off_until_the_policy_ends() -> None:
    job = live(ended(EndReason.WORKER_LOST, at=10_000), retry=RetryPolicy(max_retries=2, backoff_s=1))
    assert (job.state, job.retries, job.not_before) == (JobState.QUEUED, 1, 11_000)
    job = fold_on(job, admitted(20_000, 2), ended(EndReason.OUT_OF_MEMORY, 30_000, "job-a.2"))
    assert (job.state, job.retries, job.not_before) == (JobState.QUEUED, 2, 32_000)
    job = fold_on(job, admitted(40_000, 3), ended(EndReason.NODE_LOST, 50_000, "job-a.3", message="gone"))
    assert job.state is JobState.FAILED
    assert job.outcome is not None
    assert job.outcome.message == "gone (after 2 retries)"


def test_back_off_is_capped_at_a_minute() -> None:
    job = replace(live(retry=RetryPolicy(max_retries=100, backoff_s=1)), retries=50)
    assert step(job, ended(EndReason.WORKER_LOST, at=0)).job.not_before == 60_000


def test_user_errors_fail_unless_the_policy_retries_them() -> None:
    assert live(ended(EndReason.USER_ERROR)).state is JobState.FAILED
    kind = RetryPolicy(user_errors=True)
    assert live(ended(EndReason.USER_ERROR), retry=kind).state is JobState.QUEUED


def test_a_broken_environment_is_retried_unless_it_is_the_users() -> None:
    assert live(ended(EndReason.ENVIRONMENT_FAILED)).state is JobState.QUEUED
    assert live(ended(EndReason.ENVIRONMENT_FAILED, fault=FaultDomain.USER)).state is JobState.FAILED


def test_a_time_out_is_final_and_explains_a_vanished_process() -> None:
    job = live(StopRequested(5, FIRST, Outcome(EndReason.TIMED_OUT)), ended(EndReason.WORKER_LOST))
    assert job.state is JobState.TIMED_OUT
    assert attempt_of(job).outcome == Outcome(EndReason.TIMED_OUT)


def test_work_that_completes_while_it_is_stopped_for_its_time_counts() -> None:
    job = live(StopRequested(5, FIRST, Outcome(EndReason.TIMED_OUT)), ended(EndReason.COMPLETED))
    assert job.state is JobState.SUCCEEDED


def test_a_start_that_takes_too_long_is_retried_and_counted() -> None:
    job = life(admitted(), StopRequested(5, FIRST, Outcome(EndReason.START_TIMEOUT)), ended(EndReason.WORKER_LOST))
    assert (job.state, job.retries) == (JobState.QUEUED, 1)


def test_preemption_holds_the_slots_until_proof_then_queues_again() -> None:
    job = live(PreemptRequested(5, FIRST, JobId("job-b"), 1))
    assert (job.state, attempt_of(job).state) == (JobState.PREEMPTING, AttemptState.STOPPING)
    assert fold_on(job, ended(EndReason.PREEMPTED)).state is JobState.QUEUED


def test_a_running_job_is_suspended_once_its_attempt_is_dead() -> None:
    job = live(SuspendRequested(5, "key-1"))
    assert job.state is JobState.PREEMPTING
    assert fold_on(job, ended(EndReason.PREEMPTED)).state is JobState.SUSPENDED
    assert fold_on(job, ResumeRequested(6, "key-1"), ended(EndReason.PREEMPTED)).state is JobState.QUEUED


def test_a_resumed_job_is_judged_again() -> None:
    job = life(SuspendRequested(2, "key-1"), ResumeRequested(3, "key-1"))
    assert job.state is JobState.PENDING
    assert job.hold is not None
    assert job.hold.reason is WaitReason.PENDING_EVALUATION


def test_a_held_job_is_pending_and_shows_why() -> None:
    hold = Waiting(WaitReason.DEPENDENCY_PENDING, "waits for job-b")
    job = step(None, replace(submitted(), hold=hold)).job
    assert (job.state, job.hold) == (JobState.PENDING, hold)


def test_the_next_attempt_must_bear_the_next_number() -> None:
    with pytest.raises(IllegalTransitionError):
        life(admitted(ordinal=2))


def test_no_second_attempt_while_the_first_is_not_proven_dead() -> None:
    for before in (live(), live(AttemptUnknown(5, FIRST)), live(CancelRequested(5, "k"))):
        with pytest.raises(IllegalTransitionError):
            step(before, admitted(10, 2))


def test_terminal_states_are_final() -> None:
    done = live(ended(EndReason.COMPLETED))
    for event in (CancelRequested(9, "k"), ended(EndReason.USER_ERROR), admitted(9, 2), AttemptRunning(9, FIRST)):
        with pytest.raises(IllegalTransitionError) as refused:
            step(done, event)
        assert refused.value.facts["state"] == "succeeded"


def test_late_and_doubled_reports_are_told_apart() -> None:
    job = live()
    assert why_stale(job, AttemptStarting(9, FIRST)) is Stale.ALREADY_KNOWN
    assert why_stale(job, AttemptRunning(9, AttemptId("job-a.7"))) is Stale.OTHER_ATTEMPT
    assert why_stale(live(CancelRequested(5, "k")), AttemptRunning(9, FIRST)) is Stale.STOPPING
    again = live(ended(EndReason.WORKER_LOST))
    assert why_stale(again, ended(EndReason.WORKER_LOST)) is Stale.ATTEMPT_ENDED
    assert why_stale(live(ended(EndReason.COMPLETED)), ended(EndReason.COMPLETED)) is Stale.JOB_ENDED
    assert why_stale(job, ended(EndReason.COMPLETED)) is None


def test_only_the_end_of_a_job_asks_the_shell_for_more_than_its_row() -> None:
    assert step(life(), admitted()).effects == ()
    assert step(live(), ended(EndReason.WORKER_LOST)).effects == ()  # it is tried again
    done = step(live(), ended(EndReason.COMPLETED))
    assert done.effects == (JobEnded(done.job.id),)


def test_a_gap_in_the_log_is_refused() -> None:
    job, first, _ = record(None, submitted())
    _, second, _ = record(job, admitted())
    assert fold([first, second]).seq == 2
    with pytest.raises(IllegalTransitionError, match="does not follow"):
        fold([first, Recorded(second.job_id, 3, second.event)])


def fold_on(job: Job, *events: Event) -> Job:
    for event in events:
        job = step(job, event).job
    return job
