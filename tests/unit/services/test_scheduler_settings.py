"""What an operator sets of the scheduler reaches all who ask it: loop, explanations and dry runs are of one mind."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.bootstrap import assemble, policy_of
from factory.domain.ids import QueueName
from factory.domain.jobs import WaitReason
from factory.jobs.service import JobService
from factory.scheduling.planning import Policy
from factory.schemas.platform import QueueRequest
from factory.settings import Settings

from .world import ANNA, NOW, PAUL, ROOT, World, command


def test_the_environment_sets_the_schedulers_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert policy_of(Settings()) == Policy()
    for name, value in (("MIN_RUNTIME_S", "7"), ("MAX_PREEMPTIONS", "0"), ("MAX_VICTIMS", "3")):
        monkeypatch.setenv(f"FACTORY_{name}", value)
    monkeypatch.setenv("FACTORY_PREEMPTS_FOR_SHARE", "false")
    wanted = Policy(min_runtime_s=7, max_preemptions=0, max_victims=3, preempts_for_share=False)
    assert policy_of(Settings()) == wanted
    monkeypatch.setenv("FACTORY_MIN_RUNTIME_S", "")
    assert policy_of(Settings()).min_runtime_s is None


def test_loop_jobs_and_queues_get_one_policy(tmp_path: Path) -> None:
    plane = assemble(Settings(data=tmp_path, min_runtime_s=7))
    try:
        policies = [plane.loop._settings.policy, plane.jobs._policy, plane.tenants._policy]
        assert policies == [Policy(min_runtime_s=7)] * 3
    finally:
        plane.close()


@pytest.mark.parametrize(
    ("most", "reason"), [(None, WaitReason.WAITING_FOR_PREEMPTION), (0, WaitReason.GANG_DOES_NOT_FIT)]
)
def test_explanation_and_dry_run_go_by_the_policy(world: World, most: int | None, reason: WaitReason) -> None:
    for name in ("mobility", "parks"):
        quota = {"pool": "cpu", "nominal": 2, "borrowing": 2}
        request = QueueRequest.model_validate({"tenant": name, "quotas": [quota]})
        world.tenants.put_queue(ROOT, QueueName(name), request, now=NOW)
    for _ in range(4):
        world.start(world.jobs.submit(PAUL, command(cpu=1), now=NOW).job.id)
    base, later = world.jobs, NOW + 3_600_000
    jobs = JobService(
        world.store,
        ids=base._ids,
        bundles=base._bundles,
        catalogue=base._catalogue,
        policy=Policy(max_preemptions=most),
    )
    foreseen = jobs.plan(ANNA, command(cpu=2), now=later)
    assert foreseen.waiting is not None
    assert foreseen.waiting.reason is reason
    told = jobs.explain(ANNA, jobs.submit(ANNA, command(cpu=2), now=later).job.id, now=later)
    assert told.waiting is not None
    assert told.waiting.reason is reason
