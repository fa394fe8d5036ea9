"""Datasets from Python: upload, register, check, download."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from factory import errors
from factory.domain.datasets import VersionState
from factory.schemas.datasets import DatasetView, LineageView, RegisterRequest, UploadView, VersionView
from factory.schemas.jobs import JobView
from factory.sdk.jobs import JobHandle
from factory.sdk.transport import Transport

__all__ = ["DatasetVersionHandle", "Datasets", "load_contract"]

_FORMATS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_CHUNK = 1 << 20
_SETTLED = frozenset({VersionState.PUBLISHED, VersionState.QUARANTINED, VersionState.FAILED, VersionState.DEPRECATED})


def load_contract(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return the contract in its short form from a YAML file or a mapping.

    Raises: InvalidRequestError: not a file, not YAML, not a mapping.
    """
    if isinstance(source, Mapping):
        return dict(source)
    import yaml

    try:
        loaded = yaml.safe_load(Path(source).read_text())
    except (OSError, yaml.YAMLError) as exc:
        raise errors.InvalidRequestError(f"the contract {source} cannot be read: {exc}") from exc
    if not isinstance(loaded, dict):
        raise errors.InvalidRequestError(f"the contract {source} is not a mapping", hint="see docs/contracts.md")
    return loaded


class DatasetVersionHandle:
    """One version. `view` is what the factory said last."""

    def __init__(self, transport: Transport, view: VersionView) -> None:
        self._transport = transport
        self.view = view

    def __repr__(self) -> str:
        return f"<DatasetVersion {self.ref} {self.view.state.value}>"

    @property
    def ref(self) -> str:
        """ "name@number"."""
        return f"{self.view.dataset}@{self.view.number}"

    @property
    def _path(self) -> str:
        return f"/datasets/{self.view.dataset}/versions/{self.view.number}"

    def refresh(self) -> VersionView:
        """Ask the factory and return the present view."""
        self.view = self._transport.get(VersionView, self._path)
        return self.view

    def job(self) -> JobHandle | None:
        """The job that ingests or produces it."""
        if self.view.job is None:
            return None
        return JobHandle(self._transport, self._transport.get(JobView, f"/jobs/{self.view.job}"))

    def wait(self, timeout_s: float | None = None) -> VersionView:
        """Block until it is published, quarantined or failed. Raises: TimeoutError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        handle = self.job()
        if handle is not None and self.view.state not in _SETTLED:
            handle.wait(timeout_s)
        while self.refresh().state not in _SETTLED:  # its job ended after the verdict: another one publishes it
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{self.ref} is {self.view.state.value} after {timeout_s:g} s: {self.view.message}")
            time.sleep(0.5)
        return self.view

    def lineage(self) -> LineageView:
        """What it came from and what came of it."""
        return self._transport.get(LineageView, f"{self._path}/lineage")

    def download(self, folder: str | Path, *, purpose: str = "analyse") -> list[Path]:
        """Write the version's Parquet files into a folder; return their paths. Each file's sha256 is checked.

        Raises: DatasetGateError: quarantined, and the purpose is not "repair".
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        written: list[Path] = []
        for entry in self.refresh().files:
            path = target / Path(entry.path).name
            digest = hashlib.sha256()
            with (
                self._transport.stream(
                    "GET", f"{self._path}/files/{entry.path}", params={"purpose": purpose}
                ) as answer,
                path.open("wb") as out,
            ):
                for chunk in answer.iter_bytes(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
            if digest.hexdigest() != entry.sha256:
                path.unlink()
                raise errors.UnavailableError(f"{entry.path} of {self.ref} arrived damaged", hint="try again")
            written.append(path)
        return written

    def to_pandas(self, *, purpose: str = "analyse") -> Any:
        """Return the version as a pandas DataFrame (needs pandas and pyarrow here)."""
        import tempfile

        import pandas as pd  # pyright: ignore[reportMissingImports]  # not a dependency of the SDK

        with tempfile.TemporaryDirectory() as folder:
            files = self.download(folder, purpose=purpose)
            return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)


class Datasets:
    """`client.datasets`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, source: str | Path | BinaryIO | Any, *, format: str | None = None) -> UploadView:
        """Stream a file, an open file, a pandas DataFrame or an Arrow table to staging."""
        name, found_format, chunks = _open(source)
        return UploadView.model_validate_json(
            self._transport.request(
                "POST",
                "/uploads",
                params={"filename": name, "format": format or found_format},
                content=chunks,
                headers={"Content-Type": "application/octet-stream"},
                timeout_s=3600,
            ).content
        )

    def register(
        self,
        name: str,
        source: str | Path | BinaryIO | Any,
        *,
        contract: str | Path | Mapping[str, Any] | None = None,
        format: str | None = None,
        queue: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> DatasetVersionHandle:
        """Make a version of dataset `name`; ingest and checks run as a job on a slot.

        The same bytes with the same contract give the version that is there. A failed gate is not an error here: look
        at `view.state` and `view.checks`.
        """
        body = RegisterRequest(
            upload=self.upload(source, format=format).id,
            contract=load_contract(contract) if contract is not None else {},
            queue=queue,
        )
        view = self._transport.send(VersionView, "POST", f"/datasets/{name}/versions", body, idempotent=True)
        handle = DatasetVersionHandle(self._transport, view)
        if wait:
            handle.wait(timeout_s)
        return handle

    def list(self) -> list[DatasetView]:
        """Every dataset of the tenant."""
        return list(self._transport.pages(DatasetView, "/datasets"))

    def get(self, name: str) -> DatasetView:
        """One dataset with its versions. Raises: NotFoundError."""
        return self._transport.get(DatasetView, f"/datasets/{name}")

    def version(self, name: str, number: int | None = None) -> DatasetVersionHandle:
        """One version; None = the latest published one. Raises: NotFoundError."""
        if number is None:
            number = self.get(name).head
            if number == 0:
                raise errors.NotFoundError("published version of dataset", name)
        view = self._transport.get(VersionView, f"/datasets/{name}/versions/{number}")
        return DatasetVersionHandle(self._transport, view)

    def deprecate(self, name: str, number: int) -> VersionView:
        """Withdraw a version: no new job may read it."""
        return self._transport.send(
            VersionView, "POST", f"/datasets/{name}/versions/{number}:deprecate", idempotent=True
        )


def _open(source: Any) -> tuple[str, str, Iterator[bytes]]:
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix.lower() not in _FORMATS:
            raise errors.InvalidRequestError(
                f"the format of {path.name} is not known",
                hint=f"give format=…, one of {sorted(set(_FORMATS.values()))}",
            )
        try:
            file = path.open("rb")
        except OSError as exc:
            raise errors.InvalidRequestError(f"{path} cannot be read: {exc.strerror}") from exc
        return path.name, _FORMATS[path.suffix.lower()], _read(file)
    if hasattr(source, "to_parquet"):  # pandas
        buffer = io.BytesIO()
        source.to_parquet(buffer, index=False)
        buffer.seek(0)
        return "frame.parquet", "parquet", _read(buffer)
    if hasattr(source, "schema") and hasattr(source, "to_batches"):  # Arrow table
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        buffer = io.BytesIO()
        pq.write_table(source, buffer)
        buffer.seek(0)
        return "table.parquet", "parquet", _read(buffer)
    if hasattr(source, "read"):
        name = Path(getattr(source, "name", "upload.csv")).name
        return name, _FORMATS.get(Path(name).suffix.lower(), "csv"), _read(source)
    raise errors.InvalidRequestError(
        f"a {type(source).__name__} is no data source", hint="give a path, an open file, a DataFrame or an Arrow table"
    )


def _read(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk
