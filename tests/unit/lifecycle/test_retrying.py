"""Whether an ended attempt is followed by another one, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import AttemptId, JobId
from factory.domain.jobs import AttemptState, EndReason, FaultDomain, Job, Outcome, RetryPolicy
from factory.errors import UnauthenticatedError
from factory.lifecycle.effects import JobEnded
from factory.lifecycle.liveness import job_of, require_live
from factory.lifecycle.reasons import fault_domain, fault_of, is_retryable
from factory.lifecycle.retrying import BACKOFF_CAP_S, RetryDecision, RetryReason, decide
from factory.testing import builders

INFRASTRUCTURE = (EndReason.OUT_OF_MEMORY, EndReason.WORKER_LOST, EndReason.NODE_LOST, EndReason.START_TIMEOUT)


def asked(retries: int = 0, **policy: int | bool) -> Job:
    return builders.job("job-a", spec=builders.spec("a", retry=RetryPolicy(**policy)), retries=retries)  # pyright: ignore[reportArgumentType]


# -- whose fault (DESIGN §2) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        (FaultDomain.NONE, {EndReason.COMPLETED}),
        (FaultDomain.USER, {EndReason.USER_ERROR, EndReason.CANCELLED}),
        (FaultDomain.INFRASTRUCTURE, set(INFRASTRUCTURE)),
        (FaultDomain.POLICY, {EndReason.TIMED_OUT, EndReason.PREEMPTED}),
        (FaultDomain.PLATFORM, {EndReason.ENVIRONMENT_FAILED, EndReason.FACTORY_STOPPED}),
    ],
)
def test_every_reason_has_one_whose_fault_it_is(fault: FaultDomain, reasons: set[EndReason]) -> None:
    assert {reason for reason in EndReason if fault_domain(reason) is fault} == reasons


def test_an_outcome_that_says_whose_fault_it_is_is_believed() -> None:
    assert fault_of(Outcome(EndReason.ENVIRONMENT_FAILED)) is FaultDomain.PLATFORM
    assert fault_of(Outcome(EndReason.ENVIRONMENT_FAILED, fault=FaultDomain.USER)) is FaultDomain.USER


def test_what_would_end_the_same_way_again_is_not_retryable() -> None:
    final = {EndReason.COMPLETED, EndReason.USER_ERROR, EndReason.TIMED_OUT, EndReason.CANCELLED}
    assert {reason for reason in EndReason if not is_retryable(reason)} == final


# -- decisions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(EndReason))
def test_the_decision_on_every_reason(reason: EndReason) -> None:
    again = RetryDecision(RetryReason.RETRIED, retry=True, counted=True, not_before=5_000 + 1_000)
    free = RetryDecision(RetryReason.NOT_COUNTED, retry=True)
    expected = {
        EndReason.COMPLETED: RetryDecision(RetryReason.COMPLETED, retry=False),
        EndReason.TIMED_OUT: RetryDecision(RetryReason.NOT_RETRYABLE, retry=False),
        EndReason.CANCELLED: RetryDecision(RetryReason.NOT_RETRYABLE, retry=False),
        EndReason.PREEMPTED: free,
        EndReason.FACTORY_STOPPED: free,
        EndReason.USER_ERROR: RetryDecision(RetryReason.USER_FAULT, retry=False),
    }.get(reason, again)
    assert decide(asked(), Outcome(reason), 5_000) == expected


@pytest.mark.parametrize("reason", [EndReason.PREEMPTED, EndReason.FACTORY_STOPPED])
def test_slots_that_were_taken_back_cost_nothing_even_when_all_retries_are_used(reason: EndReason) -> None:
    assert decide(asked(retries=9, max_retries=0), Outcome(reason), 0) == RetryDecision(
        RetryReason.NOT_COUNTED, retry=True, counted=False, not_before=None
    )


@pytest.mark.parametrize("reason", INFRASTRUCTURE)
def test_infrastructure_ends_are_retried_as_often_as_the_policy_says(reason: EndReason) -> None:
    for retries in range(3):
        assert decide(asked(retries, max_retries=3), Outcome(reason), 0).reason is RetryReason.RETRIED
    assert decide(asked(3, max_retries=3), Outcome(reason), 0) == RetryDecision(RetryReason.EXHAUSTED, retry=False)
    assert decide(asked(4, max_retries=3), Outcome(reason), 0).reason is RetryReason.EXHAUSTED
    assert decide(asked(0, max_retries=0), Outcome(reason), 0).reason is RetryReason.EXHAUSTED


def test_user_errors_are_retried_only_if_asked_for_and_then_counted() -> None:
    error = Outcome(EndReason.USER_ERROR)
    assert decide(asked(), error, 0).reason is RetryReason.USER_FAULT
    assert decide(asked(user_errors=True), error, 0).counted
    assert decide(asked(3, user_errors=True), error, 0).reason is RetryReason.EXHAUSTED


def test_a_broken_bundle_is_the_users_whatever_is_said_of_user_errors() -> None:
    broken = Outcome(EndReason.ENVIRONMENT_FAILED, fault=FaultDomain.USER)
    assert decide(asked(), broken, 0).reason is RetryReason.USER_FAULT
    assert decide(asked(user_errors=True), broken, 0).reason is RetryReason.USER_FAULT
    assert decide(asked(), Outcome(EndReason.ENVIRONMENT_FAILED), 0).reason is RetryReason.RETRIED


@pytest.mark.parametrize(
    ("retries", "backoff_s", "waits_s"),
    [(0, 1, 1), (1, 1, 2), (2, 1, 4), (5, 1, 32), (6, 1, 60), (9, 1, 60), (0, 7, 7), (3, 7, 56), (4, 7, 60), (3, 0, 0)],
)
def test_the_back_off_doubles_up_to_a_minute(retries: int, backoff_s: int, waits_s: int) -> None:
    made = decide(asked(retries, max_retries=99, backoff_s=backoff_s), Outcome(EndReason.NODE_LOST), 1_000)
    assert made.not_before == 1_000 + waits_s * 1_000
    assert BACKOFF_CAP_S == 60


def test_a_back_off_stays_small_however_many_retries_there_were() -> None:
    made = decide(asked(10**9, max_retries=10**10), Outcome(EndReason.NODE_LOST), 0)
    assert made.not_before == 60_000


def test_less_than_no_back_off_is_none() -> None:
    assert decide(asked(backoff_s=-5), Outcome(EndReason.NODE_LOST), 7).not_before == 7


def test_a_back_off_of_a_tenth_of_the_cap_doubles_sixteen_times_at_most() -> None:
    assert decide(asked(16, max_retries=99), Outcome(EndReason.NODE_LOST), 0).not_before == 60_000


# -- is it the live attempt? -------------------------------------------------------------------------------------------


def test_an_attempt_names_its_job() -> None:
    assert job_of(AttemptId("job-a.12")) == "job-a"
    assert job_of(AttemptId("job.with.dots.1")) == "job.with.dots"


@pytest.mark.parametrize("state", [state for state in AttemptState if state is not AttemptState.ENDED])
def test_the_live_attempt_may_act(state: AttemptState) -> None:
    row = builders.running(builders.job("job-a"), builders.allocation(["n1"], pool=builders.pool()), state=state)
    assert require_live(row, AttemptId("job-a.1")) == (row, row.attempts[0])


def test_an_attempt_that_is_over_may_not() -> None:
    row = builders.running(builders.job("job-a"), builders.allocation(["n1"], pool=builders.pool()))
    over = replace(row, attempts=(replace(row.attempts[0], state=AttemptState.ENDED),))
    for job, id in ((over, "job-a.1"), (row, "job-a.2"), (None, "job-a.1"), (builders.job("job-a"), "job-a.1")):
        with pytest.raises(UnauthenticatedError, match="this attempt is over") as refused:
            require_live(job, AttemptId(id))
        assert "a newer attempt goes on" in refused.value.hint


def test_the_end_of_a_job_names_it() -> None:
    assert JobEnded(JobId("job-a")).job_id == "job-a"
