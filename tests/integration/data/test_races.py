"""Two transactions of the data registry at once, on real databases: one comes first, and the other sees it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from factory.datasets.housekeeping import sweep_uploads
from factory.datasets.service import DatasetService
from factory.domain.datasets import UploadState, VersionState
from factory.domain.ids import DatasetName, IdSource, UploadId
from factory.domain.jobs import EndReason
from factory.domain.tenancy import PLATFORM
from factory.errors import NotFoundError, UnauthenticatedError, UploadGoneError
from factory.schemas.attempt import StageRequest
from factory.schemas.datasets import RegisterRequest
from factory.storage.store import open_store
from tests.unit.services.world import ANNA, NOW, SERIES, World, command, make_world

FOOTFALL = DatasetName("footfall")
DAY = 86_400_000
_FIRST_S = 1.0  # for the other transaction to commit first, if it can


@pytest.fixture
def world(url: str, tmp_path: Path) -> Iterator[World]:
    with open_store(url) as store:
        yield make_world(tmp_path, store)


class Meanwhile:
    """Runs something in another thread in the middle of a transaction of the registry: when it makes a version's id.

    Where both run at once the other one gets time to commit first. Where it waits for us (SQLite has one writer, and on
    PostgreSQL a row may be locked) it comes second.
    """

    def __init__(self, ids: IdSource, other: Callable[[], object]) -> None:
        self._ids = ids
        self._thread = threading.Thread(target=other)
        self._begun = False

    def new(self, kind: str) -> str:
        if kind == "dsv" and not self._begun:
            self._begun = True
            self._thread.start()
            self._thread.join(_FIRST_S)
        return self._ids.new(kind)

    def finish(self) -> None:
        self._thread.join(30)
        assert self._begun
        assert not self._thread.is_alive()


@pytest.fixture
def meanwhile(world: World) -> Callable[[Callable[[], object]], Meanwhile]:
    def install(other: Callable[[], object]) -> Meanwhile:
        service: DatasetService = world.datasets
        racing = Meanwhile(service._ids, other)
        service._ids = racing
        return racing

    return install


@pytest.mark.parametrize("reason", [EndReason.USER_ERROR, EndReason.CANCELLED])
def test_a_stage_that_meets_the_end_of_its_job_leaves_no_version_staged(
    world: World, meanwhile: Callable[[Callable[[], object]], Meanwhile], reason: EndReason
) -> None:
    job = world.jobs.submit(ANNA, command(outputs={"x": {"dataset": "footfall"}}), now=NOW).job
    attempt = world.start(job.id)

    def end() -> None:
        if reason is EndReason.CANCELLED:
            world.jobs.cancel(ANNA, job.id, now=NOW)
        world.end(attempt, reason)

    other = meanwhile(end)
    with contextlib.suppress(UnauthenticatedError):  # the end came first: the token is revoked
        world.datasets.stage(attempt, StageRequest(output="x"), now=NOW)
    other.finish()
    assert world.jobs.get(ANNA, job.id).is_terminal
    left = world.store.read(lambda tx: tx.versions_of_job(PLATFORM, job.id))
    assert {version.state for version in left} <= {VersionState.FAILED}


def test_an_attempt_that_is_over_stages_nothing(world: World) -> None:
    job = world.jobs.submit(
        ANNA, command(outputs={"x": {"dataset": "footfall"}}, retry={"max_retries": 1}), now=NOW
    ).job
    first = world.start(job.id)
    assert not world.end(first, EndReason.WORKER_LOST).is_terminal
    second = world.start(job.id)
    with pytest.raises(UnauthenticatedError):  # while the next attempt lives
        world.datasets.stage(first, StageRequest(output="x"), now=NOW)
    world.end(second)
    with pytest.raises(UnauthenticatedError):
        world.datasets.stage(second, StageRequest(output="x"), now=NOW)
    assert world.store.read(lambda tx: tx.versions_of_job(PLATFORM, job.id)) == ()


def test_a_registration_that_meets_housekeeping_has_its_bytes_or_is_refused(
    world: World, meanwhile: Callable[[Callable[[], object]], Meanwhile]
) -> None:
    upload = UploadId(world.upload())
    other = meanwhile(lambda: sweep_uploads(world.store, world.objects, NOW + DAY, keep_ms=DAY))
    request = RegisterRequest(upload=upload, contract=SERIES)
    try:
        version = world.datasets.register(ANNA, FOOTFALL, request, now=NOW).version
    except (UploadGoneError, NotFoundError):
        version = None  # housekeeping came first, and was seen when this one ran again
    other.finish()
    found = world.store.read(lambda tx: tx.upload(PLATFORM, upload))
    has_bytes = bool(world.objects.list("uploads/"))
    if version is None:
        assert world.store.read(lambda tx: tx.versions(PLATFORM, ANNA.acting_tenant(), FOOTFALL)) == ()
        assert not has_bytes
    else:
        assert found is not None
        assert (found.state, has_bytes) == (UploadState.KEPT, True)
