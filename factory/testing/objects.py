"""The object store in memory, for tests that need no files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from factory.errors import InvalidRequestError, NotFoundError, PayloadTooLargeError
from factory.objects.files import check_key
from factory.objects.ports import ObjectInfo

__all__ = ["MemoryObjectStore"]


class MemoryObjectStore:
    """Adapter of `ObjectStore` that keeps bytes in a dictionary."""

    def __init__(self) -> None:
        self._bytes: dict[str, bytes] = {}

    def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> ObjectInfo:
        check_key(key)
        body = bytearray()
        for chunk in chunks:
            body += chunk
            if limit_bytes is not None and len(body) > limit_bytes:
                raise PayloadTooLargeError(f"the body is over the limit of {limit_bytes} bytes")
        clash = any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in self._bytes)
        if clash:
            raise InvalidRequestError(f"'{key}' cannot be a key: another key is a part of it, or it of another")
        self._bytes[key] = bytes(body)
        return _info(key, self._bytes[key])

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        if offset < 0 or (length is not None and length < 0):
            raise InvalidRequestError(f"offset {offset} and length {length} name no range")
        body = self._bytes.get(check_key(key))
        if body is None:
            raise NotFoundError("object", key)
        part = body[offset:] if length is None else body[offset : offset + length]
        return iter((part,) if part else ())

    def info(self, key: str) -> ObjectInfo | None:
        body = self._bytes.get(check_key(key))
        return None if body is None else _info(key, body)

    def list(self, prefix: str) -> tuple[ObjectInfo, ...]:
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        return tuple(_info(key, self._bytes[key]) for key in sorted(self._bytes) if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self._bytes.pop(check_key(key), None)

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None


def _info(key: str, body: bytes) -> ObjectInfo:
    return ObjectInfo(key, len(body), hashlib.sha256(body).hexdigest())
