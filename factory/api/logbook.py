"""Logs of attempts as chunks in the object store: `logs/<attempt>/<rank>/<stream>/<offset, 16 digits>`.

A runner appends; a chunk that does not start where the stored log ends changes nothing and is told the right offset, so
that a lost answer neither doubles nor drops a line. Beyond the attempt's quota bytes are dropped, with a mark.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from factory.objects.ports import ObjectStore

__all__ = ["STREAMS", "LogBook", "StreamId"]

STREAMS = ("stdout", "stderr")
_KNOWN = 4_000  # attempts whose chunk lists are kept in memory

StreamId = tuple[int, str]  # rank, stream


@dataclass(slots=True)
class _Attempt:
    """What is stored of one attempt. Chunks are (offset, stored bytes), in order."""

    chunks: dict[StreamId, list[tuple[int, int]]] = field(default_factory=dict)
    total: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self, stream: StreamId) -> int:
        chunks = self.chunks.get(stream)
        return chunks[-1][0] + chunks[-1][1] if chunks else 0


class LogBook:
    """All logs. Thread-safe; blocking.

    Args:
        quota_bytes: of one attempt, all ranks and streams together.
        is_only_writer: False where other control planes write too: what is known is then read again at each call.
    """

    def __init__(self, objects: ObjectStore, *, quota_bytes: int, is_only_writer: bool = True) -> None:
        self._objects = objects
        self._quota = quota_bytes
        self._only = is_only_writer
        self._attempts: OrderedDict[str, _Attempt] = OrderedDict()
        self._lock = threading.Lock()

    def append(self, attempt: str, stream: StreamId, offset: int, data: bytes) -> int:
        """Store a chunk if it starts where the stored log ends; return where the next one starts."""
        known = self._known(attempt)
        with known.lock:
            if known.total >= self._quota:
                return offset + len(data)  # the mark is there; let the runner go on
            end = known.end(stream)
            if offset != end or not data:
                return end
            left = self._quota - known.total
            kept = data if len(data) <= left else data[:left] + _mark(self._quota)
            self._objects.put(_key(attempt, stream, offset), [kept])
            known.chunks.setdefault(stream, []).append((offset, len(kept)))
            known.total += len(kept)
            return offset + len(data)

    def next_offset(self, attempt: str, stream: StreamId) -> int:
        """Return how many bytes of the stream are stored."""
        return self._known(attempt).end(stream)

    def streams(self, attempt: str) -> dict[StreamId, int]:
        """Return the length of each stream that has any bytes, by rank, stdout first."""
        known = self._known(attempt)
        return {s: known.end(s) for s in sorted(known.chunks, key=lambda s: (s[0], STREAMS.index(s[1])))}

    def read(self, attempt: str, stream: StreamId, start: int = 0) -> Iterator[bytes]:
        """Yield the stream's bytes from `start` on."""
        at = start
        for offset, size in list(self._known(attempt).chunks.get(stream, ())):
            if offset + size <= at:
                continue
            skip = max(0, at - offset)  # chunks of a repeated upload may overlap
            yield from self._objects.get(_key(attempt, stream, offset), offset=skip)
            at = offset + size

    def _known(self, attempt: str) -> _Attempt:
        with self._lock:
            found = self._attempts.get(attempt) if self._only else None
            if found is not None:
                self._attempts.move_to_end(attempt)
                return found
        loaded = self._load(attempt)
        with self._lock:
            kept = self._attempts.setdefault(attempt, loaded) if self._only else loaded
            while len(self._attempts) > _KNOWN:
                self._attempts.popitem(last=False)
            return kept

    def _load(self, attempt: str) -> _Attempt:
        found = _Attempt()
        for info in self._objects.list(f"logs/{attempt}/"):
            rank, stream, offset = info.key.split("/")[2:5]
            found.chunks.setdefault((int(rank), stream), []).append((int(offset), info.size_bytes))
            found.total += info.size_bytes
        return found


def _key(attempt: str, stream: StreamId, offset: int) -> str:
    return f"logs/{attempt}/{stream[0]}/{stream[1]}/{offset:016d}"


def _mark(quota: int) -> bytes:
    return f"\n[factory] the log is over its quota of {quota} bytes; what follows is not kept\n".encode()
