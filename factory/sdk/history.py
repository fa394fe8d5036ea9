"""What was asked of the factory in a period, from Python (platform role)."""

from __future__ import annotations

from collections.abc import Iterator

from factory.schemas.history import HistoryFleet, HistoryJob
from factory.sdk.transport import Transport

__all__ = ["History"]


class History:
    """`client.history`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def jobs(self, since: int, until: int) -> Iterator[HistoryJob]:
        """Yield the jobs that waited or ran between two instants (ms since the epoch), newest first."""
        yield from self._transport.pages(HistoryJob, "/history/jobs", since=since, until=until, limit=200)

    def fleet(self) -> HistoryFleet:
        """Pools, nodes and queues as they are now."""
        return self._transport.get(HistoryFleet, "/history/fleet")
