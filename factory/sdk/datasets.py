"""Datasets from Python: upload, register, check, download."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from factory import errors
from factory.domain.datasets import VersionState
from factory.schemas.datasets import (
    DatasetView,
    FindUploadRequest,
    LineageView,
    RegisterRequest,
    UploadView,
    VersionView,
)
from factory.schemas.jobs import JobView
from factory.sdk.jobs import JobHandle
from factory.sdk.sources import Source, open_source
from factory.sdk.transport import Transport

__all__ = ["DatasetVersionHandle", "Datasets", "load_contract"]

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
        return self._send(open_source(source), format)

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

        The same bytes with the same contract give the version that is there, and are not sent again. A failed gate is
        not an error here: look
        at `view.state` and `view.checks`.
        """
        made_of = open_source(source)
        known = load_contract(contract) if contract is not None else {}
        there = self._find(made_of, format)
        try:
            view = self._register(name, there or self._send(made_of, format), known, queue)
        except errors.UploadGoneError:
            if there is None:
                raise
            # what was made of these bytes before is another version: they are needed once more
            view = self._register(name, self._send(made_of, format), known, queue)
        handle = DatasetVersionHandle(self._transport, view)
        if wait:
            handle.wait(timeout_s)
        return handle

    def _register(self, name: str, upload: UploadView, contract: dict[str, Any], queue: str | None) -> VersionView:
        body = RegisterRequest(upload=upload.id, contract=contract, queue=queue)
        return self._transport.send(VersionView, "POST", f"/datasets/{name}/versions", body, idempotent=True)

    def _find(self, source: Source, format: str | None) -> UploadView | None:
        """The tenant's earlier upload of the same bytes; None if there is none, or they can be read only once."""
        digest = source.digest()
        if digest is None:
            return None
        size_bytes, sha256 = digest
        if not size_bytes:
            return None
        body = FindUploadRequest(sha256=sha256, size_bytes=size_bytes, format=format or source.format)
        try:
            return self._transport.send(UploadView, "POST", "/uploads:find", body, idempotent=True)
        except errors.NotFoundError:
            return None

    def _send(self, source: Source, format: str | None) -> UploadView:
        return UploadView.model_validate_json(
            self._transport.request(
                "POST",
                "/uploads",
                params={"filename": source.filename, "format": format or source.format},
                content=source.chunks(),
                headers={"Content-Type": "application/octet-stream"},
                timeout_s=3600,
            ).content
        )

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
