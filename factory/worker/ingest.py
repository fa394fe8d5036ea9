"""The platform job that turns a staged upload into a dataset version."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.worker.attempt import AttemptApi, local_path
from factory.worker.outputs import write_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from factory.worker.data.columns import TableStream

__all__ = ["ingest"]


def ingest(api: AttemptApi, workdir: Path, *, threads: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Read the upload, write and measure its version, publish it or leave it quarantined.

    Repeats after a crash go on where the version's state says; the upload is read again only while that is `staged`. A
    version that another job left `validated` is published (ADR 7); it need not come from an upload.
    Raises: InvalidRequestError: the upload is no such table. Others: as `Http.call`.
    """
    from factory.worker.data.reading import open_upload

    @contextlib.contextmanager
    def rows() -> Iterator[TableStream]:
        upload = api.upload()
        if upload.location is not None:
            path = local_path(upload.location)
        else:
            path = workdir / "upload"
            api.upload_content(path)
        log(f"reading {upload.filename}: {upload.size_bytes:,} bytes, {upload.format}")
        with open_upload(path, upload.format, threads=threads) as stream:
            yield stream

    # the registry knows the upload's digest itself
    written = write_version(api, "", rows, source_digest=None, threads=threads, log=log)
    return {"version": f"{written.dataset}@{written.number}", "state": written.state.value}
