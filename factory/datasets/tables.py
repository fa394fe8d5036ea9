"""Table folders on this machine: `<root>/<tenant>/<dataset>/`. Bytes are passed on; nothing is parsed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from factory.domain.ids import DatasetName, TenantId, is_name
from factory.errors import InvalidRequestError, NotFoundError

__all__ = ["LocalTables", "is_safe_path"]

_CHUNK = 1 << 20  # bytes read at a time


def is_safe_path(path: str) -> bool:
    """True if `path` stays below the folder that it is relative to.

    >>> is_safe_path("dsv-a-00000.parquet"), is_safe_path("../x"), is_safe_path("/x"), is_safe_path("a//b")
    (True, False, False, False)
    """
    parts = path.split("/")
    return all(part not in ("", ".", "..") for part in parts) and "\\" not in path and "\0" not in path


class LocalTables:
    """Adapter of `datasets.ports.TableFiles`."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def location(self, tenant: TenantId, dataset: DatasetName) -> str:
        return self._folder(tenant, dataset).as_uri()

    def read(self, tenant: TenantId, dataset: DatasetName, path: str) -> Iterator[bytes]:
        if not is_safe_path(path):
            raise InvalidRequestError(f"'{path}' is no path of a file of a dataset")
        file = self._folder(tenant, dataset) / path
        # the folder is written by jobs: a link in it must not lead out of it
        if not file.is_file() or not file.resolve().is_relative_to(self._folder(tenant, dataset)):
            raise NotFoundError("file", path)
        return _chunks(file)

    def _folder(self, tenant: TenantId, dataset: DatasetName) -> Path:
        if not is_name(tenant) or not is_name(dataset):
            raise InvalidRequestError(f"'{tenant}/{dataset}' names no dataset")
        return self._root / tenant / dataset


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield chunk
