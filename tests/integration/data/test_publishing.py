"""The head of a real Delta table and the registry's head, when jobs end between verdict, commit and report (ADR 7)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from factory.domain.datasets import DatasetVersion, VersionState
from factory.domain.ids import AttemptId, DatasetName, JobId, VersionId
from factory.domain.jobs import EndReason
from factory.errors import UnauthenticatedError
from factory.schemas.attempt import (
    MeasuredRequest,
    PublishedRequest,
    StageReply,
    StageRequest,
    UploadReply,
    VerdictReply,
)
from factory.worker.attempt import AttemptApi
from factory.worker.data.columns import TableStream
from factory.worker.data.frames import stream_of
from factory.worker.ingest import ingest
from factory.worker.outputs import write_version
from tests.unit.services.world import ANNA, NOW, World, command, make_world

FOOTFALL = DatasetName("footfall")
CONTRACT: dict[str, Any] = {"checks": [{"rows": {"min": 1}}]}


class Killed(BaseException):
    """The worker's process ends here."""


class Worker(AttemptApi):
    """An attempt that speaks with the services directly instead of by HTTP; it may die before it says `published`."""

    def __init__(self, world: World, attempt: AttemptId, *, before_report: Callable[[], None] = lambda: None) -> None:
        self._world = world
        self._attempt = attempt
        self._before_report = before_report

    def upload(self) -> UploadReply:
        found = self._world.datasets.upload_of(self._attempt)
        return UploadReply(
            filename=found.filename,
            format=found.format,
            size_bytes=found.size_bytes,
            sha256=found.sha256,
            location=None,
        )

    def upload_content(self, target: Path) -> None:
        target.write_bytes(b"".join(self._world.datasets.open_upload(self._attempt)))

    def stage(self, output: str) -> StageReply:
        return self._world.datasets.stage(self._attempt, StageRequest(output=output), now=NOW)

    def measured(self, version_id: str, request: MeasuredRequest) -> VerdictReply:
        return self._world.datasets.measured(self._attempt, VersionId(version_id), request, now=NOW)

    def published(self, version_id: str, delta_version: int) -> None:
        self._before_report()
        said = PublishedRequest(delta_version=delta_version)
        self._world.datasets.published(self._attempt, VersionId(version_id), said, now=NOW)

    def run(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        ingest(self, folder, threads=1, log=lambda _: None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def killed() -> None:
    raise Killed


def register(world: World, rows: int) -> DatasetVersion:
    return world.register("footfall", CONTRACT, b"a\n" + b"1\n" * rows)


def cancel(world: World, job: JobId | None, attempt: AttemptId) -> None:
    world.jobs.cancel(ANNA, job or JobId(""), now=NOW)
    world.end(attempt, EndReason.CANCELLED)


def run_publish_job(world: World, version: str, folder: Path) -> None:
    attempt = world.start(world.version_of(version).publisher or "")
    Worker(world, attempt).run(folder)
    world.end(attempt)


def heads(world: World) -> tuple[str, str]:
    """Return the version ids at the heads of the Delta table and of the registry."""
    dataset = world.datasets.get(ANNA, FOOTFALL)
    registry = next((str(v.id) for v in dataset.versions if v.number == dataset.head), "")
    files = {Path(uri).name for uri in table(world).file_uris()}
    (delta,) = {name.rpartition("-")[0] for name in files}
    return delta, registry


def table(world: World) -> DeltaTable:
    return DeltaTable(world.tables / "mobility" / "footfall")


def commits(world: World) -> int:
    return len(table(world).history()) - 1  # the first one made the empty table


def test_a_commit_that_its_cancelled_job_did_not_report_is_completed_by_the_publish_job(
    world: World, tmp_path: Path
) -> None:
    version = register(world, 3)
    attempt = world.start(version.job or "")
    with pytest.raises(Killed):
        Worker(world, attempt, before_report=killed).run(tmp_path / "work")
    cancel(world, version.job, attempt)
    assert heads(world) == (version.id, "")

    run_publish_job(world, version.id, tmp_path / "publish")

    assert heads(world) == (version.id, version.id)
    assert commits(world) == 1  # it found the commit and made no second one
    assert world.version_of(version.id).delta_version == table(world).version()


def test_what_a_job_judged_but_did_not_commit_is_committed_by_the_publish_job(world: World, tmp_path: Path) -> None:
    spec = command(outputs={"x": {"dataset": "footfall", "contract": CONTRACT}}, retry={"max_retries": 0})
    attempt = world.start(world.jobs.submit(ANNA, spec, now=NOW).job.id)

    class Dying(Worker):
        def measured(self, version_id: str, request: MeasuredRequest) -> VerdictReply:
            super().measured(version_id, request)
            raise Killed

    @contextlib.contextmanager
    def rows() -> Iterator[TableStream]:
        yield stream_of(pa.table({"a": [1, 2]}))

    with pytest.raises(Killed):
        write_version(Dying(world, attempt), "x", rows, source_digest=None, threads=1, log=lambda _: None)
    world.end(attempt, EndReason.OUT_OF_MEMORY)
    version = world.datasets.get(ANNA, FOOTFALL).versions[0].id

    run_publish_job(world, version, tmp_path / "publish")  # there is no upload that it could read

    assert heads(world) == (version, version)


def test_the_heads_agree_when_the_later_version_is_published_first(world: World, tmp_path: Path) -> None:
    first, second = register(world, 1), register(world, 2)
    attempts = [world.start(v.job or "") for v in (first, second)]
    for attempt in reversed(attempts):
        Worker(world, attempt).run(tmp_path / attempt)
    assert heads(world) == (first.id, first.id)


def test_the_heads_agree_when_commits_are_reported_in_another_order(world: World, tmp_path: Path) -> None:
    first, second = register(world, 1), register(world, 2)
    one, two = (world.start(v.job or "") for v in (first, second))
    # the second version commits and reports while the first one, already committed, has not reported yet
    Worker(world, one, before_report=lambda: Worker(world, two).run(tmp_path / "two")).run(tmp_path / "one")
    assert heads(world) == (second.id, second.id)


def test_a_late_commit_of_a_stopped_worker_changes_nothing(world: World, tmp_path: Path) -> None:
    first = register(world, 1)
    attempt = world.start(first.job or "")

    class Stopped(Worker):
        def measured(self, version_id: str, request: MeasuredRequest) -> VerdictReply:
            reply = super().measured(version_id, request)  # it has its verdict; then everybody else goes on
            cancel(world, first.job, attempt)
            run_publish_job(world, first.id, tmp_path / "publish")
            Worker(world, world.start(second.job or "")).run(tmp_path / "second")
            return reply

    second = register(world, 2)
    with pytest.raises(UnauthenticatedError):  # it has asked Delta to commit, and learns at its report that it is over
        Stopped(world, attempt).run(tmp_path / "work")

    assert heads(world) == (second.id, second.id)
    assert commits(world) == 2


def test_a_late_commit_of_a_stopped_worker_is_completed_like_any_other(world: World, tmp_path: Path) -> None:
    version = register(world, 1)
    attempt = world.start(version.job or "")

    class Stopped(Worker):
        def measured(self, version_id: str, request: MeasuredRequest) -> VerdictReply:
            reply = super().measured(version_id, request)
            cancel(world, version.job, attempt)
            return reply

    with pytest.raises(UnauthenticatedError):
        Stopped(world, attempt).run(tmp_path / "work")
    assert heads(world) == (version.id, "")
    run_publish_job(world, version.id, tmp_path / "publish")
    assert heads(world) == (version.id, version.id)
    assert commits(world) == 1


def test_a_stopped_worker_whose_version_has_no_verdict_yet_commits_nothing(world: World, tmp_path: Path) -> None:
    version = register(world, 1)
    attempt = world.start(version.job or "")

    class Stopped(Worker):
        def measured(self, version_id: str, request: MeasuredRequest) -> VerdictReply:
            cancel(world, version.job, attempt)  # its files are written, its verdict is not asked for yet
            return super().measured(version_id, request)

    with pytest.raises(UnauthenticatedError):
        Stopped(world, attempt).run(tmp_path / "work")
    assert world.version_of(version.id).state is VersionState.FAILED
    assert not DeltaTable.is_deltatable(str(world.tables / "mobility" / "footfall"))
