"""Is the attempt that makes this call the job's live one? Every effect of a worker is checked so, in its transaction.

Rule 4 needs it: an attempt that was proven dead, or that another one followed, must change nothing any more.
"""

from __future__ import annotations

from factory.domain.ids import AttemptId, JobId
from factory.domain.jobs import Attempt, Job
from factory.errors import UnauthenticatedError

__all__ = ["job_of", "require_live"]


def job_of(attempt_id: AttemptId) -> JobId:
    """Return the job that an attempt's id names ("<job id>.<ordinal>").

    >>> job_of(AttemptId("job-a.2"))
    'job-a'
    """
    return JobId(attempt_id.rpartition(".")[0])


def require_live(job: Job | None, attempt_id: AttemptId) -> tuple[Job, Attempt]:
    """Return the job and its live attempt if that is `attempt_id`.

    Raises: UnauthenticatedError: there is no such job, or another attempt or none is live.
    """
    live = None if job is None else job.live_attempt
    if job is None or live is None or live.id != attempt_id:
        raise UnauthenticatedError(
            "this attempt is over; its token is revoked",
            hint="nothing to do: a newer attempt goes on, or the job ended",
        )
    return job, live
