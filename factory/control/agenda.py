"""What the loop has to look at next, so that a tick costs what changed and not what there is.

Kept from the changes of the view; lost with the process and built again from the snapshot. It only ever says where to
look: what is to be done is decided on the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from factory.control.deadlines import due_at
from factory.control.gates import awaited
from factory.domain.ids import JobId, RunnerId
from factory.domain.jobs import Job, JobState
from factory.domain.time import Instant
from factory.scheduling.snapshot import Snapshot

__all__ = ["Agenda"]


class Agenda:
    """What the loop has to look at next."""

    def __init__(self) -> None:
        self.live: set[JobId] = set()
        self.stirred: set[JobId] = set()  # pending jobs whose hold may have changed
        self.backed_off = False  # a back-off ended: plan again although nothing changed
        self.fleet_changed = True
        self.silent: list[RunnerId] = []
        self.pruned_at = 0
        self._due: list[tuple[Instant, JobId]] = []
        self._waiters: dict[str, set[JobId]] = {}  # job or version id -> pending jobs that wait for it

    @classmethod
    def of(cls, snapshot: Snapshot) -> Agenda:
        """Index a whole snapshot."""
        index = cls()
        for id, job in snapshot.jobs.items():
            index.put(id, None, job)
        heapify(index._due)
        return index

    def put(self, id: JobId, before: Job | None, after: Job | None) -> None:
        """A job changed; None = it is not open any more (or was not)."""
        if after is not None and after.live_attempt is not None:
            self.live.add(id)
        else:
            self.live.discard(id)
        if after is not None and after.state is JobState.PENDING:
            self.stirred.add(id)
            for key in awaited(after):
                self._waiters.setdefault(key, set()).add(id)
        elif before is not None and before.state is JobState.PENDING:
            self.stirred.discard(id)
            for key in awaited(before):
                waiters = self._waiters.get(key, set())
                waiters.discard(id)
                if not waiters:
                    self._waiters.pop(key, None)
        if after is None:
            self.stir(id)  # it ended: what follows it may go on
        elif (due := due_at(after)) is not None:
            heappush(self._due, (due, id))

    def stir(self, key: str) -> None:
        """The job or dataset version `key` changed: judge again who waits for it."""
        self.stirred |= self._waiters.get(key, set())

    def pop_due(self, snapshot: Snapshot, now: Instant) -> list[JobId]:
        """Take out the jobs whose time is over; a back-off that ended only asks for a plan."""
        overdue_ids: set[JobId] = set()
        while self._due and self._due[0][0] <= now:
            due, id = heappop(self._due)
            job = snapshot.jobs.get(id)
            if job is None or due_at(job) != due:
                continue  # it moved on; its present time has an entry of its own
            if job.state is JobState.QUEUED:
                self.backed_off = True
            else:
                overdue_ids.add(id)
        return sorted(overdue_ids)

    def push_due(self, snapshot: Snapshot, ids: Sequence[JobId]) -> None:
        """Put back what could not be written."""
        for id in ids:
            job = snapshot.jobs.get(id)
            if job is not None and (due := due_at(job)) is not None:
                heappush(self._due, (due, id))

    def next_due(self) -> Instant | None:
        """Return when time acts next."""
        return self._due[0][0] if self._due else None
