"""kill -9 of each part at a random moment while a job runs: one success, a whole log, nothing left.

Real pids of a running `factory up`. The moments come from a seed that is printed, so that a failure can be repeated.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

import factory as sdk
from factory import errors
from factory.domain.jobs import JobState
from factory.sdk.jobs import JobHandle
from tests.e2e.conftest import Factory, until

PARTS = ("server", "runner", "agent", "gcs", "haproxy", "mlflow", "replica")
TICKS = 12


def count_slowly(ticks: int) -> int:
    """Print one line per tick; imported by the worker from the bundle, so it names no test helper."""
    import time

    for tick in range(ticks):
        print(f"tick {tick}", flush=True)
        time.sleep(0.25)
    return ticks


@pytest.fixture
def submit(factory: Factory) -> Callable[..., JobHandle]:
    """Submit `count_slowly` on this factory."""

    def go(ticks: int = TICKS, **options: object) -> JobHandle:
        wanted = {"client": factory.client, "cpu": 0.5, "memory": "256MiB", "name": "counter", **options}
        return sdk.job(**wanted)(count_slowly).submit(ticks)

    return go


def _kill(factory: Factory, *parts: str) -> None:
    for pid in [factory.pid_of(part) for part in parts]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _check_ended_once(job: JobHandle, ticks: int = TICKS) -> None:
    view = job.wait(150)
    assert view.state is JobState.SUCCEEDED, view.outcome
    assert view.result == ticks
    ends = [event for event in job.events() if event.type == "AttemptEnded"]
    completed = [e for e in ends if e.detail["outcome"]["reason"] == "Completed"]
    assert len(completed) == 1
    last = view.attempts[-1].id

    def is_whole() -> bool:
        lines = [line for line in job.log_text(attempt=last).splitlines() if line.startswith("tick ")]
        return lines == [f"tick {n}" for n in range(ticks)]

    until(is_whole, 20, f"the log of {last} is not whole:\n{job.log_text(attempt=last)}")


def _check_endpoint_answers(factory: Factory) -> None:
    history = [[10.0] * 672]
    asked = {"history": history, "sensor": ["45 Queen Street"], "start": ["2026-01-01T00:00:00"]}

    def answers() -> bool:
        try:
            return len(factory.client.endpoints.predict("footfall", asked)["forecast"][0]) == 24
        except (errors.UnavailableError, errors.NotFoundError):
            return False

    until(answers, 120, "the endpoint does not answer again")


def _check_nothing_is_left(factory: Factory, job: JobHandle) -> None:
    mine = {attempt.id for attempt in job.view.attempts}
    until(lambda: not mine & factory.attempts_on_this_machine(), 30, "a process of an ended attempt lives on")


@pytest.mark.parametrize("part", PARTS)
def test_a_job_survives_the_death_of(part: str, factory: Factory, submit: Callable[..., JobHandle]) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print("seed", seed)
    job = submit()
    until(lambda: job.refresh().state is JobState.RUNNING, 60, f"it does not start: {job.view}")
    time.sleep(random.Random(seed).uniform(0.0, 2.0))
    _kill(factory, part)
    _check_ended_once(job)
    _check_endpoint_answers(factory)
    _check_nothing_is_left(factory, job)


def test_a_job_survives_the_death_of_everything_at_once(factory: Factory, submit: Callable[..., JobHandle]) -> None:
    job = submit()
    until(lambda: job.refresh().state is JobState.RUNNING, 60)
    for pid in factory.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _check_ended_once(job)
    _check_endpoint_answers(factory)
    _check_nothing_is_left(factory, job)


def test_the_next_factory_up_adopts_what_a_killed_one_left(factory: Factory, submit: Callable[..., JobHandle]) -> None:
    job = submit()
    until(lambda: job.refresh().state is JobState.RUNNING, 60)
    before = factory.pid_of("server")
    assert factory.process is not None
    factory.process.kill()
    factory.process.wait()
    factory.start()
    assert factory.pid_of("server") == before
    _check_ended_once(job)
    assert len(job.view.attempts) == 1


def test_ctrl_c_queues_live_attempts_again_and_the_next_start_finds_everything(
    factory: Factory, submit: Callable[..., JobHandle]
) -> None:
    before = {d.name: d.last for d in factory.client.datasets.list()}
    job = submit(48, grace_s=1)  # twelve seconds: longer than its grace
    until(lambda: job.refresh().state is JobState.RUNNING, 60)
    factory.stop()
    assert factory.pids() == []
    factory.start()
    assert {d.name: d.last for d in factory.client.datasets.list()} == before
    job = factory.client.jobs.get(job.id)
    _check_ended_once(job, 48)
    first = job.view.attempts[0]
    assert first.outcome is not None
    assert first.outcome.reason.value == "FactoryStopped"
    assert job.view.retries == 0
    _check_endpoint_answers(factory)


def test_the_control_plane_is_ready_five_seconds_after_kill_9(factory: Factory) -> None:
    import httpx

    old = factory.pid_of("server")
    os.kill(old, signal.SIGKILL)
    began = time.monotonic()

    def is_ready() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{factory.admin.profile.url}/readyz", trust_env=False).status_code == 200
        return False

    until(lambda: factory.pid_of("server") != old and is_ready(), 20)
    assert time.monotonic() - began <= 5.0
