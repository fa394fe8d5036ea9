"""What becomes of the versions of a job that ended: none stays staged for ever.

Called in the transaction that ends the job (jobs: cancel, fence; control: reports), so that no crash comes between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from factory.datasets.ports import DatasetTx
from factory.domain.datasets import VersionState
from factory.domain.jobs import Job, JobState
from factory.domain.tenancy import PLATFORM
from factory.domain.time import Instant

__all__ = ["settle"]

_OPEN = (VersionState.STAGED, VersionState.VALIDATED)


def settle(tx: object, job: Job, now: Instant) -> None:
    """Fail every version of `job`, which has ended, that it did not bring to a verdict and its publication.

    Args:
        tx: the transaction that ends the job; the same object satisfies `DatasetTx` (bootstrap).
    """
    opened = cast("DatasetTx", tx)
    for version in opened.versions_of_job(PLATFORM, job.id):
        if version.state in _OPEN:
            opened.put_version(replace(version, state=VersionState.FAILED, message=_why(job)))


def _why(job: Job) -> str:
    if job.state is JobState.SUCCEEDED:
        return f"job {job.id} ended without publishing it"
    if job.outcome is None:
        return f"job {job.id} {job.state.value}"
    message = f": {job.outcome.message}" if job.outcome.message else ""
    return f"job {job.id} {job.state.value}: {job.outcome.reason.value}{message}"
