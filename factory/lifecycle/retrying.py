"""The retry policy: what an ended attempt means for its job, as a value (decision, reason and numbers together).

Preemptions and orderly stops of the factory are no fault of the job: it goes back to the queue at once and nothing is
counted. Infrastructure ends are counted against `RetryPolicy.max_retries` and wait for a back-off that doubles from
`backoff_s` up to 60 s. Shape after Armada's retry engine: a decision, its reason and its mutation in one value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from factory.domain.jobs import EndReason, FaultDomain, Job, Outcome
from factory.domain.time import SECOND, Instant
from factory.lifecycle.reasons import fault_of, is_retryable

__all__ = ["BACKOFF_CAP_S", "RetryDecision", "RetryReason", "decide"]

BACKOFF_CAP_S = 60  # no counted retry waits longer


class RetryReason(StrEnum):
    """Why there is, or is not, another attempt."""

    COMPLETED = "completed"  # it succeeded: nothing to retry
    NOT_RETRYABLE = "not_retryable"  # another try would end the same way, or somebody wanted this end
    USER_FAULT = "user_fault"  # the user's code, bundle or inputs; RetryPolicy.user_errors is off
    EXHAUSTED = "exhausted"  # every counted retry is used
    RETRIED = "retried"  # another counted try
    NOT_COUNTED = "not_counted"  # the factory took the slots back: again, and free of charge


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Whether the job gets another attempt, whether that counts, and not before when (None = at once)."""

    reason: RetryReason
    retry: bool
    counted: bool = False
    not_before: Instant | None = None


def decide(job: Job, outcome: Outcome, at: Instant) -> RetryDecision:
    """Decide on a job whose attempt ended with `outcome` at `at`. Total; looks at `job.retries` and its policy only."""
    policy = job.spec.retry
    match outcome.reason:
        case EndReason.COMPLETED:
            return RetryDecision(RetryReason.COMPLETED, retry=False)
        case EndReason.PREEMPTED | EndReason.FACTORY_STOPPED:
            return RetryDecision(RetryReason.NOT_COUNTED, retry=True)
        case EndReason.TIMED_OUT | EndReason.CANCELLED:
            return RetryDecision(RetryReason.NOT_RETRYABLE, retry=False)
        case _:
            pass
    if not (is_retryable(outcome.reason) and fault_of(outcome) is not FaultDomain.USER) and not (
        policy.user_errors and outcome.reason is EndReason.USER_ERROR
    ):
        return RetryDecision(RetryReason.USER_FAULT, retry=False)
    if job.retries >= policy.max_retries:
        return RetryDecision(RetryReason.EXHAUSTED, retry=False)
    return RetryDecision(RetryReason.RETRIED, retry=True, counted=True, not_before=at + _backoff_ms(job))


def _backoff_ms(job: Job) -> int:
    # the shift is bounded first: retries is small, but a fold must never build a giant integer
    doubled = max(0, job.spec.retry.backoff_s) << min(job.retries, 16)
    return min(doubled, BACKOFF_CAP_S) * SECOND
