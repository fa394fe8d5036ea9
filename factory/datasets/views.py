"""Datasets as the API shows them: domain values to wire models, without IO."""

from __future__ import annotations

from collections.abc import Iterable

from factory.domain.datasets import CheckResult, Dataset, DatasetVersion, Upload, UploadState
from factory.quality.contracts import contract_to_mapping
from factory.schemas.datasets import CheckView, DatasetView, FileView, UploadView, VersionView

__all__ = ["check_view", "dataset_view", "upload_view", "version_name", "version_view"]


def version_name(version: DatasetVersion) -> str:
    """Return "footfall@1"."""
    return f"{version.dataset}@{version.number}"


def upload_view(upload: Upload) -> UploadView:
    """Return what arrived."""
    return UploadView(
        id=upload.id,
        filename=upload.filename,
        format=upload.format,
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
        kept=upload.state is UploadState.KEPT,
    )


def dataset_view(dataset: Dataset, versions: Iterable[DatasetVersion], names: dict[str, str]) -> DatasetView:
    """Return a dataset with its versions, newest first, without checks. `names`: version id -> "footfall-raw@1"."""
    newest_first = sorted(versions, key=lambda v: v.number, reverse=True)
    return DatasetView(
        name=dataset.name,
        tenant=dataset.tenant,
        head=dataset.head,
        last=dataset.last,
        created_at=dataset.created_at,
        versions=tuple(version_view(v, names, with_checks=False) for v in newest_first),
    )


def version_view(version: DatasetVersion, names: dict[str, str], *, with_checks: bool = True) -> VersionView:
    """Return a version; a parent that `names` does not know is shown by its id."""
    manifest = version.manifest
    verdict = version.verdict
    return VersionView(
        id=version.id,
        dataset=version.dataset,
        number=version.number,
        state=version.state,
        rows=None if manifest is None else manifest.rows,
        columns=() if manifest is None else tuple((c.name, c.dtype) for c in manifest.columns),
        files=()
        if manifest is None
        else tuple(
            FileView(path=f.path, size_bytes=f.size_bytes, sha256=f.sha256, rows=f.rows) for f in manifest.files
        ),
        manifest_id=version.manifest_id,
        passed=None if verdict is None else verdict.passed,
        checks=tuple(check_view(r) for r in verdict.results) if verdict is not None and with_checks else (),
        contract=contract_to_mapping(version.contract),
        parents=tuple(names.get(parent, parent) for parent in version.parents),
        job=version.job,
        message=version.message,
        created_at=version.created_at,
        created_by=version.created_by,
        published_at=version.published_at,
        labels=dict(version.labels),
    )


def check_view(result: CheckResult) -> CheckView:
    """Return one judged check."""
    return CheckView(
        id=result.check_id,
        kind=result.kind,
        severity=result.severity,
        passed=result.passed,
        subject=result.subject,
        value=result.value,
        threshold=result.threshold,
        failed=result.failed,
        total=result.total,
        examples=result.examples,
        message=result.message,
    )
