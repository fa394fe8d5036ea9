"""Objects as files under one folder of one machine.

A key is its path below `<root>/data`; beside it `<root>/sums` holds the sha256 of each, under the same path. A put
writes to `<root>/tmp`, syncs, and moves the file to its place in one step: a reader sees the old bytes or the new ones,
and a crash leaves nothing but a file in `tmp`, which the next start removes. A sum names the very file that it is of
(inode, size, time), so that after a crash, or between two writers, no sum is taken for other bytes: it is made again.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from factory.errors import InvalidRequestError, NotFoundError, PayloadTooLargeError, UnavailableError
from factory.objects.ports import ObjectInfo

__all__ = ["FileObjectStore", "StorageFullError", "check_key"]

_CHUNK = 1 << 20  # bytes read at a time
_MAX_KEY = 512
_MAX_PART = 200  # of a file name, with room for a suffix


class StorageFullError(UnavailableError):
    """There is no room for the object: nothing was stored."""

    code = "storage_full"
    status = 507


def check_key(key: str) -> str:
    """Return `key` if it may name an object. Raises: InvalidRequestError.

    >>> check_key("logs/job-a.1/0/stdout/0000000000000000")
    'logs/job-a.1/0/stdout/0000000000000000'
    """
    parts = key.split("/")
    is_good = (
        0 < len(key) <= _MAX_KEY
        and all(part not in ("", ".", "..") and len(part.encode()) <= _MAX_PART for part in parts)
        and all(char.isprintable() and char != "\\" for char in key)
    )
    if not is_good:
        raise InvalidRequestError(
            f"{key[:100]!r} is no key of an object",
            hint="use a relative path without '..', e.g. uploads/mobility/upl-1",
        )
    return key


class FileObjectStore:
    """Adapter of `ObjectStore`; safe for several threads and processes on one machine."""

    def __init__(self, root: Path) -> None:
        """Open, or make, the store under `root`."""
        self._root = root.resolve()
        self._data, self._sums, self._tmp = (self._root / name for name in ("data", "sums", "tmp"))
        for folder in (self._data, self._sums, self._tmp):
            folder.mkdir(parents=True, exist_ok=True)
        self._numbers = itertools.count()
        self._sweep()

    def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> ObjectInfo:
        """Store all chunks under `key` at once or not at all.

        Raises: PayloadTooLargeError: over `limit_bytes`; StorageFullError; whatever `chunks` raises. Nothing is stored
        then.
        """
        check_key(key)
        # the name is ours alone: our process, our counter, our object
        temporary = self._tmp / f"{os.getpid()}-{id(self):x}-{next(self._numbers)}"
        digest = hashlib.sha256()
        size = 0
        try:
            with temporary.open("xb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    if limit_bytes is not None and size > limit_bytes:
                        raise PayloadTooLargeError(
                            f"the body is over the limit of {limit_bytes} bytes",
                            hint="send less, or raise the limit in the settings",
                            facts={"limit_bytes": limit_bytes},
                        )
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            self._write_sum(key, temporary.stat(), digest.hexdigest())
            _move(temporary, self._data / key, self._data)
        except BaseException as exc:
            temporary.unlink(missing_ok=True)
            if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError(
                    "the object store is full; nothing was stored", hint="ask an operator for room, then send it again"
                ) from exc
            raise
        return ObjectInfo(key, size, digest.hexdigest())

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a key, from `offset` on, at most `length`. Raises: NotFoundError, at once."""
        if offset < 0 or (length is not None and length < 0):
            raise InvalidRequestError(f"offset {offset} and length {length} name no range")
        path = self._data / check_key(key)
        try:
            file = path.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
            raise NotFoundError("object", key) from exc
        return _chunks(file, offset, length)

    def info(self, key: str) -> ObjectInfo | None:
        """Return what is stored under the key, None if nothing is."""
        path = self._data / check_key(key)
        if not path.is_file():
            return None
        try:
            stat = path.stat()
            return ObjectInfo(key, stat.st_size, self._read_sum(key, stat) or self._mend_sum(key))
        except FileNotFoundError:  # it was deleted under our hands
            return None

    def list(self, prefix: str) -> tuple[ObjectInfo, ...]:
        """Return the objects whose key begins with `prefix`, sorted by key."""
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        start = self._data / folder
        found: list[ObjectInfo] = []
        for parent, _, names in os.walk(start):
            for name in names:
                path = Path(parent) / name
                key = path.relative_to(self._data).as_posix()
                if key.startswith(prefix):
                    try:
                        stat = path.stat()
                    except FileNotFoundError:
                        continue
                    found.append(ObjectInfo(key, stat.st_size, self._read_sum(key, stat)))
        return tuple(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        """Remove a key; no error if it is not there. Folders that become empty stay: a put may be using them."""
        check_key(key)
        for root in (self._data, self._sums):
            try:
                (root / key).unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
                continue  # not there, or a folder of other keys

    def local_path(self, key: str) -> Path | None:
        """Return where the file of a key is, whether or not it is there."""
        return self._data / check_key(key)

    def _write_sum(self, key: str, stat: os.stat_result, sha256: str) -> None:
        temporary = self._tmp / f"{os.getpid()}-{id(self):x}-{next(self._numbers)}"
        # not synced: it can be made again from the bytes
        temporary.write_text(f"{_identity(stat)} {sha256}\n", encoding="ascii")
        place = self._sums / key
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(place)
        except (NotADirectoryError, FileExistsError, IsADirectoryError) as exc:
            temporary.unlink(missing_ok=True)
            raise _clash(key) from exc

    def _read_sum(self, key: str, stat: os.stat_result) -> str:
        """Return the sha256 that is noted for this very file, "" if there is none."""
        try:
            identity, _, sha256 = (self._sums / key).read_text(encoding="ascii").strip().partition(" ")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return ""
        return sha256 if identity == _identity(stat) and len(sha256) == 64 else ""

    def _mend_sum(self, key: str) -> str:
        with (self._data / key).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._write_sum(key, os.fstat(file.fileno()), sha256)
        return sha256

    def _sweep(self) -> None:
        """Remove what dead processes left in `tmp`."""
        for path in self._tmp.iterdir():
            pid = path.name.partition("-")[0]
            if pid.isdecimal() and int(pid) != os.getpid() and not _is_alive(int(pid)):
                path.unlink(missing_ok=True)


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"  # a rename keeps all three


def _move(temporary: Path, place: Path, root: Path) -> None:
    """Rename into place, and sync every folder whose list of names may have changed."""
    made = [folder for folder in place.parents if folder.is_relative_to(root) and not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(place)
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as exc:
        raise _clash(place.relative_to(root).as_posix()) from exc
    for folder in {place.parent, *(folder.parent for folder in made)}:
        _sync(folder)


def _clash(key: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{key}' cannot be a key: another key is a part of it, or it of another")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _chunks(file: BinaryIO, offset: int, length: int | None) -> Iterator[bytes]:
    with file:
        file.seek(offset)
        left = length
        while left is None or left > 0:
            chunk = file.read(_CHUNK if left is None else min(_CHUNK, left))
            if not chunk:
                return
            if left is not None:
                left -= len(chunk)
            yield chunk
