"""The export that a replay starts from: who waited or ran in a period, since when, and how long slots were held."""

from __future__ import annotations

import pytest

from factory.domain.events import AttemptEnded, Queued
from factory.domain.ids import AttemptId, JobId
from factory.domain.jobs import EndReason, Job, Outcome
from factory.errors import ForbiddenError
from factory.jobs.history import LOOK_BACK_MS, HistoryService
from factory.schemas.history import HistoryJob
from factory.simulation.recorded import fleet_of, period_of
from factory.simulation.replay import replay

from .world import ANNA, NOW, ROOT, World, command


def history(world: World, since: int = NOW, until: int = NOW + 1000, now: int = NOW) -> dict[str, HistoryJob]:
    service, found = HistoryService(world.store), list[HistoryJob]()
    before: JobId | None = None
    while True:
        page = service.jobs(ROOT, since=since, until=until, before=before, limit=2, now=now)
        found += page.items
        if page.next_cursor is None:
            assert len({job.id for job in found}) == len(found)
            return {job.id: job for job in found}
        before = JobId(page.next_cursor)


def end(world: World, attempt: AttemptId, at: int, reason: EndReason = EndReason.COMPLETED) -> Job:
    return world.step(attempt.rpartition(".")[0], lambda _: AttemptEnded(at, attempt, Outcome(reason), "report"))


def test_every_job_of_the_period_is_there_once_whatever_the_pages(world: World) -> None:
    ids = [world.jobs.submit(ANNA, command(), now=NOW + i).job.id for i in range(5)]
    assert set(history(world)) == set(ids)
    assert set(history(world, since=NOW + 10, until=NOW + 20)) == set(ids), "they still wait"
    assert set(history(world, until=NOW + 2)) == set(ids[:2])


def test_what_had_ended_before_is_not_there_and_what_is_open_from_long_ago_is(world: World) -> None:
    ended = world.jobs.submit(ANNA, command(), now=NOW).job
    end(world, world.start(ended.id), NOW + 5)
    old = world.jobs.submit(ANNA, command(), now=NOW).job
    later = NOW + LOOK_BACK_MS + 100
    new = world.jobs.submit(ANNA, command(), now=later).job
    assert set(history(world, since=later, until=later + 10)) == {old.id, new.id}


def test_attempts_that_were_cut_short_do_not_count_as_its_length(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    end(world, world.start(job.id), NOW + 700, EndReason.NODE_LOST)
    end(world, world.start(job.id), NOW + 90)
    (told,) = history(world).values()
    assert (told.held_ms, told.started_at, told.withdrawn_at) == (90, NOW, None)


def test_one_that_still_runs_is_taken_for_half_done(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    world.start(job.id)
    assert history(world, now=NOW + 300)[job.id].held_ms == 600
    declared = world.jobs.submit(ANNA, command(estimate_s=3600), now=NOW).job
    world.start(declared.id)
    assert history(world, now=NOW + 300)[declared.id].held_ms == 3_600_000


def test_one_that_waited_for_another_queued_when_that_was_over(world: World) -> None:
    first = world.jobs.submit(ANNA, command(), now=NOW).job
    second = world.jobs.submit(ANNA, command(after=(first.id,)), now=NOW).job
    assert set(history(world)) == {first.id}, "it has not waited for slots yet"
    world.step(second.id, lambda _: Queued(NOW + 40))
    assert history(world)[second.id].queued_at == NOW + 40


def test_one_withdrawn_while_it_waited_says_when(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    world.jobs.cancel(ANNA, job.id, now=NOW + 60)
    assert (history(world)[job.id].withdrawn_at, history(world)[job.id].held_ms) == (NOW + 60, None)


def test_the_export_is_what_a_replay_needs(world: World) -> None:
    ids = [world.jobs.submit(ANNA, command(cpu=2), now=NOW + i).job.id for i in range(3)]
    for id in ids:
        end(world, world.start(id), NOW + 600)
    fleet = fleet_of(HistoryService(world.store).fleet(ROOT))
    outcome = replay(period_of(history(world).values(), NOW, NOW + 1000), fleet)
    assert (outcome.ended, outcome.all.jobs) == (2, 3), "the third waits for the first, and ends after the period"
    assert outcome.all.p99_ms == 600 - 2


def test_the_export_is_for_the_platform(world: World) -> None:
    service = HistoryService(world.store)
    with pytest.raises(ForbiddenError):
        service.jobs(ANNA, since=NOW, until=NOW + 1, before=None, limit=10, now=NOW)
    with pytest.raises(ForbiddenError):
        service.fleet(ANNA)
