"""Many who ask why their jobs wait are answered from one plan."""

from __future__ import annotations

import pytest

from factory.domain.jobs import PriorityClass, WaitReason
from factory.jobs import explanations
from factory.scheduling.planning import Planning, Policy
from factory.scheduling.snapshot import Snapshot

from .world import ANNA, NOW, World, command


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """When a plan was made for explanations."""
    made: list[int] = []

    def counted(snapshot: Snapshot, now: int, policy: Policy | None = None) -> Planning:
        made.append(now)
        return real(snapshot, now, policy)

    real = explanations.planned
    monkeypatch.setattr(explanations, "planned", counted)
    return made


def test_one_plan_answers_all_for_a_short_while(world: World, plans: list[int]) -> None:
    world.start(world.jobs.submit(ANNA, command(cpu=4), now=NOW).job.id)
    jobs = [world.jobs.submit(ANNA, command(cpu=4), now=NOW).job for _ in range(3)]
    for job in jobs:
        waiting = world.jobs.view(ANNA, job.id, now=NOW + 1000).waiting
        assert waiting is not None
        assert waiting.reason is WaitReason.GANG_DOES_NOT_FIT
    assert plans == [NOW + 1000]
    world.jobs.view(ANNA, jobs[0].id, now=NOW + 1000 + explanations.FRESH_MS)
    assert plans == [NOW + 1000, NOW + 1000 + explanations.FRESH_MS]


def test_a_job_that_changed_since_is_looked_at_anew(world: World, plans: list[int]) -> None:
    first, second = (world.jobs.submit(ANNA, command(cpu=4), now=NOW).job for _ in range(2))
    assert world.jobs.view(ANNA, first.id, now=NOW).waiting is not None
    world.jobs.set_priority(ANNA, second.id, PriorityClass.HIGH, now=NOW)
    changed = world.jobs.view(ANNA, second.id, now=NOW).waiting
    assert changed is not None
    assert "fits pool 'cpu' now" in changed.message
    assert plans == [NOW, NOW]
