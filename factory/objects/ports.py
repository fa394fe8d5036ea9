"""The object store: bytes under keys. Written once, read by ranges; keys are '/'-separated, never absolute, no '..'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["ObjectInfo", "ObjectStore"]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is stored under a key."""

    key: str
    size_bytes: int
    sha256: str  # hex; computed while writing


class ObjectStore(Protocol):
    """Adapters: objects/files.py (one machine); S3 comes with the production issue."""

    def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> ObjectInfo:
        """Store all chunks under `key` at once or not at all (temporary file, fsync, atomic rename).

        Raises: PayloadTooLargeError: over `limit_bytes`; nothing is stored.
        """
        ...

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a key. Raises: NotFoundError."""
        ...

    def info(self, key: str) -> ObjectInfo | None:
        """Return what is stored under the key, None if nothing is."""
        ...

    def list(self, prefix: str) -> tuple[ObjectInfo, ...]:
        """Return the objects under a prefix, sorted by key (sha256 may be "" where it would need a read)."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key; no error if it is not there."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Return the file's path if this store is files on this machine, else None."""
        ...
