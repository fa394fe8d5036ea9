"""The data registry: register, judge, publish; only the live attempt of the right job may write."""

from __future__ import annotations

import hashlib

import pytest

from factory.datasets.tables import LocalTables
from factory.domain.datasets import VersionState
from factory.domain.ids import AttemptId, DatasetName, JobId, VersionId
from factory.domain.jobs import EndReason, Purpose
from factory.domain.tenancy import PLATFORM
from factory.errors import (
    ConflictError,
    DatasetGateError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    UnauthenticatedError,
    UnknownQueueError,
)
from factory.schemas.attempt import PublishedRequest, StageRequest
from factory.schemas.datasets import RegisterRequest

from .world import ANNA, NOW, PAUL, SERIES, VIEWER, World, command, measured

FOOTFALL = DatasetName("footfall")


def test_an_upload_is_stored_with_its_sum(world: World) -> None:
    view = world.datasets.upload(ANNA, "../up/f.csv", "csv", (b"a\n", b"1\n"), limit_bytes=4, now=NOW)
    assert (view.filename, view.size_bytes, view.sha256) == ("f.csv", 4, hashlib.sha256(b"a\n1\n").hexdigest())


def test_a_bad_upload_leaves_nothing(world: World) -> None:
    with pytest.raises(PayloadTooLargeError):
        world.datasets.upload(ANNA, "f.csv", "csv", (b"12345",), limit_bytes=4, now=NOW)
    with pytest.raises(InvalidRequestError, match="is empty"):
        world.datasets.upload(ANNA, "f.csv", "csv", (), limit_bytes=4, now=NOW)
    with pytest.raises(InvalidRequestError, match="did you mean 'parquet'"):
        world.datasets.upload(ANNA, "f", "parket", (b"1",), limit_bytes=4, now=NOW)
    with pytest.raises(ForbiddenError):
        world.datasets.upload(VIEWER, "f.csv", "csv", (b"1",), limit_bytes=4, now=NOW)
    assert world.objects.list("") == ()


def test_registering_stages_a_version_with_its_ingest_job(world: World) -> None:
    version = world.register("footfall")
    assert (version.number, version.state) == (1, VersionState.STAGED)
    (job,) = world.store.read(lambda tx: tx.open_jobs(PLATFORM))
    assert (job.id, job.spec.name) == (version.job, "ingest-footfall")


def test_the_same_bytes_and_contract_are_the_same_version(world: World) -> None:
    first = world.register("footfall", body=b"same")
    request = RegisterRequest(upload=world.upload(b"same"), contract=SERIES)
    again = world.datasets.register(ANNA, FOOTFALL, request, now=NOW)
    assert (again.replayed, again.version.id) == (True, first.id)
    other = RegisterRequest(upload=world.upload(b"same"), contract={})
    assert world.datasets.register(ANNA, FOOTFALL, other, now=NOW).version.number == 2


def test_a_registration_that_is_refused_stores_neither_version_nor_job(world: World) -> None:
    upload = world.upload()
    request = RegisterRequest(upload=upload, queue="parks")
    with pytest.raises(UnknownQueueError):
        world.datasets.register(ANNA, FOOTFALL, request, now=NOW)
    with pytest.raises(NotFoundError, match="no upload"):
        world.datasets.register(PAUL, FOOTFALL, RegisterRequest(upload=upload), now=NOW)
    with pytest.raises(InvalidRequestError, match="is no name"):
        world.datasets.register(ANNA, DatasetName("Foot Fall"), RegisterRequest(upload=upload), now=NOW)
    assert world.store.read(lambda tx: tx.datasets(PLATFORM)) == ()
    assert world.store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()


def test_a_version_that_could_not_be_ingested_can_be_registered_again(world: World) -> None:
    first = world.register("footfall", body=b"same")
    world.end(world.start(first.job or ""), EndReason.USER_ERROR, "not a table")
    assert world.version_of(first.id).state is VersionState.FAILED
    again = world.register("footfall", body=b"same")
    assert again.number == 2


def test_a_version_that_passes_is_published_and_becomes_the_head(world: World) -> None:
    world.ingest("footfall")
    view = world.datasets.get(ANNA, FOOTFALL)
    assert (view.head, view.last, view.versions[0].state) == (1, 1, VersionState.PUBLISHED)
    version = world.datasets.version(ANNA, FOOTFALL, 1)
    assert version.passed is True
    assert [c.id for c in version.checks] == ["order", "rows"]
    assert version.manifest_id is not None


def test_a_version_that_fails_is_quarantined_with_its_numbers(world: World) -> None:
    world.ingest("footfall", backward=7)
    version = world.datasets.version(ANNA, FOOTFALL, 1)
    assert (version.state, version.passed) == (VersionState.QUARANTINED, False)
    assert [(c.id, c.failed) for c in version.checks if not c.passed] == [("order", 7)]
    assert world.datasets.get(ANNA, FOOTFALL).head == 0


def test_a_repeat_of_each_step_answers_the_first(world: World) -> None:
    version = world.register("footfall")
    attempt = world.start(version.job or "")
    assert world.datasets.upload_of(attempt).id == version.upload
    assert b"".join(world.datasets.open_upload(attempt)) == b"a\n1\n"
    staged = world.datasets.stage(attempt, StageRequest(output=""), now=NOW)
    assert staged.version_id == world.datasets.stage(attempt, StageRequest(output=""), now=NOW).version_id == version.id
    first = world.datasets.measured(attempt, version.id, measured(version.id), now=NOW)
    assert world.datasets.measured(attempt, version.id, measured(version.id, backward=9), now=NOW) == first
    done = world.datasets.published(attempt, version.id, PublishedRequest(delta_version=4), now=NOW)
    again = world.datasets.published(attempt, version.id, PublishedRequest(delta_version=5), now=NOW + 1)
    assert again == done
    assert world.version_of(version.id).delta_version == 4
    resumed = world.datasets.stage(attempt, StageRequest(output=""), now=NOW)
    assert (resumed.state, resumed.manifest_id) == (VersionState.PUBLISHED, first.manifest_id)


def test_only_a_validated_version_is_published(world: World) -> None:
    version = world.register("footfall")
    attempt = world.start(version.job or "")
    with pytest.raises(ConflictError, match="only a validated version"):
        world.datasets.published(attempt, version.id, PublishedRequest(delta_version=0), now=NOW)
    world.datasets.measured(attempt, version.id, measured(version.id, backward=1), now=NOW)
    with pytest.raises(ConflictError, match="is quarantined"):
        world.datasets.published(attempt, version.id, PublishedRequest(delta_version=0), now=NOW)


def test_an_attempt_that_is_over_writes_nothing(world: World) -> None:
    version = world.register("footfall")
    attempt = world.start(version.job or "")
    world.end(attempt, EndReason.WORKER_LOST)
    newer = world.start(version.job or "")
    with pytest.raises(UnauthenticatedError):
        world.datasets.measured(attempt, version.id, measured(version.id), now=NOW)
    with pytest.raises(UnauthenticatedError):
        world.datasets.stage(AttemptId("job-9999.1"), StageRequest(output=""), now=NOW)
    world.write(newer)
    assert world.version_of(version.id).attempt == newer


def test_an_attempt_writes_the_versions_of_its_own_job_only(world: World) -> None:
    own, other = world.register("own"), world.register("other")
    attempt = world.start(own.job or "")
    with pytest.raises(NotFoundError):
        world.datasets.measured(attempt, other.id, measured(other.id), now=NOW)
    with pytest.raises(NotFoundError, match="no output 'x'"):
        world.datasets.stage(attempt, StageRequest(output="x"), now=NOW)


@pytest.mark.parametrize(
    "path", ["../parks/secret/{id}-0.parquet", "/etc/passwd", "dsv-9999-00000.parquet", "a/../{id}-0"]
)
def test_a_version_owns_only_files_that_bear_its_id(world: World, path: str) -> None:
    version = world.register("footfall")
    attempt = world.start(version.job or "")
    with pytest.raises(InvalidRequestError, match="is no file of dataset version"):
        world.datasets.measured(attempt, version.id, measured(version.id, path=path.format(id=version.id)), now=NOW)
    assert world.version_of(version.id).state is VersionState.STAGED


def test_what_a_repair_job_writes_has_its_parents_and_is_marked(world: World) -> None:
    raw = world.ingest("footfall-raw", backward=2558)
    spec = command(
        inputs={"raw": {"dataset": "footfall-raw", "purpose": "repair"}},
        outputs={"clean": {"dataset": "footfall", "contract": SERIES}},
    )
    attempt = world.start(world.jobs.submit(ANNA, spec, now=NOW).job.id)
    clean = world.version_of(world.write(attempt, "clean"))
    assert (clean.state, clean.repaired, clean.parents) == (VersionState.PUBLISHED, True, (raw,))
    manifest = clean.manifest
    assert manifest is not None
    assert manifest.parents == (world.version_of(raw).manifest_id,)
    assert world.datasets.version(ANNA, FOOTFALL, 1).parents == ("footfall-raw@1",)
    view = world.jobs.view(ANNA, world.jobs.live_attempt(attempt).job.id, now=NOW)
    assert view.datasets == ("footfall@1",)


def test_a_job_that_ends_without_writing_what_it_staged_fails_the_version(world: World) -> None:
    spec = command(outputs={"x": {"dataset": "footfall"}}, retry={"max_retries": 0})
    attempt = world.start(world.jobs.submit(ANNA, spec, now=NOW).job.id)
    staged = world.datasets.stage(attempt, StageRequest(output="x"), now=NOW)
    world.end(attempt, EndReason.OUT_OF_MEMORY, "over 1 GiB")
    failed = world.version_of(staged.version_id)
    assert failed.state is VersionState.FAILED
    assert "OutOfMemory: over 1 GiB" in failed.message


def test_files_of_a_quarantined_version_are_given_out_for_repair_only(world: World) -> None:
    version = world.ingest("footfall", backward=1)
    path = f"{version}-00000.parquet"
    folder = world.tables / "mobility" / "footfall"
    folder.mkdir(parents=True)
    (folder / path).write_bytes(b"PAR1")
    with pytest.raises(DatasetGateError, match="is quarantined"):
        world.datasets.open_file(ANNA, FOOTFALL, 1, path)
    assert b"".join(world.datasets.open_file(ANNA, FOOTFALL, 1, path, purpose=Purpose.REPAIR)) == b"PAR1"
    with pytest.raises(NotFoundError):
        world.datasets.open_file(ANNA, FOOTFALL, 1, "../footfall/" + path, purpose=Purpose.REPAIR)
    with pytest.raises(NotFoundError):
        world.datasets.open_file(PAUL, FOOTFALL, 1, path, purpose=Purpose.REPAIR)


def test_a_link_in_a_table_leads_nowhere(world: World) -> None:
    folder = world.tables / "mobility" / "footfall"
    folder.mkdir(parents=True)
    (world.tables / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(world.tables / "secret")
    with pytest.raises(NotFoundError):
        LocalTables(world.tables).read(ANNA.acting_tenant(), FOOTFALL, "link")


def test_a_withdrawn_version_gives_the_head_back(world: World) -> None:
    world.ingest("footfall", contract={})
    world.ingest("footfall", contract={"checks": [{"rows": {"min": 1}}]})
    assert world.datasets.get(ANNA, FOOTFALL).head == 2
    assert world.datasets.deprecate(ANNA, FOOTFALL, 2, now=NOW).state is VersionState.DEPRECATED
    assert world.datasets.deprecate(ANNA, FOOTFALL, 2, now=NOW).state is VersionState.DEPRECATED
    assert world.datasets.get(ANNA, FOOTFALL).head == 1
    assert [r.action for r in world.store.audit_rows()].count("dataset.deprecate") == 1


def test_another_tenants_dataset_does_not_exist(world: World) -> None:
    world.ingest("footfall")
    with pytest.raises(NotFoundError):
        world.datasets.get(PAUL, FOOTFALL)
    with pytest.raises(NotFoundError):
        world.datasets.version(PAUL, FOOTFALL, 1)
    with pytest.raises(NotFoundError):
        world.datasets.deprecate(PAUL, FOOTFALL, 1, now=NOW)
    assert world.datasets.list(PAUL).items == ()


def test_datasets_are_listed_in_pages(world: World) -> None:
    for name in ("c", "a", "b"):
        world.register(name)
    first = world.datasets.list(ANNA, limit=2)
    assert [d.name for d in first.items] == ["a", "b"]
    assert [d.name for d in world.datasets.list(ANNA, cursor=first.next_cursor).items] == ["c"]


def test_an_input_shows_its_manifest_to_the_attempt_that_reads_it(world: World) -> None:
    version = world.ingest("footfall")
    spec = command(inputs={"x": {"dataset": "footfall"}})
    attempt = world.start(world.jobs.submit(ANNA, spec, now=NOW).job.id)
    reply = world.datasets.input(attempt, "x")
    assert (reply.version_id, reply.number, reply.manifest.rows) == (VersionId(version), 1, 10)
    assert reply.location == (world.tables / "mobility" / "footfall").resolve().as_uri()
    with pytest.raises(NotFoundError, match="no input 'y'"):
        world.datasets.input(attempt, "y")


# --- publishing (ADR 7) ---------------------------------------------------------------------------------------------


def _left_validated(world: World) -> tuple[VersionId, JobId]:
    """Cancel an ingest job between verdict and publication; return the version and the job that shall publish it."""
    version = world.register("footfall")
    attempt = world.start(version.job or "")
    world.judge(attempt)
    world.jobs.cancel(ANNA, version.job or JobId(""), now=NOW)
    world.end(attempt, EndReason.CANCELLED)
    publisher = world.version_of(version.id).publisher
    assert publisher is not None
    return version.id, publisher


def test_a_validated_version_whose_job_was_cancelled_is_published_by_another_job(world: World) -> None:
    version, publisher = _left_validated(world)
    left = world.version_of(version)
    assert left.state is VersionState.VALIDATED
    assert left.message.endswith(f"; job {publisher} publishes it")

    attempt = world.start(publisher)
    staged = world.datasets.stage(attempt, StageRequest(output=""), now=NOW)
    assert (staged.version_id, staged.state, staged.manifest) == (version, VersionState.VALIDATED, left.manifest)
    world.publish(attempt, version)
    world.end(attempt)

    done = world.version_of(version)
    assert (done.state, done.message) == (VersionState.PUBLISHED, "")
    assert done.job == left.job != publisher  # lineage names the job that made it
    assert world.datasets.get(ANNA, FOOTFALL).head == 1
    assert world.store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()


@pytest.mark.parametrize("reason", [EndReason.COMPLETED, EndReason.TIMED_OUT, EndReason.USER_ERROR])
def test_what_a_job_wrote_and_judged_is_published_however_the_job_ended(world: World, reason: EndReason) -> None:
    spec = command(outputs={"x": {"dataset": "footfall", "contract": SERIES}}, priority="high")
    made = world.jobs.submit(ANNA, spec, now=NOW).job
    attempt = world.start(made.id)
    version = world.judge(attempt, "x")
    world.end(attempt, reason)

    (publish,) = world.store.read(lambda tx: tx.open_jobs(PLATFORM))
    assert publish.id == world.version_of(version).publisher
    assert (publish.tenant, publish.spec.queue, publish.spec.priority) == (
        made.tenant,
        made.spec.queue,
        made.spec.priority,
    )
    world.publish(world.start(publish.id), version)
    assert world.version_of(version).state is VersionState.PUBLISHED
    assert world.jobs.view(ANNA, made.id, now=NOW).datasets == ("footfall@1",)


def test_a_publish_job_is_tried_again_whatever_ended_it(world: World) -> None:
    version, publisher = _left_validated(world)
    for reason in (EndReason.USER_ERROR, EndReason.OUT_OF_MEMORY, EndReason.WORKER_LOST):
        assert not world.end(world.start(publisher), reason).is_terminal
    world.publish(world.start(publisher), version)
    assert world.version_of(version).state is VersionState.PUBLISHED


def test_a_publish_job_that_gave_up_leaves_the_version_to_the_next_registration(world: World) -> None:
    version, publisher = _left_validated(world)
    world.jobs.cancel(ANNA, publisher, now=NOW)
    left = world.version_of(version)
    assert (left.state, left.publisher) == (VersionState.VALIDATED, publisher)
    assert "is published when the dataset is next registered or written" in left.message
    assert world.store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()  # cancelled is cancelled: no loop

    assert world.register("footfall").id == version  # the same request again
    second = world.version_of(version).publisher
    assert second not in (None, publisher)
    world.register("footfall", {})  # another version, while the publish job is open: no third one
    assert world.version_of(version).publisher == second
    world.publish(world.start(second or ""), version)
    assert world.version_of(version).state is VersionState.PUBLISHED


def test_a_publish_job_that_gave_up_leaves_the_version_to_the_next_job_that_writes(world: World) -> None:
    version, publisher = _left_validated(world)
    world.jobs.cancel(ANNA, publisher, now=NOW)
    spec = command(outputs={"x": {"dataset": "footfall"}})
    attempt = world.start(world.jobs.submit(ANNA, spec, now=NOW).job.id)
    world.datasets.stage(attempt, StageRequest(output="x"), now=NOW)
    assert world.version_of(version).publisher not in (None, publisher)


def test_a_publish_job_acts_on_its_own_version_only(world: World) -> None:
    _, publisher = _left_validated(world)
    other = world.register("other")
    world.judge(world.start(other.job or ""))
    attempt = world.start(publisher)
    with pytest.raises(NotFoundError):
        world.publish(attempt, other.id)
    assert world.version_of(other.id).state is VersionState.VALIDATED


def test_the_head_is_the_last_version_in_the_tables_order_not_the_greatest_number(world: World) -> None:
    first, second = world.register("footfall"), world.register("footfall", {})
    attempts = [world.start(v.job or "") for v in (first, second)]
    for attempt in attempts:
        world.judge(attempt)
    world.publish(attempts[1], second.id, delta_version=1)
    assert world.datasets.get(ANNA, FOOTFALL).head == 2
    world.publish(attempts[0], first.id, delta_version=2)
    assert world.datasets.get(ANNA, FOOTFALL).head == 1


def test_the_head_does_not_depend_on_who_reports_first(world: World) -> None:
    first, second = world.register("footfall"), world.register("footfall", {})
    attempts = [world.start(v.job or "") for v in (first, second)]
    for attempt in attempts:
        world.judge(attempt)
    world.publish(attempts[0], first.id, delta_version=2)
    world.publish(attempts[1], second.id, delta_version=1)
    assert world.datasets.get(ANNA, FOOTFALL).head == 1


def test_publications_of_one_dataset_meet_at_its_row_also_when_the_head_stays(world: World) -> None:
    first, second = world.register("footfall"), world.register("footfall", {})
    attempts = [world.start(v.job or "") for v in (first, second)]
    for attempt in attempts:
        world.judge(attempt)
    world.publish(attempts[0], first.id, delta_version=2)
    before = world.store.read(lambda tx: tx.datasets(PLATFORM))
    world.publish(attempts[1], second.id, delta_version=1)
    after = world.store.read(lambda tx: tx.datasets(PLATFORM))
    # the row's guard has moved: a transaction that withdrew the head meanwhile is stale and looks again
    assert [(d.head, d.version) for d in after] == [(d.head, d.version + 1) for d in before]
