"""Datasets on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from factory.domain.datasets import CheckKind, Severity, VersionState
from factory.schemas.common import Name, WireModel

__all__ = [
    "CheckView",
    "DatasetView",
    "FileView",
    "FindUploadRequest",
    "LineageEdge",
    "LineageNode",
    "LineageView",
    "RegisterRequest",
    "UploadView",
    "VersionView",
]


class UploadView(WireModel):
    """Bytes that arrived: name them when registering."""

    id: str
    filename: str
    format: str
    size_bytes: int
    sha256: str
    kept: bool = True  # False: its bytes were removed; it stands for what was registered from it, and for nothing new


class FindUploadRequest(WireModel):
    """Has the tenant uploaded these bytes before?"""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=1)
    format: str


class RegisterRequest(WireModel):
    """Make a version of a dataset from an upload. The same upload bytes and contract give the same version."""

    upload: str
    contract: dict[str, Any] = {}  # short form
    queue: Name | None = None
    labels: dict[str, str] = {}


class CheckView(WireModel):
    """One judged check."""

    id: str
    kind: CheckKind
    severity: Severity
    passed: bool
    subject: str
    value: float
    threshold: str
    failed: int
    total: int
    examples: tuple[str, ...]
    message: str


class FileView(WireModel):
    """One file of a version."""

    path: str
    size_bytes: int
    sha256: str
    rows: int


class VersionView(WireModel):
    """A dataset version."""

    id: str
    dataset: str
    number: int
    state: VersionState
    rows: int | None = None
    columns: tuple[tuple[str, str], ...] = ()
    files: tuple[FileView, ...] = ()
    manifest_id: str | None = None
    passed: bool | None = None  # None = not judged yet
    checks: tuple[CheckView, ...] = ()
    contract: dict[str, Any] = {}
    parents: tuple[str, ...] = ()  # "footfall-raw@1"
    job: str | None = None
    message: str = ""
    created_at: int
    created_by: str
    published_at: int | None = None
    labels: dict[str, str] = {}


class DatasetView(WireModel):
    """A dataset and its latest versions."""

    name: str
    tenant: str
    head: int  # latest published; 0 = none
    last: int
    created_at: int
    versions: tuple[VersionView, ...] = ()  # newest first, without checks


class LineageNode(WireModel):
    """A thing: kind dataset, job, model, algorithm or endpoint; id unique in the graph."""

    id: str  # "dataset:footfall@1"
    kind: str
    label: str
    state: str = ""


class LineageEdge(WireModel):
    """`source` went into `target`."""

    source: str
    target: str


class LineageView(WireModel):
    """What came from what, around one thing; nodes in a stable order, roots first."""

    focus: str
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]
