"""kill -9 of each part at a random moment while a job runs: one success, a whole log, nothing left.

Real pids of a running `factory up`. The moments come from a seed that is printed, so that a failure can be repeated.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable

import pytest

import factory as sdk
from factory import errors
from factory.domain.jobs import LIVE_ATTEMPT_STATES, TERMINAL_STATES, JobState
from factory.runner.ray_process import NAMESPACE
from factory.sdk.jobs import JobHandle
from factory.settings import Settings
from tests.e2e.conftest import Factory, until

PARTS = ("server", "runner", "agent", "gcs", "haproxy", "mlflow", "replica")
TICKS = 12


def count_slowly(ticks: int) -> int:
    """Print one line per tick beside a child that left the session and outlives it, if it may.

    Imported by the worker from the bundle, so it names no test helper. What the worker sets in its own environment is
    not in /proc; of the child it is, so that the attempt's mark can be seen from outside.
    """
    import subprocess
    import time

    subprocess.Popen(["sleep", "600"], start_new_session=True)
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


@pytest.fixture
def moment() -> Callable[[], None]:
    """Let a random while of at most two seconds pass."""
    seed = random.SystemRandom().randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    return lambda: time.sleep(chance.uniform(0.0, 2.0))


def _wait_until_it_runs(factory: Factory, job: JobHandle) -> None:
    until(lambda: job.refresh().state is JobState.RUNNING, 60, f"it does not start: {job.view}")
    attempt = job.view.attempts[-1].id
    until(lambda: attempt in factory.attempts_on_this_machine(), 20, "its child is not to be seen")


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
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
    mine = [attempt.id for attempt in job.refresh().attempts]
    assert factory.claims(mine[-1]), "nobody has served the attempt that ended well"

    def is_gone() -> bool:
        served = [claim for attempt in mine for claim in factory.claims(attempt)]
        return not any(c.is_alive for c in served) and not factory.attempts_on_this_machine().intersection(mine)

    until(is_gone, 30, "a process of an ended attempt lives on")


@pytest.mark.parametrize("part", PARTS)
def test_a_job_survives_the_death_of(
    part: str, factory: Factory, submit: Callable[..., JobHandle], moment: Callable[[], None]
) -> None:
    job = submit()
    _wait_until_it_runs(factory, job)
    moment()
    if part == "replica":
        _kill(claim.pid for claim in factory.claims(job.view.attempts[-1].id))
    else:
        _kill([factory.pid_of(part)])
    _check_ended_once(job)
    _check_endpoint_answers(factory)
    _check_nothing_is_left(factory, job)


def test_a_job_survives_the_death_of_everything_at_once(
    factory: Factory, submit: Callable[..., JobHandle], moment: Callable[[], None]
) -> None:
    job = submit()
    _wait_until_it_runs(factory, job)
    moment()
    _kill(factory.pids())
    _check_ended_once(job)
    _check_endpoint_answers(factory)
    _check_nothing_is_left(factory, job)


def test_the_next_factory_up_adopts_what_a_killed_one_left(factory: Factory, submit: Callable[..., JobHandle]) -> None:
    job = submit()
    _wait_until_it_runs(factory, job)
    before = factory.pid_of("server")
    assert factory.process is not None
    factory.process.kill()
    factory.process.wait()
    factory.start()
    assert factory.pid_of("server") == before
    _check_ended_once(job)
    assert len(job.view.attempts) == 1
    _check_nothing_is_left(factory, job)


def test_ctrl_c_queues_live_attempts_again_and_the_next_start_finds_everything(
    factory: Factory, submit: Callable[..., JobHandle]
) -> None:
    before = {d.name: d.last for d in factory.client.datasets.list()}
    job = submit(48, grace_s=1)  # twelve seconds: longer than its grace
    _wait_until_it_runs(factory, job)
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
    _check_nothing_is_left(factory, job)


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


def test_nothing_is_left_on_ray_after_all_of_it(factory: Factory) -> None:
    """Last of this file: what Ray holds is what is desired now, and no more."""
    _check_endpoint_answers(factory)
    warm_per_node = Settings.model_fields["warm_per_node"].default
    seen: dict[str, object] = {}

    def is_as_desired() -> bool:
        jobs = [job for job in factory.client.jobs.list(limit=200) if job.state not in TERMINAL_STATES]
        live = [attempt.id for job in jobs for attempt in job.attempts if attempt.state in LIVE_ATTEMPT_STATES]
        serving = {f"replica:{claim.node}:{claim.replica}" for attempt in live for claim in factory.claims(attempt)}
        ray = factory.on_ray()
        agents = {f"agent:{node}" for node in ray.nodes}
        names = {name for _, name in ray.actors}
        warm = names - serving - agents
        seen.update(ray=ray, live=live, serving=serving, warm=warm)
        return (
            {namespace for namespace, _ in ray.actors} == {NAMESPACE}
            and agents | serving <= names
            and len(serving) == len(live) >= 1  # the endpoint's, at least
            and all(name.startswith("replica:") for name in warm)
            and len(warm) == warm_per_node * len(agents) >= 1
        )

    until(is_as_desired, 30, lambda: f"Ray holds something else than is desired: {seen}")
