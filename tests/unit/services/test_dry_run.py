"""The dry run: what would come of a job, with nothing stored."""

from __future__ import annotations

import pytest

from factory.domain.ids import QueueName
from factory.domain.jobs import PriorityClass, WaitReason
from factory.domain.tenancy import PLATFORM
from factory.errors import InvalidRequestError, UnknownPoolError
from factory.jobs.dry_run import Forecast
from factory.jobs.views import plan_view
from factory.schemas.jobs import JobSpec
from factory.schemas.platform import QueueRequest
from factory.testing.builders import allocation, pool, spec

from .world import ANNA, NOW, PAUL, ROOT, VIEWER, World, command


def test_a_job_that_fits_would_start_now_and_nothing_is_stored(world: World) -> None:
    view = world.jobs.plan(VIEWER, command(cpu=2, replicas=2, estimate_s=1800), now=NOW)
    assert (view.feasible, view.expected_start, view.waiting) == (True, NOW, None)
    assert (view.pool, view.flavor, view.replicas, {p.node for p in view.placements}) == ("cpu", "cpu", 2, {"n1"})
    assert (view.slots, view.slot_hours, view.preempts, view.preempts_others) == (4, 2, (), 0)
    assert "would start now in pool 'cpu'" in view.message
    assert world.store.read(lambda tx: tx.open_jobs(PLATFORM)) == ()


def test_it_goes_as_the_same_submit_would_go(world: World) -> None:
    asked = command(cpu=3)
    foreseen = world.jobs.plan(ANNA, asked, now=NOW)
    assert world.jobs.plan(ANNA, asked, now=NOW) == foreseen
    job = world.jobs.submit(ANNA, asked, now=NOW).job
    assert foreseen.placements[0].cpu == job.spec.resources.cpu_milli / 1000


def test_a_job_that_would_wait_says_why(world: World) -> None:
    running = world.jobs.submit(ANNA, command(cpu=4), now=NOW).job
    world.start(running.id)
    view = world.jobs.plan(ANNA, command(cpu=4), now=NOW)
    assert (view.feasible, view.pool, view.placements, view.slots) == (True, None, (), 4)
    assert view.waiting is not None
    assert view.waiting.reason is WaitReason.GANG_DOES_NOT_FIT
    assert view.slot_hours is None


def test_a_higher_priority_would_go_before_those_that_wait(world: World) -> None:
    world.jobs.submit(ANNA, command(cpu=4), now=NOW)
    assert world.jobs.plan(ANNA, command(cpu=4), now=NOW).waiting is not None
    assert world.jobs.plan(ANNA, command(cpu=4, priority=PriorityClass.HIGH), now=NOW).pool == "cpu"


def test_what_could_never_run_is_an_answer_and_what_is_wrong_is_refused(world: World) -> None:
    view = world.jobs.plan(ANNA, command(cpu=5), now=NOW)
    assert (view.feasible, view.expected_start) == (False, None)
    assert view.waiting is not None
    assert "could never run here" in view.message
    with pytest.raises(UnknownPoolError):
        world.jobs.plan(ANNA, command(pool="cpus"), now=NOW)


def test_what_it_waits_for_before_slots_goes_first(world: World) -> None:
    first = world.jobs.submit(ANNA, command(), now=NOW).job
    view = world.jobs.plan(ANNA, command(after=(first.id,)), now=NOW)
    assert view.waiting is not None
    assert (view.waiting.reason, view.pool, view.expected_start) == (WaitReason.DEPENDENCY_PENDING, None, None)


def test_code_need_not_be_uploaded(world: World) -> None:
    function = {"module": "m", "qualname": "f", "bundle": "sha256:" + "0" * 64}
    asked = JobSpec.model_validate({"name": "f", "memory": 0, "function": function})
    assert world.jobs.plan(ANNA, asked, now=NOW).feasible
    with pytest.raises(InvalidRequestError, match="has not been uploaded"):
        world.jobs.submit(ANNA, asked, now=NOW)


def test_what_was_lent_would_come_back_and_whom_it_stops_is_counted(world: World) -> None:
    for name in ("mobility", "parks"):
        quota = {"pool": "cpu", "nominal": 2, "borrowing": 2}
        request = QueueRequest.model_validate({"tenant": name, "quotas": [quota]})
        world.tenants.put_queue(ROOT, QueueName(name), request, now=NOW)
    theirs = [world.jobs.submit(PAUL, command(cpu=1), now=NOW).job.id for _ in range(4)]
    for id in theirs:
        world.start(id)
    later = NOW + 3_600_000
    view = world.jobs.plan(ANNA, command(cpu=2), now=later)
    assert (view.feasible, view.preempts, view.preempts_others, view.pool) == (True, (), 2, "cpu")
    assert view.waiting is not None
    assert view.waiting.reason is WaitReason.WAITING_FOR_PREEMPTION
    assert view.expected_start == later + 10_000, "when the grace of those that it stops is over"
    assert not any(id in view.model_dump_json() for id in theirs)
    own = world.jobs.plan(PAUL, command(cpu=1, priority=PriorityClass.HIGH), now=later)
    assert set(own.preempts) <= set(theirs)


def test_jobs_of_others_that_it_would_stop_are_counted_not_named() -> None:
    asked = spec(cpu=1, replicas=2)
    ids = ("job-a", "job-b", "job-c")
    held = allocation(["n1"], pool=pool())
    found = Forecast(True, None, held, ids, NOW, held.slots_milli)  # pyright: ignore[reportArgumentType]
    view = plan_view(asked, found, hold=None, flavor="cpu", own={"job-b"})  # pyright: ignore[reportArgumentType]
    assert (view.preempts, view.preempts_others, view.replicas) == (("job-b",), 2, 1)
    assert "with 1 of 2 replicas" in view.message
    assert "job-a" not in view.model_dump_json()
