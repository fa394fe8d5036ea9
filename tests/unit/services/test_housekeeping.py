"""Staged uploads are removed when nobody needs their bytes, whatever crashes in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from factory.datasets.housekeeping import Swept, sweep_uploads
from factory.domain.datasets import DatasetVersion, UploadState, VersionState
from factory.domain.ids import DatasetName, JobId, UploadId
from factory.domain.jobs import EndReason
from factory.domain.tenancy import PLATFORM
from factory.errors import InvalidRequestError, NotFoundError, UnavailableError, UploadGoneError
from factory.objects.ports import ObjectInfo
from factory.schemas.datasets import RegisterRequest
from factory.testing.objects import MemoryObjectStore

from .world import ANNA, NOW, SERIES, World

DAY = 86_400_000
FOOTFALL = DatasetName("footfall")


def sweep(world: World, *, later_ms: int = 0, after: UploadId | None = None, limit: int = 100) -> Swept:
    return sweep_uploads(world.store, world.objects, NOW + later_ms, keep_ms=DAY, after=after, limit=limit)


def staged(world: World) -> list[str]:
    return [info.key for info in world.objects.list("uploads/")]


def state(world: World, upload: str | None) -> UploadState | None:
    found = world.store.read(lambda tx: tx.upload(PLATFORM, UploadId(upload or "")))
    return None if found is None else found.state


def running(world: World) -> tuple[DatasetVersion, Callable[..., object]]:
    version = world.register()
    assert version.job is not None
    attempt = world.start(version.job)
    return version, lambda reason=EndReason.COMPLETED: world.end(attempt, reason)


@pytest.mark.parametrize("backward", [0, 2], ids=["published", "quarantined"])
def test_staged_bytes_go_when_the_version_is_settled_and_its_job_has_ended(world: World, backward: int) -> None:
    version, end = running(world)
    sweep(world, later_ms=2 * DAY)
    assert state(world, version.upload) is UploadState.KEPT  # its job runs, however long
    attempt = world.jobs.get(ANNA, JobId(version.job or "")).attempts[-1].id
    world.write(attempt, backward=backward)
    sweep(world)
    assert len(staged(world)) == 1  # settled, but the job has not ended
    end()
    assert sweep(world).removed == (version.upload,)
    assert staged(world) == []
    assert state(world, version.upload) is UploadState.REMOVED
    assert sweep(world).removed == ()


def test_staged_bytes_of_a_failed_ingest_go(world: World) -> None:
    version, end = running(world)
    end(EndReason.USER_ERROR)
    assert world.version_of(version.id).state is VersionState.FAILED
    sweep(world)
    assert staged(world) == []


def test_staged_bytes_stay_while_a_validated_version_waits_for_its_publish_job(world: World) -> None:
    version, _ = running(world)
    attempt = world.jobs.get(ANNA, JobId(version.job or "")).attempts[-1].id
    world.judge(attempt)
    world.end(attempt, EndReason.USER_ERROR)
    sweep(world)
    assert len(staged(world)) == 1
    publisher = world.start(world.version_of(version.id).publisher or "")
    world.publish(publisher, version.id)
    world.end(publisher)
    sweep(world)
    assert staged(world) == []


def test_an_upload_that_nobody_registers_is_forgotten_after_its_time(world: World) -> None:
    upload = world.upload()
    sweep(world, later_ms=DAY - 1)
    assert len(staged(world)) == 1
    sweep(world, later_ms=DAY)
    assert staged(world) == []
    assert state(world, upload) is None


def test_an_upload_that_was_cut_off_by_a_crash_is_forgotten_after_its_time(world: World) -> None:
    class Crash(BaseException):
        pass

    class Dying(MemoryObjectStore):
        def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> ObjectInfo:
            world.objects.put(key, chunks, limit_bytes=limit_bytes)
            raise Crash

        def delete(self, key: str) -> None:
            raise Crash  # the process is gone: it cleans up nothing

    service = world.datasets
    objects, service._objects = service._objects, Dying()
    with pytest.raises(Crash):
        world.upload()
    service._objects = objects
    (key,) = staged(world)
    upload = key.rpartition("/")[2]
    assert state(world, upload) is UploadState.ARRIVING
    with pytest.raises(NotFoundError):
        service.register(ANNA, FOOTFALL, RegisterRequest(upload=upload), now=NOW)
    sweep(world, later_ms=DAY)
    assert staged(world) == []
    assert state(world, upload) is None


def test_a_refused_upload_leaves_no_row(world: World) -> None:
    with pytest.raises(InvalidRequestError):
        world.upload(b"")
    assert world.store.read(lambda tx: tx.uploads_with_bytes(PLATFORM)) == ()


def test_bytes_that_cannot_be_deleted_are_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = world.upload()

    def refuse(key: str) -> None:
        raise UnavailableError("the disk does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.objects, "delete", refuse)
        assert sweep(world, later_ms=DAY).removed == ()
    assert state(world, upload) is UploadState.REMOVING
    with pytest.raises(UploadGoneError):
        world.datasets.register(ANNA, FOOTFALL, RegisterRequest(upload=upload), now=NOW)
    assert sweep(world).removed == (upload,)
    assert staged(world) == []


def test_a_crash_after_the_bytes_went_is_finished_by_the_next_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = world.upload()
    commits = iter([None])

    def crash() -> None:
        if next(commits, "crash") == "crash":
            raise UnavailableError("the second commit does not come")

    with monkeypatch.context() as patch:
        patch.setattr(world.store.hooks, "before_commit", crash, raising=True)
        with pytest.raises(UnavailableError):
            sweep(world, later_ms=DAY)
    assert staged(world) == []
    assert state(world, upload) is UploadState.REMOVING
    sweep(world, later_ms=DAY)
    assert state(world, upload) is None


def test_an_upload_that_is_registered_while_it_is_looked_at_stays(world: World) -> None:
    upload = world.upload()
    read = world.store.read

    class RegistersMeanwhile:
        """The store as a sweep meets it when a user registers between its look and its write."""

        def read(self, fn: Callable[..., Any]) -> Any:
            return read(fn)

        def transact(self, fn: Callable[..., Any]) -> Any:
            world.datasets.register(ANNA, FOOTFALL, RegisterRequest(upload=upload, contract=SERIES), now=NOW)
            return world.store.transact(fn)

    swept = sweep_uploads(RegistersMeanwhile(), world.objects, NOW + DAY, keep_ms=DAY)
    assert swept.removed == ()
    assert state(world, upload) is UploadState.KEPT
    assert len(staged(world)) == 1


def test_an_equal_registration_lets_its_own_upload_go_too(world: World) -> None:
    world.ingest()
    first = world.register(body=b"again")
    assert first.job is not None
    attempt = world.start(first.job)
    world.write(attempt)
    world.end(attempt)
    assert world.register(body=b"again").id == first.id
    sweep(world)
    assert staged(world) == []


def test_a_removed_upload_answers_an_equal_request_and_refuses_a_new_one(world: World) -> None:
    version, end = running(world)
    world.write(world.jobs.get(ANNA, JobId(version.job or "")).attempts[-1].id)
    end()
    sweep(world)
    request = RegisterRequest(upload=version.upload or "", contract=SERIES)
    assert world.datasets.register(ANNA, FOOTFALL, request, now=NOW).replayed
    with pytest.raises(UploadGoneError, match="removed"):
        world.datasets.register(ANNA, FOOTFALL, request.model_copy(update={"contract": {}}), now=NOW)


def test_a_round_goes_on_where_the_last_batch_ended(world: World) -> None:
    uploads = [world.upload() for _ in range(5)]
    kept = world.store.read(lambda tx: tx.uploads_with_bytes(PLATFORM))
    assert [u.id for u in kept] == uploads
    first = sweep(world, later_ms=DAY, limit=2)
    second = sweep(world, later_ms=DAY, limit=2, after=first.after)
    last = sweep(world, later_ms=DAY, limit=2, after=second.after)
    assert [list(s.removed) for s in (first, second, last)] == [uploads[:2], uploads[2:4], uploads[4:]]
    assert last.after is None
