"""Rule 2 at the store's door: a job's events are numbered 1..n without a gap, and lead to its row."""

from __future__ import annotations

from collections.abc import Sequence

from factory.domain.events import Recorded
from factory.domain.jobs import Job

__all__ = ["check_events"]


def check_events(job: Job, events: Sequence[Recorded], *, after: int) -> None:
    """Do the events continue the history from `after` to the job's `seq`?

    Raises: ValueError: they do not; an error of the caller, which no retry can mend.
    """
    expected = after
    for recorded in events:
        expected += 1
        if recorded.seq != expected or recorded.job_id != job.id:
            break
    else:
        if expected == job.seq:
            return
    raise ValueError(
        f"job {job.id} at seq {job.seq} needs its events {after + 1}..{job.seq}, "
        f"got {[(e.job_id, e.seq) for e in events]}"
    )
