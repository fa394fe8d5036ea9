"""`shortest`: what needs the least service goes first (shortest remaining service first, SRSF).

Rules (docs/adr/0010)
    S1  The key is the service that is left, in slots x seconds: expected run time x slots. What is not known counts as
        the service had so far, at least an hour of its slots (rule S3 of least attained service: it has shown that).
    S2  A waiting job preempts one that has more than twice its service left, so that near equals do not take turns.

Source: Tiresias (Gu et al., NSDI'19), section 2 for SRSF; Graham's shortest processing time.
"""

from __future__ import annotations

from factory.domain.jobs import Job
from factory.domain.time import SECOND, Instant
from factory.scheduling.policies.order import Key, service_milli_s

__all__ = ["Shortest"]

_UNKNOWN_S = 3600


class Shortest:
    """See the module."""

    name = "shortest"
    shares = True
    reclaims = True
    keeps_room = True
    keeps_for_oldest = False
    is_by_length = True
    is_timed = False

    def waiting(self, job: Job, remaining_ms: int | None) -> Key:
        """Rule S1: (slots x seconds left, time of submission)."""
        return _left(job, remaining_ms, None), job.submitted_at

    def running(self, job: Job, remaining_ms: int | None, now: Instant) -> Key:
        """Return the key by what is left now."""
        return _left(job, remaining_ms, now), job.submitted_at

    def yields(self, waiting: Key, running: Key) -> bool:
        """Rule S2."""
        return waiting[0] * 2 < running[0]

    def changes_at(self, job: Job, now: Instant) -> Instant | None:
        """Never: what runs only gets better."""
        return None


def _left(job: Job, remaining_ms: int | None, now: Instant | None) -> int:
    slots = _slots(job)
    if remaining_ms is None:
        return max(service_milli_s(job, now), slots * _UNKNOWN_S)
    return remaining_ms * slots // SECOND


def _slots(job: Job) -> int:
    """Return what the job holds or last held; before that, what its GPUs, or else its CPUs, come to."""
    if job.attempts:
        return job.attempts[-1].allocation.slots_milli
    asked = job.spec.resources
    return (asked.gpu_milli or asked.cpu_milli or 1) * job.spec.replicas
