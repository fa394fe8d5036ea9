"""Why queued jobs wait, for many who ask: one plan serves all that ask within a second or two.

Each look at a waiting job wants its reason, and a reason comes from the plan that would be made now. At city size that
plan costs more than a look may, so the last one is kept for a short while and asked again.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from factory.domain.jobs import Job, JobState, Waiting
from factory.domain.time import SECOND, Instant
from factory.scheduling.explaining import explain, why_in
from factory.scheduling.planning import Planning, Policy
from factory.scheduling.quota import ENDLESS
from factory.scheduling.snapshot import Snapshot

__all__ = ["FRESH_MS", "Explanations", "planned"]

FRESH_MS = 2 * SECOND


def planned(snapshot: Snapshot, now: Instant, policy: Policy | None = None) -> Planning:
    """Return the plan that would be made now, with every job's turn in it."""
    planning = Planning(snapshot, replace(policy or Policy(), max_decisions=ENDLESS), now)
    planning.run()
    return planning


class Explanations:
    """Reasons of one factory's jobs; safe to ask from many threads."""

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or Policy()
        self._lock = threading.Lock()  # who asks while a plan is made waits for it: it is the answer
        self._planning: Planning | None = None

    def why(self, snapshot: Snapshot, job: Job, now: Instant) -> Waiting | None:
        """Return why the job waits; for a queued one as of at most `FRESH_MS` ago."""
        if job.state is not JobState.QUEUED or job.live_attempt is not None:
            return explain(snapshot, job.id, now, self._policy).waiting
        with self._lock:
            planning = self._planning
            if planning is None or not 0 <= now - planning.now < FRESH_MS or planning.snapshot.jobs.get(job.id) != job:
                planning = self._planning = planned(snapshot, now, self._policy)
        return why_in(planning, planning.snapshot.jobs[job.id], now)[0]
