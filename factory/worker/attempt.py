"""The attempt's own routes (`/api/v1/attempt/…`) as typed calls."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from factory.errors import UnsupportedError
from factory.schemas.attempt import (
    InputReply,
    MeasuredRequest,
    ModelFileReply,
    ModelReply,
    ProgressRequest,
    PublishedRequest,
    ReadyRequest,
    RegisteredModel,
    RegisterModelRequest,
    StageReply,
    StageRequest,
    UploadReply,
    VerdictReply,
    WorkOrder,
)
from factory.schemas.common import API, WireModel
from factory.worker.http import Http

__all__ = ["AttemptApi", "local_path"]

M = TypeVar("M", bound=WireModel)


def local_path(location: str) -> Path:
    """Return the path of a file:// URL. Raises: UnsupportedError: another kind of store."""
    parts = urlsplit(location)
    if parts.scheme != "file":
        raise UnsupportedError(f"this release cannot open a {parts.scheme} location", hint="share a folder")
    return Path(unquote(parts.path))


class AttemptApi:
    """What a running attempt may ask and say."""

    def __init__(self, http: Http) -> None:
        self.http = http

    def order(self) -> WorkOrder:
        """Return the control plane's own view of the order (MLflow's address is in it)."""
        return self._get("", WorkOrder)

    def code(self, digest: str, target: Path) -> None:
        """Fetch a bundle or a pickled function."""
        self.http.download(f"{API}/attempt/code/{quote(digest)}", target)

    def upload(self) -> UploadReply:
        """Return the staged upload of an ingest job."""
        return self._get("/upload", UploadReply)

    def upload_content(self, target: Path) -> None:
        """Fetch the upload's bytes."""
        self.http.download(f"{API}/attempt/upload/content", target)

    def input(self, name: str) -> InputReply:
        """Return where an input is. Raises: ConflictError: the gate does not let this job read it any more."""
        return self._get(f"/inputs/{quote(name)}", InputReply)

    def input_file(self, name: str, path: str, target: Path) -> None:
        """Fetch one file of an input."""
        self.http.download(f"{API}/attempt/inputs/{quote(name)}/files/{quote(path)}", target)

    def stage(self, output: str) -> StageReply:
        """Begin, or find again, the version to write."""
        return self._post("/versions", StageRequest(output=output), StageReply)

    def measured(self, version_id: str, request: MeasuredRequest) -> VerdictReply:
        """Say what was written and measured; get the verdict."""
        return self._post(f"/versions/{quote(version_id)}/measured", request, VerdictReply)

    def published(self, version_id: str, delta_version: int) -> None:
        """Say that the Delta commit is made."""
        body = PublishedRequest(delta_version=delta_version).model_dump_json()
        self.http.call("POST", f"{API}/attempt/versions/{quote(version_id)}/published", body=body)

    def progress(self, request: ProgressRequest, *, patience_s: float) -> None:
        """Say how far it is."""
        body = request.model_dump_json()
        self.http.call("POST", f"{API}/attempt/progress", body=body, patience_s=patience_s)

    def model_file(self, path: Path) -> ModelFileReply:
        """Store the trained model's file."""
        response = self.http.call("PUT", f"{API}/attempt/model-file", file=path, timeout_s=300)
        return ModelFileReply.model_validate_json(response.content)

    def register_model(self, request: RegisterModelRequest) -> RegisteredModel:
        """Register the trained model; a repeat gives the same version."""
        return self._post("/models", request, RegisteredModel)

    def model(self) -> ModelReply:
        """Return the model that this job uses."""
        return self._get("/model", ModelReply)

    def model_content(self, target: Path) -> None:
        """Fetch the model's file."""
        self.http.download(f"{API}/attempt/model/content", target)

    def ready(self, host: str, port: int) -> None:
        """Say that the service listens."""
        self.http.call("POST", f"{API}/attempt/ready", body=ReadyRequest(host=host, port=port).model_dump_json())

    def _get(self, path: str, kind: type[M]) -> M:
        return kind.model_validate_json(self.http.call("GET", f"{API}/attempt{path}").content)

    def _post(self, path: str, request: WireModel, kind: type[M]) -> M:
        response = self.http.call("POST", f"{API}/attempt{path}", body=request.model_dump_json())
        return kind.model_validate_json(response.content)
