"""The user's code on the node: fetched by digest, checked, unpacked into the attempt's own folder.

The zip is cached per node and checked against its digest at every use; the unpacked copy belongs to one attempt, so
that no job can change what another one runs. Hostile archives are refused (notes/reliability.md §5).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from factory.errors import InvalidRequestError
from factory.worker.attempt import AttemptApi
from factory.worker.folders import NodeFolder

__all__ = ["fetch_code", "unpack"]

_LONGEST_NAME = 255  # bytes of one name on the usual file systems
# What a broken or strange archive makes zipfile raise: the caller's fault. Other OSErrors are the node's (disk full).
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression method that is not built in
    RuntimeError,  # encrypted
    FileExistsError,
    NotADirectoryError,
)

_MAX_ENTRIES = 10_000
_MAX_RATIO = 100
_MAX_BYTES = 1 << 30  # unpacked


def fetch_code(api: AttemptApi, node: NodeFolder, digest: str) -> Path:
    """Return the path of the code's bytes on this node, checked.

    Raises: InvalidRequestError: what the control plane sent is not what the digest says. Others: as `Http.call`.
    """
    algorithm, _, expected = digest.partition(":")
    if algorithm != "sha256" or len(expected) != 64 or not all(c in "0123456789abcdef" for c in expected):
        raise InvalidRequestError(f"'{digest}' is no sha256 digest")
    cached = node.cache / expected
    if cached.is_file() and _sha256(cached) == expected:
        return cached
    partial = node.cache / f".{expected}.{secrets.token_hex(4)}"
    try:
        api.code(digest, partial)
        if _sha256(partial) != expected:
            raise InvalidRequestError(f"the code that was sent is not {digest}")
        os.replace(partial, cached)
    finally:
        partial.unlink(missing_ok=True)
    return cached


def unpack(archive: Path, target: Path) -> None:
    """Unpack a bundle.

    Raises: InvalidRequestError: no zip, or one with absolute paths, "..", links, devices, doubles or a bomb in it.
    """
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = bundle.infolist()
            _check(entries, archive.stat().st_size)
            left = _MAX_BYTES
            for entry in entries:
                path = target / entry.filename
                if entry.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(entry) as source, path.open("xb") as file:
                    while chunk := source.read(1 << 20):
                        left -= len(chunk)
                        if left < 0:
                            raise InvalidRequestError(f"the bundle is over {_MAX_BYTES >> 20} MiB unpacked")
                        file.write(chunk)
                if entry.external_attr >> 16 & 0o111:
                    path.chmod(0o755)
    except _BROKEN as exc:
        raise InvalidRequestError(f"the bundle is no zip that can be unpacked: {exc}") from exc


def _check(entries: list[zipfile.ZipInfo], packed: int) -> None:
    if len(entries) > _MAX_ENTRIES:
        raise InvalidRequestError(f"the bundle has over {_MAX_ENTRIES:,} entries")
    if sum(e.file_size for e in entries) > max(_MAX_RATIO * packed, 1 << 20):
        raise InvalidRequestError("the bundle unpacks to over 100 times its size")
    seen: set[str] = set()
    for entry in entries:
        path = PurePosixPath(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or "\0" in entry.filename:
            raise InvalidRequestError(f"the bundle's entry '{entry.filename}' leaves its folder")
        if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
            raise InvalidRequestError(f"the bundle's entry '{entry.filename[:40]}…' has a name that is too long")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InvalidRequestError(f"the bundle's entry '{entry.filename}' is neither file nor folder")
        if str(path) in seen:
            raise InvalidRequestError(f"the bundle has '{entry.filename}' twice")
        seen.add(str(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
