"""Jobs as text and back, each text decoded once: what makes a view that reads every change affordable.

A body that a store wrote or read lately is kept beside its value. The text itself is the key: whatever a transaction
did, rolled back or not, and whoever wrote the row, the same text is the same job.
"""

from __future__ import annotations

from factory.domain.ids import JobId
from factory.domain.jobs import Job
from factory.storage import codec

__all__ = ["JobBodies"]

_KEPT = 20_000  # jobs of one generation; two are kept


class JobBodies:
    """One per store, shared by its threads: each step is one operation on a dictionary."""

    def __init__(self) -> None:
        self._young: dict[JobId, tuple[str, Job]] = {}
        self._old: dict[JobId, tuple[str, Job]] = {}

    def dump(self, job: Job) -> str:
        """Return the job's text. Raises: TypeError: as `Codec.dump`."""
        body = codec.JOB.dump(job)
        self._keep(job.id, body, job)
        return body

    def load(self, id: JobId, body: str) -> Job:
        """Return the job of this text. Raises: ConfigurationError: as `Codec.load`."""
        kept = self._young.get(id) or self._old.get(id)
        if kept is not None and kept[0] == body:
            return kept[1]
        job = codec.JOB.load(body)
        self._keep(id, body, job)
        return job

    def _keep(self, id: JobId, body: str, job: Job) -> None:
        if len(self._young) >= _KEPT:
            self._old, self._young = self._young, {}
        self._young[id] = (body, job)
