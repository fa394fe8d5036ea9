"""What a step asks the shell to do, as values; `jobs.applying` does it in the transaction that writes the row.

Only what the row cannot say by itself is an effect. Nobody is told to wake up: the change feed tells the loop, the
runners' long polls and waiting clients that the row changed. No token is revoked: each call of a worker is checked
against the row. No file is deleted: loops of their own find what nobody needs any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from factory.domain.ids import JobId

__all__ = ["Effect", "JobEnded"]


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job is final: what hangs on it ends too, or is handed to another job (`datasets.settling`)."""

    job_id: JobId


Effect: TypeAlias = JobEnded
