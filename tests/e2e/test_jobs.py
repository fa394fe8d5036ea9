"""Jobs on a real factory: functions, programs, errors with their cause, maps, cancel, what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import factory as sdk
from factory import errors
from factory.domain.jobs import JobState
from factory.sdk.jobs import JobHandle
from tests.e2e.conftest import Factory, until


def double(x: int) -> int:
    return 2 * x


def fail_on_purpose() -> None:
    print("about to fail")
    raise ValueError("the river gauge reads -7 cm")


def leave_a_child_behind() -> str:
    import os
    import subprocess
    import sys

    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    return os.environ["FACTORY_ATTEMPT"]


def sleep_long() -> None:
    import time

    print("asleep", flush=True)
    time.sleep(600)


def eat_memory() -> int:
    held = []
    for _ in range(60):
        held.append(bytearray(os.urandom(1 << 20)) * 20)
    return len(held)


@pytest.fixture
def run(factory: Factory) -> Callable[..., JobHandle]:
    def go(function: Callable[..., object], *args: object, **options: object) -> JobHandle:
        wanted = {"client": factory.client, "cpu": 0.25, "memory": "256MiB", **options}
        return sdk.job(**wanted)(function).submit(*args)

    return go


def test_a_function_runs_and_returns(run: Callable[..., JobHandle]) -> None:
    assert run(double, 21).result(60) == 42


def test_a_map_gives_every_result_in_order(factory: Factory) -> None:
    wish = sdk.job(client=factory.client, cpu=0.25, memory="256MiB")(double)
    assert wish.map(range(5)).results(120) == [0, 2, 4, 6, 8]


def test_an_exception_is_the_users_and_its_tail_is_in_the_answer(run: Callable[..., JobHandle]) -> None:
    job = run(fail_on_purpose)
    with pytest.raises(errors.JobFailedError, match="the river gauge reads -7 cm") as caught:
        job.result(60)
    assert caught.value.reason == "UserError"
    assert caught.value.fault_domain == "user"
    assert "fail_on_purpose" in caught.value.tail
    assert len(job.view.attempts) == 1


def test_a_killed_worker_is_infrastructure_and_is_retried(factory: Factory, run: Callable[..., JobHandle]) -> None:
    job = run(sleep_long, retry={"max_retries": 1})
    until(lambda: "asleep" in job.log_text(), 60)
    first = job.refresh().attempts[0].id
    killed = [pid for pid in factory.pids() if _serves(factory, pid, first)]
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(job.refresh().attempts) == 2, 60)
    outcome = job.view.attempts[0].outcome
    assert outcome is not None
    assert (outcome.reason.value, outcome.fault_domain.value) == ("WorkerLost", "infrastructure")
    job.cancel()
    assert job.wait(60).state is JobState.CANCELLED


def _serves(factory: Factory, pid: int, attempt: str) -> bool:
    """True if the process has a file of the attempt's folder open: its log."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return any(attempt in os.readlink(fd) for fd in folder.iterdir()) and "ReplicaActor" in (
            Path(f"/proc/{pid}/cmdline").read_text()
        )
    except OSError:
        return False


def test_a_job_over_its_memory_limit_is_out_of_memory_which_is_infrastructure_and_is_retried(
    run: Callable[..., JobHandle],
) -> None:
    job = run(eat_memory, memory="384MiB", retry={"max_retries": 1})
    with pytest.raises(errors.JobFailedError) as caught:
        job.result(90)
    assert (caught.value.reason, caught.value.fault_domain) == ("OutOfMemory", "infrastructure")
    ends = [attempt.outcome.reason.value for attempt in job.view.attempts if attempt.outcome is not None]
    assert ends == ["OutOfMemory", "OutOfMemory"]
    assert job.view.retries == 1


def test_a_child_that_left_its_session_is_swept(factory: Factory, run: Callable[..., JobHandle]) -> None:
    attempt = run(leave_a_child_behind).result(60)
    until(lambda: attempt not in factory.attempts_on_this_machine(), 20, "the child lives on")


def test_a_cancelled_job_ends_cancelled_and_gives_its_slots_back(run: Callable[..., JobHandle]) -> None:
    job = run(sleep_long, grace_s=1)
    until(lambda: job.refresh().state is JobState.RUNNING, 60)
    assert job.cancel().state is JobState.CANCELLING
    assert job.wait(30).state is JobState.CANCELLED


def test_a_program_runs_from_the_command_line_and_its_exit_code_is_the_outcome(
    factory: Factory, tmp_path: Path
) -> None:
    (tmp_path / "hello.py").write_text("import sys\nprint('hello from', sys.argv[1])\nsys.exit(int(sys.argv[2]))\n")
    base = [sys.executable, "-m", "factory.cli.main", "jobs", "submit", "--wait", "--cpu", "0.25", "--memory", "256MiB"]
    env = {**os.environ, "FACTORY_PROFILE": str(factory.folder / "mobility.json")}
    good = subprocess.run(
        [*base, "--folder", str(tmp_path), "--", "python", "hello.py", "the river", "0"],
        capture_output=True, text=True, env=env, timeout=120,
    )  # fmt: skip
    assert good.returncode == 0, good.stderr
    assert "hello from the river" in good.stdout
    bad = subprocess.run(
        [*base, "--folder", str(tmp_path), "--retries", "0", "--", "python", "hello.py", "x", "3"],
        capture_output=True, text=True, env=env, timeout=120,
    )  # fmt: skip
    assert bad.returncode == 1
    assert "UserError" in bad.stdout


def test_what_can_never_run_is_refused_with_a_hint_and_nothing_is_stored(factory: Factory) -> None:
    client, before = factory.client, factory.client.status().jobs
    wrong = [
        ({"pool": "cpuu"}, errors.UnknownPoolError, "cpu"),
        ({"cpu": 5000.0}, errors.InfeasibleError, "5000|5,000"),
        ({"cpu": 1.0, "replicas": 900}, errors.InfeasibleError, "900"),
        ({"inputs": {"x": {"dataset": "no-such", "version": 1}}}, errors.NotFoundError, "no-such"),
        ({"ray": "tasks"}, errors.UnsupportedError, "ray"),
    ]
    for fields, kind, text in wrong:
        with pytest.raises(kind, match=text) as caught:
            client.jobs.submit(name="wrong", command={"argv": ["true"]}, **fields)
        assert caught.value.hint
    assert client.status().jobs == before
