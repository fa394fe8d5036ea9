"""Three departments on one running factory: one borrows, another takes back, and everybody is told why.

The first test goes through a morning from the outside, by keys of the three; the others look at it from the side.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from factory.cli.processes import instance_id, kill_marked
from factory.domain.jobs import EndReason, JobState, WaitReason
from factory.schemas.jobs import WaitingView
from factory.sdk.client import Client
from factory.sdk.jobs import JobHandle
from factory.sdk.profile import Profile, write_profile
from tests.e2e.conftest import Factory, until

MIN_RUNTIME_S = 8
# The first attempt works until it is told to stop, and then needs a moment; the next one is done at once.
PATIENT = (
    'case "$FACTORY_ATTEMPT" in *.1) ;; *) echo resumed; exit 0;; esac; '
    'trap "sleep 2; exit 1" TERM; echo working; sleep 600 & wait'
)
DEPARTMENTS = ("mobility", "water", "parks")


@dataclass(frozen=True)
class City:
    """A factory of three CPU slots: one for each department; mobility and water are under one roof."""

    factory: Factory
    clients: dict[str, Client]

    def submit(self, department: str, name: str, script: str, **fields: object) -> JobHandle:
        wanted = {"cpu": 1, "memory": "128MiB", "grace_s": 10, **fields}
        return self.clients[department].jobs.submit(name=name, command={"argv": ["sh", "-c", script]}, **wanted)

    def cli(self, department: str, *words: str) -> str:
        env = {**os.environ, "FACTORY_PROFILE": str(self.factory.folder / f"{department}.json"), "COLUMNS": "80"}
        argv = [sys.executable, "-m", "factory.cli.main", *words]
        done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
        return done.stdout


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[City]:
    factory = Factory(tmp_path_factory.mktemp("city"), ("--cpus", "3"), {"FACTORY_MIN_RUNTIME_S": str(MIN_RUNTIME_S)})
    factory.start()
    try:
        yield City(factory, _departments(factory))
    finally:
        factory.stop()
        kill_marked(instance_id(factory.folder))


def _departments(factory: Factory) -> dict[str, Client]:
    admin, clients = factory.admin, {}
    for name in DEPARTMENTS:
        admin.tenants.create(name)
        secret = admin.keys.create("operator", tenant=name).secret
        write_profile(Profile(admin.profile.url, secret), factory.folder / f"{name}.json")
        clients[name] = Client(admin.profile.url, secret)
    admin.queues.set("infrastructure", tenant="default")
    for name, parent in zip(DEPARTMENTS, ("infrastructure", "infrastructure", None), strict=True):
        quota = {"pool": "cpu", "nominal": 1, "borrowing": 2}
        admin.queues.set(name, tenant=name, parent=parent, quotas=[quota])
    return clients


def told(job: JobHandle, *reasons: WaitReason, patience_s: float = 20) -> WaitingView:
    """Wait until the job is told one of these reasons; return it."""
    last: list[WaitingView] = []

    def is_told() -> bool:
        why = job.explain().waiting
        last[:] = [why] if why is not None else []
        return why is not None and why.reason in reasons

    until(is_told, patience_s, lambda: f"{job.id} was never told {reasons}: {last}, {job.refresh().state}")
    return last[0]


def in_state(job: JobHandle, state: JobState) -> Callable[[], bool]:
    return lambda: job.refresh().state is state


def test_what_is_lent_is_borrowed_reclaimed_from_a_running_job_and_everybody_is_told(city: City) -> None:
    # mobility uses its slot and borrows water's; parks uses its own
    borrowers = [city.submit("mobility", f"train-{n}", PATIENT) for n in range(2)]
    own = city.submit("parks", "count", "sleep 600")
    for job in (*borrowers, own):
        until(in_state(job, JobState.RUNNING), 60, lambda job=job: f"{job.refresh()}")
    # water asks beforehand: it is told what is lent, or once they have run their minimum, that one of them would go
    asked = {"name": "flood", "cpu": 1, "memory": "128MiB", "command": {"argv": ["true"]}}
    foreseen = city.clients["water"].jobs.plan(**asked)
    assert (foreseen.feasible, foreseen.preempts) == (True, ())
    assert foreseen.preempts_others == 1 or "1 of its quota lent to other departments" in foreseen.message

    standing = city.cli("mobility", "queues", "show", "mobility")
    assert "borrow" in standing.lower()

    # one more of parks finds the pool full, and is told so with numbers; it takes nothing back: it has its due
    third = city.submit("parks", "more", "echo parks")
    why = told(third, WaitReason.WAITING_FOR_QUOTA, WaitReason.GANG_DOES_NOT_FIT)
    assert "1" in why.message
    assert why.numbers
    assert "mobility" not in city.cli("parks", "jobs", "explain", third.id)

    # then water wants its slot: the loop wakes when the first of the two has run its minimum
    owner = city.submit("water", "flood", "sleep 8; echo water")
    waits = told(owner, WaitReason.WAITING_FOR_PREEMPTION, WaitReason.WAITING_FOR_QUOTA, WaitReason.GANG_DOES_NOT_FIT)
    assert waits.message
    told(owner, WaitReason.WAITING_FOR_PREEMPTION)
    until(lambda: any(job.refresh().attempts[0].stopping for job in borrowers), 30)
    (victim,) = [job for job in borrowers if job.view.attempts[0].stopping is EndReason.PREEMPTED]
    (spared,) = [job for job in borrowers if job is not victim]

    # the victim had run its minimum, is queued again uncounted, and is not told whose job it was
    until(in_state(owner, JobState.RUNNING), 40, lambda: f"{owner.refresh()}\n{victim.refresh()}")
    first = victim.refresh().attempts[0]
    assert first.outcome is not None
    assert (first.outcome.reason, first.preempted_for) == (EndReason.PREEMPTED, "another department")
    assert first.running_at is not None
    assert first.ended_at is not None
    assert first.ended_at - first.running_at >= MIN_RUNTIME_S * 1000
    assert (victim.view.state, victim.view.retries, len(victim.view.attempts)) == (JobState.QUEUED, 0, 1)
    assert told(victim, WaitReason.WAITING_FOR_QUOTA, WaitReason.GANG_DOES_NOT_FIT, WaitReason.HELD_BY_RESERVATION)
    planned = city.cli("mobility", "jobs", "plan", "--cpu", "1", "--", "true")
    assert "feasible  yes" in planned
    assert "held by other queues" in " ".join(planned.split())
    shown = city.cli("mobility", "jobs", "show", victim.id)
    assert "attempt 1 made room for another department" in shown
    assert owner.id not in shown
    assert (spared.refresh().state, third.refresh().state) == (JobState.RUNNING, JobState.QUEUED)

    # when water is done, what is free is lent again, and the victim runs to its end
    assert owner.wait(60).state is JobState.SUCCEEDED
    assert victim.wait(60).state is JobState.SUCCEEDED
    assert "resumed" in victim.log_text()
    assert [attempt.outcome.reason for attempt in victim.view.attempts if attempt.outcome] == [
        EndReason.PREEMPTED,
        EndReason.COMPLETED,
    ]
    assert third.wait(60).state is JobState.SUCCEEDED
    assert len(spared.refresh().attempts) == 1
    for job in (spared, own):
        job.cancel()
        assert job.wait(60).state is JobState.CANCELLED


def test_a_gang_that_may_start_smaller_starts_and_knows_its_size(city: City) -> None:
    script = 'echo "rank $FACTORY_RANK of $FACTORY_REPLICAS, world $WORLD_SIZE"'
    gang = city.submit("parks", "gang", script, replicas=8, min_replicas=2)
    assert gang.wait(60).state is JobState.SUCCEEDED
    size = len(gang.view.attempts[0].placements)
    assert 2 <= size <= 3
    lines = sorted(line for line in gang.log_text().splitlines() if line.startswith("rank"))
    assert lines == [f"rank {rank} of {size}, world {size}" for rank in range(size)]


def test_the_morning_is_in_the_events(city: City) -> None:
    (victim,) = [
        job for job in city.clients["mobility"].jobs.list() if any(attempt.ordinal == 2 for attempt in job.attempts)
    ]
    types = [event.type for event in city.clients["mobility"].jobs.get(victim.id).events()]
    assert types.count("PreemptRequested") == 1
    assert types.index("PreemptRequested") < types.index("AttemptEnded")
    assert types.count("Admitted") == 2
