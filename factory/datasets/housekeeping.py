"""Which staged uploads are needed no more, and their removal.

An upload's bytes are needed until every version that was registered from it is settled (published, quarantined, failed
or withdrawn) and the jobs that made it so have ended; an upload that nobody registers, or that never arrived whole,
until it is `keep_ms` old.

The row goes first: `removing` (nobody can register it any more), then the bytes, then `removed`, or no row at all if no
version names it. So a crash anywhere leaves a row that says what is to be done, and to do it again changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from factory.datasets.ports import Blobs, RegistryReader, RegistryStore, RegistryTx
from factory.domain.datasets import Upload, UploadState, VersionState
from factory.domain.ids import JobId, UploadId, VersionId
from factory.domain.tenancy import PLATFORM
from factory.domain.time import Instant
from factory.errors import FactoryError

__all__ = ["Swept", "is_needed", "sweep_uploads"]

_log = logging.getLogger(__name__)
_UNSETTLED = (VersionState.STAGED, VersionState.VALIDATED)


@dataclass(frozen=True, slots=True)
class Swept:
    """What one batch did."""

    removed: tuple[UploadId, ...]
    after: UploadId | None  # where the next batch begins; None = this was the last one


def sweep_uploads(
    store: RegistryStore,
    objects: Blobs,
    now: Instant,
    *,
    keep_ms: int,
    after: UploadId | None = None,
    limit: int = 100,
) -> Swept:
    """Look at up to `limit` uploads that have bytes, above `after`, and remove what is needed no more.

    Two short transactions a batch, however many uploads it has; an object that cannot be deleted is tried again by the
    next round. Raises what the store raises when it is down.
    """
    seen = store.read(lambda reader: reader.uploads_with_bytes(PLATFORM, after=after, limit=limit))
    over = store.read(lambda reader: [u.id for u in seen if not is_needed(reader, u, now, keep_ms)])
    removing = store.transact(lambda tx: _begin(tx, over, now, keep_ms)) if over else []
    gone = [upload for upload in removing if _delete(objects, upload)]
    if gone:
        store.transact(lambda tx: _finish(tx, gone))
    return Swept(tuple(upload.id for upload in gone), seen[-1].id if len(seen) == limit else None)


def is_needed(reader: RegistryReader, upload: Upload, now: Instant, keep_ms: int) -> bool:
    """Return whether anybody may still read the upload's bytes."""
    if upload.state in (UploadState.REMOVING, UploadState.REMOVED):
        return False
    if not upload.versions:
        return now - upload.created_at < keep_ms
    return not all(_is_settled(reader, version_id) for version_id in upload.versions)


def _is_settled(reader: RegistryReader, version_id: VersionId) -> bool:
    version = reader.version(PLATFORM, version_id)
    if version is None:
        return True
    jobs = [id for id in (version.job, version.publisher) if id is not None]
    return version.state not in _UNSETTLED and all(_has_ended(reader, id) for id in jobs)


def _has_ended(reader: RegistryReader, job_id: JobId) -> bool:
    job = reader.job(PLATFORM, job_id)
    return job is None or job.is_terminal


def _begin(tx: RegistryTx, ids: list[UploadId], now: Instant, keep_ms: int) -> list[Upload]:
    """Shut the uploads that are still over: one may have been registered since it was looked at."""
    removing: list[Upload] = []
    for id in ids:
        upload = tx.upload(PLATFORM, id)
        if upload is None or upload.state is UploadState.REMOVED or is_needed(tx, upload, now, keep_ms):
            continue
        if upload.state is not UploadState.REMOVING:
            upload = tx.put_upload(replace(upload, state=UploadState.REMOVING))
        removing.append(upload)
    return removing


def _finish(tx: RegistryTx, gone: list[Upload]) -> None:
    for removed in gone:
        upload = tx.upload(PLATFORM, removed.id)
        if upload is None or upload.state is not UploadState.REMOVING:  # another control plane was here
            continue
        if upload.versions:
            tx.put_upload(replace(upload, state=UploadState.REMOVED))
        else:
            tx.delete_upload(upload)


def _delete(objects: Blobs, upload: Upload) -> bool:
    try:
        objects.delete(upload.object_key)
    except (FactoryError, OSError):
        _log.exception("staged bytes could not be deleted", extra={"event": "upload.stuck", "upload": upload.id})
        return False
    return True
