"""Where a dataset's bytes come from: a file, an open file, a pandas DataFrame or an Arrow table."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from factory import errors

__all__ = ["Source", "open_source"]

_FORMATS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes with a name."""

    filename: str
    format: str
    _open: Callable[[], contextlib.AbstractContextManager[BinaryIO]]  # from the first byte, each time
    is_repeatable: bool = True  # False: the bytes can be read only once

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes. Raises: InvalidRequestError: the file cannot be read."""
        with self._open() as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def digest(self) -> tuple[int, str] | None:
        """Return (size in bytes, sha256) by reading it once through; None if it could not be read again afterwards."""
        if not self.is_repeatable:
            return None
        size, digest = 0, hashlib.sha256()
        for chunk in self.chunks():
            size += len(chunk)
            digest.update(chunk)
        return size, digest.hexdigest()


def open_source(source: Any) -> Source:
    """Return what `source` is as bytes. Raises: InvalidRequestError: it is no data source, or cannot be read."""
    if isinstance(source, str | Path):
        return _of_path(Path(source))
    if hasattr(source, "to_parquet"):  # pandas
        buffer = io.BytesIO()
        source.to_parquet(buffer, index=False)
        return Source("frame.parquet", "parquet", _rewinding(buffer, 0))
    if hasattr(source, "schema") and hasattr(source, "to_batches"):  # Arrow table
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        buffer = io.BytesIO()
        pq.write_table(source, buffer)
        return Source("table.parquet", "parquet", _rewinding(buffer, 0))
    if hasattr(source, "read"):
        name = Path(str(getattr(source, "name", "upload.csv"))).name
        format = _FORMATS.get(Path(name).suffix.lower(), "csv")
        if getattr(source, "seekable", bool)():
            return Source(name, format, _rewinding(source, source.tell()))
        return Source(name, format, lambda: contextlib.nullcontext(source), is_repeatable=False)
    raise errors.InvalidRequestError(
        f"a {type(source).__name__} is no data source", hint="give a path, an open file, a DataFrame or an Arrow table"
    )


def _of_path(path: Path) -> Source:
    if path.suffix.lower() not in _FORMATS:
        raise errors.InvalidRequestError(
            f"the format of {path.name} is not known", hint=f"give format=…, one of {sorted(set(_FORMATS.values()))}"
        )

    def opened() -> BinaryIO:
        try:
            return path.open("rb")
        except OSError as exc:
            raise errors.InvalidRequestError(f"{path} cannot be read: {exc.strerror}") from exc

    with opened():  # what cannot be read is refused before anything is sent
        return Source(path.name, _FORMATS[path.suffix.lower()], opened)


def _rewinding(file: BinaryIO, start: int) -> Callable[[], contextlib.AbstractContextManager[BinaryIO]]:
    """Read an open file from where it stood when it was given. It stays open: it is the caller's."""

    def opened() -> contextlib.AbstractContextManager[BinaryIO]:
        file.seek(start)
        return contextlib.nullcontext(file)

    return opened
