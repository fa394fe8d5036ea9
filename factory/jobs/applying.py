"""Write what an event makes of a job: the one path from `lifecycle.record` to the store, for people and the loop."""

from __future__ import annotations

from factory.domain.events import Event
from factory.domain.jobs import Job
from factory.domain.time import Instant
from factory.jobs.ports import EndedHook, JobTx
from factory.lifecycle.effects import JobEnded
from factory.lifecycle.stepping import record

__all__ = ["apply_event"]


def apply_event(tx: JobTx, job: Job, event: Event, now: Instant, on_ended: EndedHook | None = None) -> Job:
    """Step the job, store row and event guarded by its seq, and do what the step asks for, all in this transaction.

    Raises:
        IllegalTransitionError: the table does not allow it; nothing was written.
        StaleWriteError: the row changed since `job` was read.
    """
    after, recorded, effects = record(job, event)
    tx.update_job(after, (recorded,), expected_seq=job.seq)
    for effect in effects:
        match effect:
            case JobEnded():
                if on_ended is not None:
                    on_ended(tx, after, now)
    return after
