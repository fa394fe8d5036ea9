"""Submit: what is accepted, what is refused with nothing stored, and one key for one job."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from factory.domain.datasets import VersionState
from factory.domain.events import PreemptRequested
from factory.domain.ids import DatasetName, JobId, TenantId
from factory.domain.jobs import EndReason, JobState, WaitReason
from factory.domain.tenancy import PLATFORM
from factory.errors import (
    ConflictError,
    DatasetGateError,
    FactoryError,
    ForbiddenError,
    IdempotencyConflictError,
    IllegalTransitionError,
    InfeasibleError,
    InvalidRequestError,
    NotFoundError,
    UnknownPoolError,
    UnknownQueueError,
    UnsupportedError,
)
from factory.jobs.bundles import Bundles
from factory.jobs.ports import JobFilter
from factory.schemas.jobs import BatchItem, JobSpec
from factory.testing.builders import pool

from .world import ANNA, NOW, PAUL, ROOT, VIEWER, World, command, training

CODE = b"print('hello')"
DIGEST = "sha256:3c8a6e2e1d5c3b0d5f6c7e8a90123456789abcdef0123456789abcdef0123456"


def open_jobs(world: World) -> int:
    return len(world.store.read(lambda tx: tx.open_jobs(PLATFORM)))


def test_a_job_is_queued_in_the_tenants_own_queue(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    assert (job.state, job.tenant, job.spec.queue, job.submitted_by) == (
        JobState.QUEUED,
        "mobility",
        "mobility",
        "anna",
    )
    assert world.jobs.get(ANNA, job.id) == job


def test_amounts_become_integers(world: World) -> None:
    asked = command(cpu=0.25, memory="512MiB", gpu=0)
    job = world.jobs.submit(ANNA, asked, now=NOW).job
    assert (job.spec.resources.cpu_milli, job.spec.resources.memory_bytes) == (250, 512 << 20)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"pool": "cpus"}, UnknownPoolError, "did you mean 'cpu'"),
        ({"queue": "mobilty"}, UnknownQueueError, "did you mean 'mobility'"),
        ({"queue": "parks"}, UnknownQueueError, "that you may submit to"),
        ({"cpu": 5}, InfeasibleError, "could hold at most 0"),
        ({"cpu": 2, "replicas": 3}, InfeasibleError, "could hold at most 2"),
        ({"gpu": 1}, InfeasibleError, "pool 'cpu' offers"),
        ({"ray": "tasks"}, UnsupportedError, "ray='tasks'"),
        ({"inputs": {"x": {"dataset": "footfall"}}}, NotFoundError, "no dataset 'footfall'"),
        ({"after": ("job-9999",)}, NotFoundError, "no job 'job-9999'"),
        ({"env": {"FACTORY_KEY": "x"}}, InvalidRequestError, "belong to the factory"),
        (
            {"outputs": {"x": {"dataset": "d", "contract": {"chekcs": []}}}},
            InvalidRequestError,
            "did you mean 'checks'",
        ),
        (
            {"outputs": {"x": {"dataset": "d"}, "y": {"dataset": "d"}}},
            InvalidRequestError,
            "two outputs write dataset 'd'",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_nothing_stored(
    world: World, fields: dict[str, Any], error: type[FactoryError], says: str
) -> None:
    with pytest.raises(error, match=says) as refusal:
        world.jobs.submit(ANNA, command(**fields), idempotency_key="k", now=NOW)
    assert refusal.value.hint
    assert open_jobs(world) == 0
    assert not world.jobs.submit(ANNA, command(), idempotency_key="k", now=NOW).replayed, "the key must be free"


def test_a_pool_of_another_tenant_does_not_exist(world: World) -> None:
    world.store.transact(lambda tx: tx.put_pool(pool("parks-own", tenant="parks")))
    with pytest.raises(UnknownPoolError) as refusal:
        world.jobs.submit(ANNA, command(pool="parks-own"), now=NOW)
    assert refusal.value.facts["known"] == ["cpu"]


def test_before_any_pool_has_joined_a_job_waits(world: World) -> None:
    world.store.transact(lambda tx: tx.delete_pool(PLATFORM, pool().name))
    assert world.jobs.submit(ANNA, command(gpu=8), now=NOW).job.state is JobState.QUEUED


def test_a_viewer_may_not_submit(world: World) -> None:
    with pytest.raises(ForbiddenError, match="viewer"):
        world.jobs.submit(VIEWER, command(), now=NOW)


def test_a_platform_key_names_the_tenant_it_acts_in(world: World) -> None:
    with pytest.raises(InvalidRequestError, match="names none") as refusal:
        world.jobs.submit(ROOT, command(), now=NOW)
    assert "X-Factory-Tenant" in refusal.value.hint


# --- code -------------------------------------------------------------------------------------------------------------


def test_code_must_have_been_uploaded_by_the_tenant(world: World) -> None:
    digest = f"sha256:{hashlib.sha256(CODE).hexdigest()}"
    asked = JobSpec.model_validate(
        {"name": "f", "memory": 0, "function": {"module": "m", "qualname": "f", "bundle": digest}}
    )
    Bundles(world.objects).put(TenantId("parks"), digest, (CODE,))
    with pytest.raises(InvalidRequestError, match="has not been uploaded") as refusal:
        world.jobs.submit(ANNA, asked, now=NOW)
    assert f"PUT /api/v1/bundles/{digest}" in refusal.value.hint
    assert Bundles(world.objects).put(TenantId("mobility"), digest, (CODE,)) is True
    assert world.jobs.submit(ANNA, asked, now=NOW).job.state is JobState.QUEUED


def test_code_under_a_wrong_digest_is_not_stored(world: World) -> None:
    bundles = Bundles(world.objects)
    with pytest.raises(InvalidRequestError, match="has the digest"):
        bundles.put(TenantId("mobility"), DIGEST, (CODE,))
    assert bundles.has(TenantId("mobility"), (DIGEST,)) == frozenset()


def test_arguments_keep_their_order_and_must_be_json(world: World) -> None:
    digest = f"sha256:{hashlib.sha256(CODE).hexdigest()}"
    Bundles(world.objects).put(TenantId("mobility"), digest, (CODE,))

    def asked(value: object) -> JobSpec:
        function = {"pickled": digest, "args": [value]}
        return JobSpec.model_validate({"name": "f", "memory": 0, "function": function})

    entry = world.jobs.submit(ANNA, asked({"z": 1, "a": 2}), now=NOW).job.spec.entry
    assert getattr(entry, "arguments_json") == '{"args":[{"z":1,"a":2}],"kwargs":{}}'  # noqa: B009
    with pytest.raises(InvalidRequestError, match="NaN"):
        world.jobs.submit(ANNA, asked(float("nan")), now=NOW)


# --- idempotency and batches ------------------------------------------------------------------------------------------


def test_the_same_key_and_body_answers_the_first_job(world: World) -> None:
    first = world.jobs.submit(ANNA, command(), idempotency_key="k", now=NOW)
    again = world.jobs.submit(ANNA, command(), idempotency_key="k", now=NOW + 1)
    assert (first.replayed, again.replayed, again.job) == (False, True, first.job)
    assert open_jobs(world) == 1


def test_the_same_key_with_another_body_is_a_conflict(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), idempotency_key="k", now=NOW).job
    with pytest.raises(IdempotencyConflictError, match=job.id):
        world.jobs.submit(ANNA, command(seed=1), idempotency_key="k", now=NOW)
    assert open_jobs(world) == 1


def test_a_key_belongs_to_who_used_it(world: World) -> None:
    world.jobs.submit(ANNA, command(), idempotency_key="k", now=NOW)
    assert not world.jobs.submit(PAUL, command(seed=1), idempotency_key="k", now=NOW).replayed


def test_a_batch_is_accepted_whole_in_order(world: World) -> None:
    items = [BatchItem(key=f"k{i}", spec=command(name=f"job-{i}")) for i in range(5)]
    made = world.jobs.submit_batch(ANNA, items, now=NOW)
    assert [s.job.spec.name for s in made] == [f"job-{i}" for i in range(5)]
    again = world.jobs.submit_batch(ANNA, items, now=NOW)
    assert [s.job for s in again] == [s.job for s in made]
    assert all(s.replayed for s in again)


def test_one_bad_item_refuses_the_batch_and_is_named(world: World) -> None:
    items = [BatchItem(key=f"k{i}", spec=command(cpu=99 if i == 3 else 1)) for i in range(5)]
    with pytest.raises(InfeasibleError) as refusal:
        world.jobs.submit_batch(ANNA, items, now=NOW)
    assert refusal.value.facts["item"] == 3
    assert open_jobs(world) == 0


# --- inputs, gates, dependencies --------------------------------------------------------------------------------------


def test_an_input_is_pinned_to_the_latest_published_version(world: World) -> None:
    world.ingest("footfall", contract={"checks": [{"rows": {"min": 1}}]})
    world.ingest("footfall", contract={"checks": [{"rows": {"min": 2}}]})
    world.ingest("footfall", backward=3)  # number 3 is quarantined
    job = world.jobs.submit(ANNA, command(inputs={"x": {"dataset": "footfall"}}), now=NOW).job
    assert [(i.dataset, i.version) for i in job.spec.inputs] == [("footfall", 2)]
    assert world.jobs.view(ANNA, job.id, now=NOW).inputs == {"x": "footfall@2"}


def test_a_quarantined_version_is_refused_with_its_checks_and_the_way_out(world: World) -> None:
    world.ingest("footfall-raw", backward=2558)
    with pytest.raises(DatasetGateError, match="footfall-raw@1 is quarantined: 1 check failed") as refusal:
        world.jobs.submit(ANNA, training(data="footfall-raw"), now=NOW)
    assert "purpose=repair" in refusal.value.hint
    (check,) = refusal.value.facts["checks"]  # pyright: ignore[reportGeneralTypeIssues]
    assert (check["id"], check["value"], check["threshold"]) == ("order", 2558, "<= 0")
    assert open_jobs(world) == 0


def test_a_quarantined_version_is_read_for_repair_by_a_job_that_writes_a_dataset(world: World) -> None:
    world.ingest("footfall-raw", backward=1)
    reads = {"raw": {"dataset": "footfall-raw", "purpose": "repair"}}
    job = world.jobs.submit(ANNA, command(inputs=reads, outputs={"clean": {"dataset": "footfall"}}), now=NOW).job
    assert job.state is JobState.QUEUED
    with pytest.raises(InvalidRequestError, match="must write a dataset"):
        world.jobs.submit(ANNA, command(inputs=reads), now=NOW)


def test_no_algorithm_trains_for_repair(world: World) -> None:
    world.ingest("footfall")
    reads = {"data": {"dataset": "footfall", "purpose": "repair"}}
    with pytest.raises(InvalidRequestError, match="not for algorithms"):
        world.jobs.submit(ANNA, training(inputs=reads, outputs={"x": {"dataset": "y"}}), now=NOW)


def test_a_job_on_a_staged_version_is_accepted_and_held(world: World) -> None:
    world.register("footfall")
    job = world.jobs.submit(ANNA, command(inputs={"x": {"dataset": "footfall"}}), now=NOW).job
    assert job.state is JobState.PENDING
    assert job.hold is not None
    assert job.hold.reason is WaitReason.DEPENDENCY_PENDING
    assert "footfall@1 is staged" in job.hold.message


def test_a_failed_or_withdrawn_version_is_refused(world: World) -> None:
    version = world.register("broken")
    world.end(world.start(version.job or ""), EndReason.USER_ERROR, "no table")
    assert world.version_of(version.id).state is VersionState.FAILED
    with pytest.raises(DatasetGateError, match=r"could not be ingested.*no table"):
        world.jobs.submit(ANNA, command(inputs={"x": {"dataset": "broken"}}), now=NOW)
    world.ingest("old")
    world.datasets.deprecate(ANNA, DatasetName("old"), 1, now=NOW)
    with pytest.raises(DatasetGateError, match="was withdrawn"):
        world.jobs.submit(ANNA, command(inputs={"x": {"dataset": "old"}}), now=NOW)


def test_a_dataset_of_another_tenant_does_not_exist(world: World) -> None:
    world.ingest("footfall")
    with pytest.raises(NotFoundError) as refusal:
        world.jobs.submit(PAUL, command(inputs={"x": {"dataset": "footfall"}}), now=NOW)
    assert "mobility" not in str(refusal.value)


def test_personal_data_stays_on_a_pool_of_the_tenants_own(world: World) -> None:
    personal = {"class": "personal"}
    asked: dict[str, Any] = {"outputs": {"x": {"dataset": "people", "contract": personal}}}
    with pytest.raises(InvalidRequestError, match="class 'personal'"):
        world.jobs.submit(ANNA, command(pool="cpu", **asked), now=NOW)
    world.store.transact(lambda tx: tx.put_pool(pool("own", tenant="mobility")))
    assert world.jobs.submit(ANNA, command(pool="own", **asked), now=NOW).job.spec.pool == "own"
    ingest = world.register("people", personal)
    assert world.jobs.get(ANNA, JobId(ingest.job or "")).spec.pool == "own"


def test_a_job_waits_for_those_before_it(world: World) -> None:
    first = world.jobs.submit(ANNA, command(), now=NOW).job
    second = world.jobs.submit(ANNA, command(after=(first.id,)), now=NOW).job
    assert second.hold is not None
    assert second.hold.numbers == (("job", first.id), ("state", "queued"))
    world.end(world.start(first.id))
    assert world.jobs.submit(ANNA, command(after=(first.id,)), now=NOW).job.state is JobState.QUEUED


def test_a_job_after_one_that_failed_is_refused(world: World) -> None:
    first = world.jobs.submit(ANNA, command(), now=NOW).job
    world.jobs.cancel(ANNA, first.id, now=NOW)
    with pytest.raises(InvalidRequestError, match="would never start"):
        world.jobs.submit(ANNA, command(after=(first.id,)), now=NOW)


@pytest.mark.parametrize(
    ("algorithm", "error", "says"),
    [
        ({"name": "series-forcast"}, NotFoundError, "did you mean 'series-forecast'"),
        ({"name": "series-forecast", "params": {"epoch": 3}}, InvalidRequestError, "no parameter 'epoch'"),
        ({"name": "series-forecast", "version": "9.0.0"}, NotFoundError, "9.0.0"),
        ({"name": "series-forecast", "model": "m@1"}, InvalidRequestError, "takes no `model`"),
        ({"name": "series-forecast", "operation": "predict"}, InvalidRequestError, "needs a `model`"),
        ({"name": "series-forecast", "operation": "predict", "model": "m"}, InvalidRequestError, "names no model"),
        ({"name": "series-forecast", "operation": "predict", "model": "m@1"}, NotFoundError, "no model 'm'"),
    ],
)
def test_a_wrong_algorithm_is_refused(
    world: World, algorithm: dict[str, Any], error: type[FactoryError], says: str
) -> None:
    world.ingest("footfall")
    with pytest.raises(error, match=says):
        world.jobs.submit(ANNA, training(algorithm=algorithm), now=NOW)


def test_an_algorithm_says_which_inputs_it_has(world: World) -> None:
    world.ingest("footfall")
    with pytest.raises(InvalidRequestError, match="has no input 'dta'; did you mean 'data'"):
        world.jobs.submit(ANNA, training(inputs={"dta": {"dataset": "footfall"}}), now=NOW)
    with pytest.raises(InvalidRequestError, match="needs the input 'data'"):
        world.jobs.submit(ANNA, training(inputs={}), now=NOW)
    world.ingest("plain", contract={})
    with pytest.raises(InvalidRequestError, match="has no `series`"):
        world.jobs.submit(ANNA, training(data="plain"), now=NOW)


# --- cancel, suspend, fence -------------------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once_and_for_good(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    done = world.jobs.cancel(ANNA, job.id, reason="wrong data", now=NOW)
    assert done.state is JobState.CANCELLED
    assert world.jobs.cancel(ANNA, job.id, now=NOW) == done
    assert "wrong data" in (world.jobs.view(ANNA, job.id, now=NOW).outcome or pytest.fail("no outcome")).message


def test_a_running_job_is_cancelling_until_it_is_proven_dead(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    attempt = world.start(job.id)
    assert world.jobs.cancel(ANNA, job.id, now=NOW).state is JobState.CANCELLING
    assert world.end(attempt).state is JobState.CANCELLED


def test_a_job_that_succeeded_cannot_be_cancelled(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    world.end(world.start(job.id))
    with pytest.raises(ConflictError, match="already succeeded"):
        world.jobs.cancel(ANNA, job.id, now=NOW)


def test_another_tenants_job_does_not_exist(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    for call in (
        lambda: world.jobs.get(PAUL, job.id),
        lambda: world.jobs.view(PAUL, job.id, now=NOW),
        lambda: world.jobs.events(PAUL, job.id),
        lambda: world.jobs.explain(PAUL, job.id, now=NOW),
        lambda: world.jobs.cancel(PAUL, job.id, now=NOW),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert world.jobs.list(PAUL, JobFilter()).items == ()


def test_a_suspended_job_goes_on_when_it_is_resumed(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    assert world.jobs.suspend(ANNA, job.id, now=NOW).state is JobState.SUSPENDED
    assert world.jobs.resume(ANNA, job.id, now=NOW).state is JobState.PENDING
    with pytest.raises(IllegalTransitionError):
        world.jobs.resume(ANNA, job.id, now=NOW)


def test_cancelling_an_ingest_fails_its_version(world: World) -> None:
    version = world.register("footfall")
    world.jobs.cancel(ANNA, JobId(version.job or ""), now=NOW)
    failed = world.version_of(version.id)
    assert failed.state is VersionState.FAILED
    assert "cancelled by anna" in failed.message


def test_fencing_a_node_ends_its_attempts_and_is_audited(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    attempt = world.start(job.id)
    node_id = job_node(world, attempt)
    with pytest.raises(ForbiddenError):
        world.jobs.fence_node(ANNA, node_id, reason="burnt", now=NOW)
    with pytest.raises(InvalidRequestError, match="needs a reason"):
        world.jobs.fence_node(ROOT, node_id, reason=" ", now=NOW)
    (moved,) = world.jobs.fence_node(ROOT, node_id, reason="burnt down", now=NOW)
    assert moved.state is JobState.QUEUED, "a lost node is retried"
    assert (moved.attempts[0].proof, moved.attempts[0].outcome and moved.attempts[0].outcome.reason.value) == (
        "fenced",
        "NodeLost",
    )
    assert [row.action for row in world.store.audit_rows()][-1] == "node.fence"


def job_node(world: World, attempt: Any) -> Any:
    return world.jobs.live_attempt(attempt).attempt.allocation.placements[0].node


# --- look -------------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_in_pages(world: World) -> None:
    made = [world.jobs.submit(ANNA, command(name=f"j{i}"), now=NOW + i).job.id for i in range(5)]
    first = world.jobs.list(ANNA, JobFilter(limit=2))
    assert [v.id for v in first.items] == [made[4], made[3]]
    second = world.jobs.list(ANNA, JobFilter(limit=3, before=JobId(first.next_cursor or "")))
    assert [v.id for v in second.items] == [made[2], made[1], made[0]]
    assert second.next_cursor is None


def test_a_view_says_why_a_queued_job_waits(world: World) -> None:
    for _ in range(4):
        world.start(world.jobs.submit(ANNA, command(), now=NOW).job.id)
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    view = world.jobs.view(ANNA, job.id, now=NOW)
    assert view.waiting is not None
    assert view.waiting.reason is WaitReason.GANG_DOES_NOT_FIT
    told = world.jobs.explain(ANNA, job.id, now=NOW)
    assert (told.position, told.queue_length, told.used_slots) == (1, 1, 4.0)
    assert "GangDoesNotFit" in told.message


def test_events_are_numbered_and_hide_another_tenants_job(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    attempt = world.start(job.id)
    world.step(job.id, lambda _: PreemptRequested(NOW, attempt, JobId("job-of-parks"), 1))
    events = world.jobs.events(ANNA, job.id)
    assert [(e.seq, e.type) for e in events] == [
        (1, "Submitted"),
        (2, "Admitted"),
        (3, "AttemptRunning"),
        (4, "PreemptRequested"),
    ]
    assert events[0].detail["spec"]["entry"] == {"type": "CommandEntry", "argv": ["true"], "bundle": None}
    assert "by" not in events[3].detail
    assert world.jobs.events(ROOT, job.id)[3].detail["by"] == "job-of-parks"
    assert [e.seq for e in world.jobs.events(ANNA, job.id, after=2)] == [3, 4]
