"""Jobs as text and back, each text decoded once: what makes a view that reads every change affordable.

A body that a store wrote or read lately is kept beside its value. The text itself is the key: whatever a transaction
did, rolled back or not, and whoever wrote the row, the same text is the same job. What was asked for is the larger part
of a job and changes hardly ever: its text is kept too, and goes into the next body as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from factory.domain.events import Event, Submitted
from factory.domain.ids import JobId
from factory.domain.jobs import Job, JobSpec
from factory.storage import codec

__all__ = ["JobBodies"]

_KEPT = 20_000  # jobs of one generation; two are kept


class _Kept(NamedTuple):
    body: str
    job: Job
    spec: str | None  # the text of the job's spec, once it was needed


class JobBodies:
    """One per store, shared by its threads: each step is one operation on a dictionary."""

    def __init__(self) -> None:
        self._young: dict[JobId, _Kept] = {}
        self._old: dict[JobId, _Kept] = {}

    def dump(self, job: Job) -> str:
        """Return the job's text. Raises: TypeError: as `Codec.dump`."""
        spec = self._spec(job.id, job.spec)
        body = codec.JOB.dump(job, spec=spec)
        self._keep(_Kept(body, job, spec))
        return body

    def dump_event(self, job_id: JobId, event: Event) -> str:
        """Return the text of an event of the job. Raises: TypeError: as `Codec.dump`."""
        if isinstance(event, Submitted):
            return codec.EVENT.dump(event, spec=self._spec(job_id, event.spec))
        return codec.EVENT.dump(event)

    def load(self, id: JobId, body: str) -> Job:
        """Return the job of this text. Raises: ConfigurationError: as `Codec.load`."""
        kept = self._found(id)
        if kept is not None and kept.body == body:
            return kept.job
        job = codec.JOB.load(body)
        self._keep(_Kept(body, job, None))
        return job

    def _spec(self, id: JobId, spec: JobSpec) -> str:
        kept = self._found(id)
        if kept is not None and kept.spec is not None and kept.job.spec is spec:
            return kept.spec
        return codec.SPEC.dump(spec)

    def _found(self, id: JobId) -> _Kept | None:
        return self._young.get(id) or self._old.get(id)

    def _keep(self, kept: _Kept) -> None:
        if len(self._young) >= _KEPT:
            self._old, self._young = self._young, {}
        self._young[kept.job.id] = kept
