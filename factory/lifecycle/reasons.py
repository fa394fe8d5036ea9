"""Whose fault an end is, and whether another try may help (DESIGN §2, "why it ended").

One table over the closed enum `EndReason`; API answers, retry policy and metrics read the same rows.
"""

from __future__ import annotations

from factory.domain.jobs import EndReason, FaultDomain, Outcome

__all__ = ["fault_domain", "fault_of", "is_retryable"]

_FAULT: dict[EndReason, FaultDomain] = {
    EndReason.COMPLETED: FaultDomain.NONE,
    EndReason.USER_ERROR: FaultDomain.USER,
    EndReason.OUT_OF_MEMORY: FaultDomain.INFRASTRUCTURE,
    EndReason.WORKER_LOST: FaultDomain.INFRASTRUCTURE,
    EndReason.NODE_LOST: FaultDomain.INFRASTRUCTURE,
    EndReason.START_TIMEOUT: FaultDomain.INFRASTRUCTURE,
    EndReason.TIMED_OUT: FaultDomain.POLICY,
    EndReason.PREEMPTED: FaultDomain.POLICY,
    EndReason.CANCELLED: FaultDomain.USER,
    EndReason.ENVIRONMENT_FAILED: FaultDomain.PLATFORM,
    EndReason.FACTORY_STOPPED: FaultDomain.PLATFORM,
}

_FINAL = frozenset({EndReason.COMPLETED, EndReason.USER_ERROR, EndReason.TIMED_OUT, EndReason.CANCELLED})


def fault_domain(reason: EndReason) -> FaultDomain:
    """Return whose fault an end of this reason is, unless the outcome itself says otherwise (`fault_of`).

    >>> fault_domain(EndReason.WORKER_LOST).value
    'infrastructure'
    """
    return _FAULT[reason]


def fault_of(outcome: Outcome) -> FaultDomain:
    """Return whose fault this end is: what the outcome says, else what its reason says."""
    return fault_domain(outcome.reason) if outcome.fault is None else outcome.fault


def is_retryable(reason: EndReason) -> bool:
    """True if the same job may well end otherwise on another try.

    >>> is_retryable(EndReason.USER_ERROR), is_retryable(EndReason.NODE_LOST)
    (False, True)
    """
    return reason not in _FINAL
