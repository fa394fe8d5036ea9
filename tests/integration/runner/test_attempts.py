"""Attempts on a real Ray under the real control plane."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import factory
from factory.domain.jobs import EndReason, JobState
from factory.sdk.jobs import JobHandle
from factory.worker.context import JobContext
from factory.worker.folders import start_ticks
from tests.integration.runner.conftest import Fleet, until


@factory.job(cpu=0.5, memory="256MiB")
def look_around(ctx: JobContext, word: str) -> dict[str, object]:
    ctx.progress(0.5, "half way")
    ctx.log(f"said {word}")
    return {"word": word, "seed": ctx.seed, "threads": ctx.threads, "environ": dict(os.environ), "cwd": os.getcwd()}


@factory.job(cpu=0.5, memory="256MiB", grace_s=20)
def work_until_told(ctx: JobContext) -> str:
    ctx.log("working")
    while not ctx.should_stop:
        time.sleep(0.02)
    return "put down in order"


@factory.job(cpu=0.5, memory="256MiB")
def start_a_task_on_ray() -> None:
    import ray

    ray.remote(print)


def is_running(job: JobHandle) -> bool:
    return job.refresh().state is JobState.RUNNING


def test_a_function_gets_its_context_threads_seed_and_no_gpu(fleet: Fleet) -> None:
    job = look_around.with_options(client=fleet.client, seed=7, env={"MINE": "1"}).submit(word="tūī")
    job.wait(60)
    result = job.result()
    environ = result["environ"]

    assert (result["word"], result["seed"], result["threads"]) == ("tūī", 7, 1)
    assert environ["CUDA_VISIBLE_DEVICES"] == ""
    assert (environ["OMP_NUM_THREADS"], environ["MINE"]) == ("1", "1")
    assert environ["FACTORY_ATTEMPT"] == job.view.attempts[-1].id
    assert "RAY_AUTH_TOKEN_PATH" not in environ
    assert Path(result["cwd"]).name == "work"
    assert job.view.progress is not None
    assert (job.view.progress.fraction, job.view.progress.message) == (0.5, "half way")
    assert job.log_text() == "said tūī\n"


def test_a_warm_replica_starts_a_job_in_a_fraction_of_a_second(fleet: Fleet) -> None:
    took: list[float] = []
    for _ in range(3):
        until(fleet.has_warm_replica)
        began = time.time()
        job = fleet.command("date", "+%s.%N")
        job.wait(60)
        took.append(float(job.log_text()) - began)

    assert min(took) < 0.3, took


def test_every_rank_of_a_gang_runs_and_knows_the_others(fleet: Fleet) -> None:
    job = fleet.command("sh", "-c", "echo $RANK/$WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT", replicas=2)

    assert job.wait(60).state is JobState.SUCCEEDED
    lines = sorted(line for line in job.log_text().splitlines() if "/2 at" in line)
    assert [line[:3] for line in lines] == ["0/2", "1/2"]
    assert len({line.partition("at")[2] for line in lines}) == 1


def test_one_rank_that_fails_ends_its_gang(fleet: Fleet) -> None:
    job = fleet.command("sh", "-c", '[ "$RANK" = 1 ] && exit 5; sleep 60', replicas=2)
    outcome = job.wait(60).outcome

    assert outcome is not None
    assert (outcome.reason, outcome.exit_code, outcome.rank) == (EndReason.USER_ERROR, 5, 1)


def test_a_job_that_is_told_to_stop_in_time_ends_in_order(fleet: Fleet) -> None:
    job = work_until_told.with_options(client=fleet.client).submit()
    until(lambda: is_running(job))

    job.cancel()
    view = job.wait(15)

    assert view.state is JobState.CANCELLED
    assert view.attempts[-1].outcome is not None
    assert view.attempts[-1].outcome.reason is EndReason.COMPLETED  # it returned, long before its grace was over


def test_a_command_that_ignores_sigterm_is_killed_when_its_grace_is_over(fleet: Fleet) -> None:
    job = fleet.command("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done", grace_s=1)
    until(lambda: is_running(job) and job.log_text())
    pid = int(job.log_text())

    job.cancel()

    assert job.wait(20).state is JobState.CANCELLED
    assert start_ticks(pid) is None


def test_nested_ray_work_is_refused_with_a_hint(fleet: Fleet) -> None:
    outcome = start_a_task_on_ray.with_options(client=fleet.client).submit().wait(60).outcome

    assert outcome is not None
    assert outcome.reason is EndReason.USER_ERROR
    assert "ray = none" in outcome.message
    assert ".map()" in outcome.hint


def test_a_killed_agent_comes_back_and_the_log_is_whole(fleet: Fleet) -> None:
    job = fleet.command("sh", "-c", "for i in $(seq 1 60); do echo line $i; sleep 0.05; done")
    until(lambda: is_running(job))
    pid = fleet.agent_pid()

    os.kill(pid, signal.SIGKILL)
    view = job.wait(60)

    assert view.state is JobState.SUCCEEDED
    assert len(view.attempts) == 1
    assert job.log_text().splitlines() == [f"line {i}" for i in range(1, 61)]
    until(lambda: fleet.agent_pid() != pid)


def test_a_killed_runner_is_followed_by_one_that_adopts_the_running_attempt(fleet: Fleet) -> None:
    job = fleet.command("sh", "-c", "echo begun; while [ ! -e ../go ]; do sleep 0.05; done; echo done")
    until(lambda: is_running(job))
    attempt = job.view.attempts[-1].id

    fleet.processes["runner"].kill()
    fleet.processes["runner"].wait()
    fleet.start_runner()
    (fleet.node() / "attempts" / attempt / "0" / "go").touch()
    view = job.wait(60)

    assert view.state is JobState.SUCCEEDED
    assert [a.id for a in view.attempts] == [attempt]
    assert job.log_text() == "begun\ndone\n"


def test_an_orderly_stop_ends_attempts_as_factory_stopped_and_the_next_runner_tries_again(fleet: Fleet) -> None:
    flag = fleet.folder / "go"
    job = fleet.command("sh", "-c", f"while [ ! -e {flag} ]; do sleep 0.05; done", retry={"max_retries": 0})
    until(lambda: is_running(job))

    fleet.processes["runner"].terminate()
    assert fleet.processes["runner"].wait(20) == 0
    first = job.refresh().attempts[0]
    flag.touch()
    fleet.start_runner()
    view = job.wait(60)

    assert first.outcome is not None
    assert first.outcome.reason is EndReason.FACTORY_STOPPED
    assert view.state is JobState.SUCCEEDED
    assert (len(view.attempts), view.retries) == (2, 0)


def test_a_second_runner_process_makes_the_first_one_end(fleet: Fleet) -> None:
    first = fleet.processes["runner"]
    fleet.start_runner()

    assert first.wait(60) == 3
    assert fleet.command("true").wait(60).state is JobState.SUCCEEDED


def test_no_secret_is_on_a_command_line_in_a_log_or_in_a_file_of_an_attempt(fleet: Fleet) -> None:
    job = fleet.command("sleep", "60", grace_s=0)
    until(lambda: is_running(job))
    key = (fleet.run / "runner.key").read_bytes().strip()
    ray_token = fleet.token.read_bytes().strip()
    secrets = (b"fat_", key, ray_token)

    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
    files = [*fleet.folder.glob("*.log"), *(p for p in fleet.node().rglob("*.json") if "look" not in p.name)]
    found = [path for path in files if path.is_file() and any(s in path.read_bytes() for s in secrets)]
    job.cancel()
    job.wait(30)

    assert not any(secret in line for secret in secrets for line in lines)
    # a function may return its own environment, token included: that is its own doing
    assert [p for p in found if p.name != "outcome.json"] == []
    orders = list(fleet.node().glob("attempts/*/*/order.json"))
    assert orders
    assert all(json.loads(path.read_text())["token"] == "" for path in orders)


def test_the_runners_key_is_not_in_what_ray_keeps_of_the_agents(fleet: Fleet) -> None:
    key = (fleet.run / "runner.key").read_bytes().strip()
    url = f"http://127.0.0.1:{fleet.api_port}".encode()
    held = [(key in region, url in region) for region in fleet.gcs_memory()]

    assert any(has_url for _, has_url in held), "an agent's arguments are not to be seen at all"
    assert not any(has_key for has_key, _ in held)


def test_nothing_stays_behind_when_the_jobs_are_over(fleet: Fleet) -> None:
    job = fleet.command("sh", "-c", "setsid sleep 300 & echo $!; exit 0")
    assert job.wait(60).state is JobState.SUCCEEDED
    pid = int(job.log_text())

    until(lambda: start_ticks(pid) is None)
    # of all replicas that served an attempt nothing is shown any more; what is left is warm
    until(lambda: not fleet.served_replicas())
