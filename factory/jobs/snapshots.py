"""The scheduler's view, built from the rows of one transaction: simple and always right, O(open jobs + nodes).

A server that keeps an evolving snapshot from the change feed gives that to `JobService` instead.
"""

from __future__ import annotations

from factory.domain.tenancy import PLATFORM
from factory.jobs.ports import SubmissionReader
from factory.scheduling.snapshot import Rows, Snapshot

__all__ = ["BuiltSnapshots"]


class BuiltSnapshots:
    """Adapter of `jobs.ports.Snapshots`."""

    def at(self, reader: SubmissionReader) -> Snapshot:
        return Snapshot.build(
            Rows(
                pools=reader.pools(PLATFORM),
                nodes=reader.nodes(PLATFORM),
                queues=reader.queues(PLATFORM),
                jobs=reader.open_jobs(PLATFORM),
                runners=reader.runners(PLATFORM),
            )
        )
