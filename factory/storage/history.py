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
    if [e.seq for e in events] != list(range(after + 1, job.seq + 1)) or any(e.job_id != job.id for e in events):
        raise ValueError(
            f"job {job.id} at seq {job.seq} needs its events {after + 1}..{job.seq}, "
            f"got {[(e.job_id, e.seq) for e in events]}"
        )
