"""Write what an event makes of a job: the one path from `lifecycle.record` to the store."""

from __future__ import annotations

from factory.control.ports import ControlTx
from factory.domain.events import Event
from factory.domain.jobs import Job
from factory.domain.time import Instant
from factory.jobs.ports import EndedHook
from factory.lifecycle.effects import Effect
from factory.lifecycle.stepping import record

__all__ = ["apply_event"]


def apply_event(
    tx: ControlTx, job: Job, event: Event, now: Instant, on_ended: EndedHook | None = None
) -> tuple[Job, tuple[Effect, ...]]:
    """Step the job, store row and event guarded by its seq, and let what hangs on an ended job end too.

    Raises:
        IllegalTransitionError: the table does not allow it; nothing was written.
        StaleWriteError: the row changed since `job` was read.
    """
    after, recorded, effects = record(job, event)
    tx.update_job(after, (recorded,), expected_seq=job.seq)
    if after.is_terminal and on_ended is not None:
        on_ended(tx, after, now)
    return after, effects
