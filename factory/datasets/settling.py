"""What becomes of the versions of a job that ended (ADR 7).

A staged version is failed: nobody judged it, so no worker published it. A validated one is never dropped: its gate
passed, its files are written, and the worker's Delta commit may be there already. A publish job brings it to its end.

`settle` runs in the transaction that ends the job (jobs: cancel, fence; control: reports): no crash comes between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, cast

from factory.datasets.ports import DatasetTx, JobLookup, JobSubmitter
from factory.domain.datasets import DatasetVersion, VersionState
from factory.domain.ids import DatasetName, TenantId
from factory.domain.jobs import IngestEntry, Job, JobState
from factory.domain.tenancy import PLATFORM, Scope
from factory.domain.time import Instant

__all__ = ["SettlingTx", "settle", "take_up"]


class SettlingTx(DatasetTx, JobLookup, Protocol):
    """Versions, and the jobs that write and publish them."""


def settle(tx: object, job: Job, now: Instant, *, jobs: JobSubmitter) -> None:
    """See to every version that `job`, which has ended, did not bring to its end.

    Args:
        tx: the transaction that ends the job; the same object satisfies `SettlingTx` (bootstrap).
        jobs: submits the job that publishes what is validated.
    """
    opened = cast("SettlingTx", tx)
    for version in opened.versions_of_job(PLATFORM, job.id):
        match version.state:
            case VersionState.STAGED:  # rule U2
                opened.put_version(replace(version, state=VersionState.FAILED, message=_why(job)))
            case VersionState.VALIDATED if version.publisher is None:  # rule U3
                _hand_over(opened, version, job, now, jobs)
            case _:
                pass
    entry = job.spec.entry
    version = opened.version(PLATFORM, entry.version_id) if isinstance(entry, IngestEntry) else None
    if version is not None and version.publisher == job.id and version.state is VersionState.VALIDATED:  # rule U4
        message = f"{_why(job)}; it passed its gate and is published when the dataset is next registered or written"
        opened.put_version(replace(version, message=message))


def take_up(tx: SettlingTx, tenant: TenantId, name: DatasetName, now: Instant, *, jobs: JobSubmitter) -> None:
    """Submit publish jobs anew for versions of the dataset that a publish job gave up (rule U4)."""
    for version in tx.versions(Scope(tenant), tenant, name):
        if version.state is not VersionState.VALIDATED or version.publisher is None:
            continue
        last = tx.job(PLATFORM, version.publisher)
        if last is not None and last.is_terminal:
            _hand_over(tx, version, last, now, jobs)


def _hand_over(tx: SettlingTx, version: DatasetVersion, ended: Job, now: Instant, jobs: JobSubmitter) -> None:
    publisher = jobs.submit_publish(tx, ended, version, now)
    message = f"{_why(ended)}; job {publisher.id} publishes it"
    tx.put_version(replace(version, publisher=publisher.id, message=message))


def _why(job: Job) -> str:
    if job.state is JobState.SUCCEEDED:
        return f"job {job.id} ended without publishing it"
    if job.outcome is None:
        return f"job {job.id} {job.state.value}"
    message = f": {job.outcome.message}" if job.outcome.message else ""
    return f"job {job.id} {job.state.value}: {job.outcome.reason.value}{message}"
