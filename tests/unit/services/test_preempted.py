"""Whom a preempted attempt made room for: the job's id to its own department, no name of any other."""

from __future__ import annotations

from factory.domain.events import PreemptRequested
from factory.domain.ids import JobId
from factory.domain.jobs import Job

from .world import ANNA, NOW, PAUL, ROOT, World, command


def preempt(world: World, victim: Job, by: Job) -> None:
    live = world.jobs.get(ROOT, victim.id).live_attempt
    assert live is not None
    world.step(victim.id, lambda _: PreemptRequested(NOW, live.id, by.id, 1))


def told(world: World, job: JobId) -> list[str]:
    return [attempt.preempted_for for attempt in world.jobs.view(ANNA, job, now=NOW).attempts]


def test_a_job_of_the_own_department_is_named(world: World) -> None:
    victim, other = (world.jobs.submit(ANNA, command(cpu=1), now=NOW).job for _ in range(2))
    world.start(victim.id)
    assert told(world, victim.id) == [""]
    preempt(world, victim, other)
    assert told(world, victim.id) == [other.id]


def test_a_foreign_job_is_another_department_and_named_to_the_platform_only(world: World) -> None:
    victim = world.jobs.submit(ANNA, command(cpu=1), now=NOW).job
    foreign = world.jobs.submit(PAUL, command(cpu=1), now=NOW).job
    world.start(victim.id)
    preempt(world, victim, foreign)
    assert told(world, victim.id) == ["another department"]
    assert [a.preempted_for for a in world.jobs.view(ROOT, victim.id, now=NOW).attempts] == [foreign.id]


def test_a_suspended_job_made_room_for_nobody(world: World) -> None:
    job = world.jobs.submit(ANNA, command(cpu=1), now=NOW).job
    world.start(job.id)
    world.jobs.suspend(ANNA, job.id, now=NOW)
    assert told(world, job.id) == [""]
