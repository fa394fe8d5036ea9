"""Writing a dataset version: stage → measure → verdict → publish, from wherever an earlier attempt had got to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.domain.datasets import CheckResult, VersionState
from factory.domain.ids import Digest, VersionId
from factory.errors import ConflictError
from factory.schemas.attempt import MeasuredRequest
from factory.worker.attempt import AttemptApi, local_path

if TYPE_CHECKING:
    from factory.worker.data.columns import TableStream

__all__ = ["WrittenVersion", "write_version"]


@dataclass(frozen=True, slots=True)
class WrittenVersion:
    """What became of an output."""

    dataset: str
    number: int
    version_id: str
    state: VersionState  # published or quarantined
    failures: tuple[CheckResult, ...] = ()  # why it is quarantined


def write_version(
    api: AttemptApi,
    output: str,
    rows: Callable[[], AbstractContextManager[TableStream]],
    *,
    source_digest: str | None,
    threads: int,
    log: Callable[[str], None],
) -> WrittenVersion:
    """Write one output's version and see it through its gate.

    Args:
        output: name in the job's outputs; "" for ingest.
        rows: opens the rows; not called if an earlier attempt had written and measured them.
        source_digest: of what the rows were read from; None = the digest of the rows themselves.
    Raises: InvalidRequestError: the rows cannot be stored. Others: as `Http.call`.
    """
    from factory.worker.data.checking import measure
    from factory.worker.data.tables import file_paths, publish, stage

    staged = api.stage(output)
    state, manifest_id = staged.state, staged.manifest_id
    files = () if staged.manifest is None else staged.manifest.files
    failures: tuple[CheckResult, ...] = ()
    table_dir = local_path(staged.location)
    what = f"{staged.dataset}@{staged.number}"
    if state is VersionState.STAGED:
        with rows() as stream:
            table = stage(table_dir, stream, version_id=VersionId(staged.version_id))
        files = table.files
        checks = len(staged.contract.checks)
        log(f"{what}: {table.rows:,} rows in {len(files)} file(s) written; measuring {checks} check(s)")
        measurements = measure(file_paths(table_dir, files), staged.contract, threads=threads)
        reply = api.measured(
            staged.version_id,
            MeasuredRequest(
                source_digest=source_digest or table.content_digest,
                columns=table.columns,
                rows=table.rows,
                files=files,
                measurements=measurements,
            ),
        )
        state, manifest_id, failures = reply.state, reply.manifest_id, reply.verdict.failures
    if state is VersionState.VALIDATED:  # rule U2 (ADR 7): only the control plane's answer opens the way to a commit
        if manifest_id is None or not files:
            raise ConflictError(f"{what} is validated but has no manifest")
        delta = publish(
            table_dir, version_id=VersionId(staged.version_id), manifest_id=Digest(manifest_id), files=files
        )
        api.published(staged.version_id, delta)
        state = VersionState.PUBLISHED
    if state is VersionState.QUARANTINED:
        log(f"{what} is quarantined: {len(failures) or 'some'} check(s) of its contract failed")
        for failure in failures:
            log(f"  {failure.check_id} {failure.subject}: {failure.message}".rstrip())
    elif state is VersionState.PUBLISHED:
        log(f"{what} is published")
    else:
        raise ConflictError(f"{what} is {state.value}; it cannot be written")
    return WrittenVersion(staged.dataset, staged.number, staged.version_id, state, failures)
